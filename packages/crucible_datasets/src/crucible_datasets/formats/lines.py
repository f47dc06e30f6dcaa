"""Lines of a text file, one at a time, with bounded memory; plain or gzip, UTF-8 with or without BOM."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from crucible_ir import DataError, NotFoundError, StorageError

__all__ = ["MAX_LINE_BYTES", "decode_line", "open_bytes", "read_bytes", "read_lines"]

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line that is read; a longer one is an error rather than an exhausted memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_LFS_POINTER = b"version https://git-lfs"
_OTHER_TEXT = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_OTHER_BINARY = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
)


def open_bytes(path: Path) -> BinaryIO:
    """The content of ``path``, unpacked if it is gzip (seen by its first bytes, not by its name).

    Raises:
        NotFoundError: no such file.
        DataError: a folder, a file that may not be read, or a file named ``.gz`` that is not gzip.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(
            what="no such file", where=str(path), remedy="check the path of the dataset"
        ) from error
    except IsADirectoryError as error:
        raise DataError(
            what="a folder, where a file was expected", where=str(path), remedy="name a file"
        ) from error
    except PermissionError as error:
        raise DataError(
            what="this file may not be read", where=str(path), remedy="change its permissions"
        ) from error
    head = file.read(2)
    file.seek(0)
    if head == _GZIP_MAGIC:
        file.close()
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".gz":
        file.close()
        raise DataError(
            what="named .gz, but its content is not gzip",
            where=str(path),
            remedy="rename it, or fetch it again",
        )
    return file


def _check_head(first: bytes, path: Path) -> None:
    if first.startswith(_LFS_POINTER):
        raise DataError(
            what="a Git LFS pointer stands where the data should be",
            where=f"{path}, line 1",
            remedy="run `git lfs pull` in that repository",
        )
    for magic, name in _OTHER_TEXT:
        if first.startswith(magic):
            raise DataError(
                what=f"{name} text, where UTF-8 was expected",
                where=f"{path}, line 1, column 1",
                remedy="convert it, for example with `iconv -f UTF-16 -t UTF-8`",
            )
    for magic, name in _OTHER_BINARY:
        if first.startswith(magic):
            raise DataError(
                what=f"the content is {name}, not text",
                where=str(path),
                remedy="name its format, or unpack it first",
            )


def read_lines(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    r"""Number (from 1) and bytes of every line, its line end included; a UTF-8 BOM is left out.

    Lines end with ``\n`` alone, so that U+2028 or a form feed within a JSON string ends none. At most one line
    and one buffer are held in memory.

    Raises:
        NotFoundError: no such file.
        DataError: a line longer than ``max_line_bytes``, damaged gzip, or content that is not text.
    """
    number = 0
    with open_bytes(path) as file:
        try:
            while line := file.readline(max_line_bytes + 1):
                number += 1
                if len(line) > max_line_bytes:
                    raise DataError(
                        what=f"the line is longer than {max_line_bytes} bytes",
                        where=f"{path}, line {number}",
                        remedy="write one row per line, or raise max_line_bytes",
                    )
                if number == 1:
                    _check_head(line, path)
                    line = line.removeprefix(_UTF8_BOM)
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                what=f"the gzip data are damaged after this line ({error})",
                where=f"{path}, line {number}",
                remedy="fetch the file again",
            ) from error
        except OSError as error:
            raise StorageError(
                what=f"reading failed ({error.strerror or error})",
                where=f"{path}, line {number}",
                remedy="check the disk",
            ) from error


def read_bytes(path: Path) -> bytes:
    """The whole content of ``path``, unpacked, without BOM; for formats that cannot be read line by line.

    Raises:
        NotFoundError: no such file.
        DataError: damaged gzip, or content that is not text.
    """
    return b"".join(line for _, line in read_lines(path))


def decode_line(line: bytes, number: int, path: Path) -> str:
    """``line`` as text.

    Raises:
        DataError: bytes that are not UTF-8, with the column (counted in bytes, from 1) and the byte.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            what=f"byte 0x{line[error.start]:02x} is not UTF-8 ({error.reason})",
            where=f"{path}, line {number}, column {error.start + 1}",
            remedy="save the file as UTF-8",
        ) from error
