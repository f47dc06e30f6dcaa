"""The stages of the kitchen."""
