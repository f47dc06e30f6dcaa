"""Servers over Crucible: a Tinker-compatible API on any training backend."""
