"""Every registry and blob store of this package keeps the promises of its port."""

from importlib.metadata import entry_points

import pytest

from crucible_registry import (
    LocalBlobStore,
    MemoryBlobStore,
    NoopBlobStore,
    NoopModelRegistry,
    SqliteModelRegistry,
)
from crucible_testing.contracts.blob_store import BlobStoreContract
from crucible_testing.contracts.model_registry import ModelRegistryContract


class TestSqliteModelRegistry(ModelRegistryContract):
    @pytest.fixture
    def open_registry(self, tmp_path):
        return lambda: SqliteModelRegistry(root=tmp_path)


class TestNoopModelRegistry(ModelRegistryContract):
    keeps_refs = False

    @pytest.fixture
    def open_registry(self, tmp_path):
        return lambda: NoopModelRegistry(root=tmp_path)


class TestLocalBlobStore(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalBlobStore(root=tmp_path / "blobs")

    @pytest.fixture
    def tamper(self, store):
        def flip(digest):
            path = store.path(digest)
            path.chmod(0o644)
            data = bytearray(path.read_bytes())
            data[0] ^= 1
            path.write_bytes(data)

        return flip


class TestMemoryBlobStore(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return MemoryBlobStore(root=tmp_path)

    @pytest.fixture
    def tamper(self, store):
        def flip(digest):
            store.blobs[digest] = b"X" + store.blobs[digest][1:]

        return flip


class TestNoopBlobStore(BlobStoreContract):
    keeps_blobs = False
    can_be_tampered_with = False

    @pytest.fixture
    def store(self, tmp_path):
        return NoopBlobStore(root=tmp_path)


@pytest.mark.parametrize(
    ("group", "names"),
    [("crucible.model_registry", {"sqlite", "noop"}), ("crucible.blob_store", {"local", "memory", "noop"})],
)
def test_every_declared_adapter_loads_and_takes_a_root(tmp_path, group, names):
    ours = {
        point.name: point
        for point in entry_points(group=group)
        if point.value.startswith("crucible_registry.")
    }
    assert set(ours) == names
    for point in ours.values():
        point.load()(root=tmp_path)
