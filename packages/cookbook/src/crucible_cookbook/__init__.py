"""The Crucible recipes: thin configs over the workflows of crucible_kitchen."""
