"""The engine of the kitchen."""
