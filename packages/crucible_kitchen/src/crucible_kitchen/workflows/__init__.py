"""Built-in workflows: each a function from options to pipeline nodes."""
