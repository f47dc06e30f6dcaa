"""Numerical checks that any training backend can be held against; what they need is the ports alone."""
