"""Models, checkpoints, artifacts and content-addressed blobs of Crucible."""
