"""The Crucible recipes, their configs and manifests."""
