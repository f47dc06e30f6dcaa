"""The workflows of the kitchen."""
