"""Contracts of the Crucible platform: experiments, refs, run records, events, errors, canonical digests."""
