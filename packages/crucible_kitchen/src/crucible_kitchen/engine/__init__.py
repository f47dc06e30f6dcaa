"""The workflow engine: stages, plans that are checked whole, execution, cursors."""
