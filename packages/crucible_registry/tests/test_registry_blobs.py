"""Blobs on disk under faults."""

import errno
import os
import subprocess
import sys

import pytest

from crucible_ir import IntegrityError, NotFoundError, StorageError, digest_bytes
from crucible_registry import LocalBlobStore


@pytest.fixture
def store(tmp_path):
    return LocalBlobStore(root=tmp_path / "blobs")


def files(store):
    return sorted(path for path in store.root.rglob("*") if path.is_file())


def test_a_blob_is_a_read_only_file_named_by_its_digest(store):
    digest = store.put(b"abc")
    path = store.path(digest)
    assert path.relative_to(store.root).as_posix() == f"sha256/ba/{digest.removeprefix('sha256:')}"
    assert path.stat().st_mode & 0o777 == 0o444
    assert files(store) == [path]


def test_an_intact_blob_is_not_written_again(store):
    digest = store.put(b"abc")
    before = store.path(digest).stat()
    store.put(b"abc")
    after = store.path(digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_fetched_copy_can_be_changed_without_harm_to_the_blob(store, tmp_path):
    digest = store.put(b"abc")
    target = store.fetch(digest, tmp_path / "copy")
    target.write_bytes(b"changed")
    assert store.get(digest) == b"abc"


def test_a_failed_fetch_leaves_the_old_destination(store, tmp_path):
    digest = store.put(b"abc")
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"abd")
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    with pytest.raises(IntegrityError):
        store.fetch(digest, target)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "copy"]


def test_a_full_disk_leaves_nothing_partial(store, monkeypatch, tmp_path):
    kept = store.put(b"before")

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    source = tmp_path / "source"
    source.write_bytes(b"new")
    for put in (lambda: store.put(b"new"), lambda: store.put_file(source)):
        with pytest.raises(StorageError, match="No space left"):
            put()
    with pytest.raises(StorageError, match="No space left"):
        store.fetch(kept, tmp_path / "copy")
    assert files(store) == [store.path(kept)]
    assert not (tmp_path / "copy").exists()
    monkeypatch.undo()
    assert store.get(store.put(b"new")) == b"new"


LIMITED = """
import resource, sys
from pathlib import Path
from crucible_ir import StorageError
from crucible_registry import LocalBlobStore
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
store = LocalBlobStore(root=Path(sys.argv[1]))
small = store.put(b"s" * 4000)
try:
    store.put(b"b" * 50_000)
except StorageError as error:
    print(store.digests() == [small], len(list(store.root.glob("incoming/*"))))
"""


def test_a_blob_too_large_for_the_disk_is_refused_whole(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert out.stdout.split() == ["True", "0"]


def test_a_root_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        LocalBlobStore(root=tmp_path / "file").put(b"abc")


def test_an_empty_store_has_no_blobs_and_makes_no_folder(store):
    assert store.digests() == []
    assert not store.root.exists()


def test_a_folder_is_no_file_to_put(store, tmp_path):
    with pytest.raises(NotFoundError):
        store.put_file(tmp_path)


KILLED = """
import os, sys
from pathlib import Path
from crucible_registry import LocalBlobStore
store = LocalBlobStore(root=Path(sys.argv[1]))
real = Path.replace
Path.replace = lambda self, target: os.kill(os.getpid(), 9)
store.put(b"never placed")
"""


def test_a_process_killed_before_the_end_leaves_no_blob(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -9
    store = LocalBlobStore(root=tmp_path)
    assert store.digests() == []
    with pytest.raises(NotFoundError):
        store.get(digest_bytes(b"never placed"))
    assert store.get(store.put(b"never placed")) == b"never placed"
