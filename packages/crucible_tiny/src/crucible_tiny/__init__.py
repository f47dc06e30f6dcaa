"""A bundled tiny causal language model with its tokenizer and data, for the Crucible quickstart."""
