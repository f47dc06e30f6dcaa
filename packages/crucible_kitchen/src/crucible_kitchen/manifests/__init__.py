"""Manifests: which adapter serves which port."""
