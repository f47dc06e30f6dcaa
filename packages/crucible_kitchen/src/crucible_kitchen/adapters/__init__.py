"""The adapters of the kitchen."""
