"""Orchestration of Crucible: workflow engine, stages, adapters, manifests, runs, the crucible command."""
