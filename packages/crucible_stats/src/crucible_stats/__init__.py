"""Statistics of comparison for Crucible."""
