"""Ours, the floor and the peer on the same work, in turn. `python -m benchmarks --help` says how."""
