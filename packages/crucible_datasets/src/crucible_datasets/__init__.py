"""Local datasets for Crucible: files, field mappings, seeded order, splits, digests."""
