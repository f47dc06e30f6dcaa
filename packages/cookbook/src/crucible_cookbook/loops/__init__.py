"""The recipes again as flat loops, to be read from top to bottom: no stages, no engine, no adapters."""
