"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ExitCode, StorageError
from crucible_kitchen.atomic import read_lines, write_atomic, write_lines


def test_a_file_is_written_in_folders_that_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_stood_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old and longer")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_bytes_are_on_the_disk_before_they_take_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "file", []
    sync = os.fsync

    def fsync(number: int) -> None:
        seen.append(path.exists())
        sync(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, b"new")
    assert seen == [False]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "CRUCIBLE_HOME"),
        (errno.EACCES, "CRUCIBLE_HOME"),
        (errno.EIO, "look at the disk"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "open", "replace"])
def test_a_disk_that_cannot_be_written_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, call: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os if call == "fsync" else Path, call, broken)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    error = caught.value
    assert error.where == str(path)
    assert os.strerror(number) in error.what
    assert remedy in error.remedy
    assert error.exit_code is ExitCode.STORAGE


def test_a_disk_that_fills_up_while_writing_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    opened = Path.open

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        file = opened(self, *args, **kwargs)

        class Full:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: Any) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                file.write(data[:2])
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full()

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="No space left"):
        write_atomic(path, b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        write_atomic(tmp_path / "file" / "below", b"x")
    assert str(tmp_path / "file" / "below") == caught.value.where


def test_lines_are_utf8_and_each_is_ended(tmp_path: Path) -> None:
    write_lines(tmp_path / "lines", ["ä", "b"])
    assert (tmp_path / "lines").read_bytes() == "ä\nb\n".encode()
    write_lines(tmp_path / "none", [])
    assert (tmp_path / "none").read_bytes() == b""


@pytest.mark.parametrize("lines", [[], [""], ["a", "", "b"], ["x\x85y", "\u2028", "a\x0cb"]])
def test_lines_are_read_as_they_were_written(tmp_path: Path, lines: list[str]) -> None:
    write_lines(tmp_path / "lines", lines)
    assert read_lines(tmp_path / "lines") == lines
