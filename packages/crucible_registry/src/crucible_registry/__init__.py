"""Models, checkpoints, artifacts and content-addressed blobs of Crucible."""

from crucible_registry.blobs import LocalBlobStore
from crucible_registry.memory import MemoryBlobStore
from crucible_registry.noop import NoopBlobStore, NoopModelRegistry
from crucible_registry.sqlite import SqliteModelRegistry

__all__ = ["LocalBlobStore", "MemoryBlobStore", "NoopBlobStore", "NoopModelRegistry", "SqliteModelRegistry"]
