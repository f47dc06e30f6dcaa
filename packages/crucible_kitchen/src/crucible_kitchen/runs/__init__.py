"""Runs: their folders, their life, the processes that own them."""
