"""Built-in stages, one file each; registered by entry point in ``crucible.stages``."""
