"""Reports of runs: the facts once, then as Markdown and as one self-contained page."""
