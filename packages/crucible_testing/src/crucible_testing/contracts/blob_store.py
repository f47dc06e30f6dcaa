"""What every BlobStore promises."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from crucible_ir import DataError, IntegrityError, NotFoundError, digest_bytes
from crucible_train.ports import BlobStore

__all__ = ["BlobStoreContract"]

ABSENT = "sha256:" + "0" * 64


class BlobStoreContract:
    """Inherit it and give ``store``. Where stored bytes can be changed from outside, give ``tamper`` too."""

    keeps_blobs: ClassVar[bool] = True
    can_be_tampered_with: ClassVar[bool] = True

    @pytest.fixture
    def store(self) -> BlobStore:
        """The store under test, empty."""
        raise NotImplementedError

    @pytest.fixture
    def tamper(self) -> Callable[[str], None]:
        """Flips one byte of a stored blob behind the store's back."""
        if self.can_be_tampered_with:
            raise NotImplementedError
        return lambda digest: None

    def test_it_fits_the_port(self, store: BlobStore) -> None:
        assert isinstance(store, BlobStore)

    def test_the_digest_is_the_sha256_of_the_bytes(self, store: BlobStore) -> None:
        expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert store.put(b"abc") == expected
        assert store.put(b"") == "sha256:" + hashlib.sha256(b"").hexdigest()

    def test_bytes_come_back(self, store: BlobStore, tmp_path: Path) -> None:
        data = bytes(range(256)) * 5000
        digest = store.put(data)
        target = tmp_path / "deep" / "copy.bin"
        if self.keeps_blobs:
            assert store.get(digest) == data
            assert store.fetch(digest, target) == target
            assert target.read_bytes() == data
        assert store.contains(digest) is self.keeps_blobs

    def test_a_file_is_kept_under_the_digest_of_its_content(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        source.write_bytes(b"weights" * 300_000)
        digest = store.put_file(source)
        assert digest == digest_bytes(source.read_bytes())
        if self.keeps_blobs:
            assert store.get(digest) == source.read_bytes()

    def test_the_same_bytes_are_kept_once(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        source.write_bytes(b"same")
        assert store.put(b"same") == store.put(b"same") == store.put_file(source)
        store.put(b"other")
        expected = sorted([digest_bytes(b"same"), digest_bytes(b"other")]) if self.keeps_blobs else []
        assert store.digests() == expected

    def test_a_missing_blob_or_file_is_not_found(self, store: BlobStore, tmp_path: Path) -> None:
        assert store.contains(ABSENT) is False
        with pytest.raises(NotFoundError):
            store.get(ABSENT)
        with pytest.raises(NotFoundError):
            store.fetch(ABSENT, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.raises(NotFoundError):
            store.put_file(tmp_path / "nothing")

    @pytest.mark.parametrize(
        "digest", ["", "abc", "sha256:abc", "md5:" + "0" * 64, "sha256:" + "../" * 21 + "x", ABSENT.upper()]
    )
    def test_what_is_no_digest_is_refused(self, store: BlobStore, digest: str, tmp_path: Path) -> None:
        with pytest.raises(DataError):
            store.get(digest)
        with pytest.raises(DataError):
            store.fetch(digest, tmp_path / "out")
        with pytest.raises(DataError):
            store.contains(digest)

    def test_one_flipped_byte_is_found_at_every_read(
        self, store: BlobStore, tamper: Callable[[str], None], tmp_path: Path
    ) -> None:
        if not self.can_be_tampered_with:
            return
        digest = store.put(b"some bytes that matter")
        tamper(digest)
        for _ in range(2):
            with pytest.raises(IntegrityError, match=digest.removeprefix("sha256:")):
                store.get(digest)
            with pytest.raises(IntegrityError):
                store.fetch(digest, tmp_path / "out")
        assert list(tmp_path.glob("out*")) == []

    def test_putting_the_right_bytes_again_heals_a_damaged_blob(
        self, store: BlobStore, tamper: Callable[[str], None]
    ) -> None:
        digest = store.put(b"some bytes that matter")
        tamper(digest)
        store.put(b"some bytes that matter")
        if self.keeps_blobs:
            assert store.get(digest) == b"some bytes that matter"

    def test_threads_that_put_the_same_bytes_do_not_disturb_each_other(self, store: BlobStore) -> None:
        data = b"shared" * 20_000
        results: list[str] = []
        threads = [threading.Thread(target=lambda: results.append(store.put(data))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [digest_bytes(data)] * 8
        assert store.digests() == ([digest_bytes(data)] if self.keeps_blobs else [])
