"""One file per recipe; each runs as ``python -m crucible_cookbook.recipes.NAME key=value``."""
