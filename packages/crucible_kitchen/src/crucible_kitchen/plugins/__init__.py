"""Plugins: what installed packages add to Crucible by entry point."""
