"""JSON Lines: what is read, and what is refused with file, line, column, what stands there and a remedy."""

import gzip
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_datasets import LocalDatasetStore
from crucible_datasets.formats import read_jsonl, read_lines
from crucible_ir import CrucibleError, DataError, DatasetRef, NotFoundError


def rows_of(path: Path, data: bytes, **options: Any) -> list[tuple[int, Any]]:
    path.write_bytes(data)
    return list(read_jsonl(path, **options))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b'{"a": 1}\n{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})]),
        (b'{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
        (b'\xef\xbb\xbf{"a": 1}\n', [(1, {"a": 1})]),
        (b'\n  \t\n{"a": 1}\n\r\n\n{"a": 2}\n\n', [(3, {"a": 1}), (6, {"a": 2})]),
        ('{"a": "x\u2028y\x0cz"}\n'.replace("\x0c", "\\f").encode(), [(1, {"a": "x\u2028y\x0cz"})]),
        (b'{"a": "\\ud83d\\ude00"}\n', [(1, {"a": "\U0001f600"})]),
        (b'{"a": 12345678901234567890123}\n', [(1, {"a": 12345678901234567890123})]),
        (b"", []),
        (b"\n\n", []),
    ],
    ids=["plain", "no-last-newline", "crlf", "bom", "blank-lines", "line-ends", "pair", "number", "empty", "blank"],
)  # fmt: skip
def test_a_well_formed_file_is_read(tmp_path: Path, data: bytes, expected: list[Any]) -> None:
    assert rows_of(tmp_path / "a.jsonl", data) == expected
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    assert list(read_jsonl(tmp_path / "b.jsonl.gz")) == expected


@pytest.mark.parametrize(
    ("line", "place", "says"),
    [
        (b'{"a": 1', "line 3, column 8", "ends in the middle of a value"),
        (b'{"a": 1,}', "line 3, column 9", "there stands '{\"a\": 1,}'"),
        (b'{"a": 1} {"a": 2}', "line 3, column 10", "Extra data"),
        (b"{'a': 1}", "line 3, column 2", "double quotes"),
        (b"oops", "line 3, column 1", "there stands 'oops'"),
        (b"[1, 2]", "line 3", "an array, where an object was expected"),
        (b'"text"', "line 3", "a string, where an object was expected"),
        (b"null", "line 3", "null, where an object was expected"),
        (b'{"a": NaN}', "line 3", "NaN is no JSON number"),
        (b'{"a": -Infinity}', "line 3", "-Infinity is no JSON number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "line 3", "the key 'c' stands twice"),
        (b'{"a": "\\ud83d"}', "line 3", "half of a surrogate pair"),
        (b'{"a": "\xe9"}', "line 3, column 8", "byte 0xe9 is not UTF-8"),
        (b'{"a": ' + b"[" * 200_000 + b"}", "line 3", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 3", "Exceeds the limit"),
        (b'{"a": "\x01"}', "line 3, column 8", "Invalid control character"),
    ],
)
def test_an_unreadable_line_is_named_with_what_stands_there(
    tmp_path: Path, line: bytes, place: str, says: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(DataError) as caught:
        LocalDatasetStore().load(DatasetRef(id=str(path)))
    text = str(caught.value)
    assert text.startswith(f"{path}, {place}: ")
    assert says in text
    assert "; " in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))
    assert caught.value.exit_code == 3


def test_a_long_line_shows_only_what_stands_around_the_fault(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * 1000 + b'" oops, "b": "' + b"y" * 1000 + b'"}'
    with pytest.raises(DataError, match=r"column 1010: .*'…x+\" oops, \"b\": \"y+…'"):
        rows_of(tmp_path / "a.jsonl", line)


def test_a_line_longer_than_allowed_is_named_before_it_fills_the_memory(tmp_path: Path) -> None:
    data = b'{"a": 1}\n{"a": "' + b"x" * 100 + b'"}\n'
    assert len(rows_of(tmp_path / "a.jsonl", data, max_line_bytes=110)) == 2
    with pytest.raises(DataError, match="line 2: the line is longer than 100 bytes; write one row per line"):
        rows_of(tmp_path / "a.jsonl", data, max_line_bytes=100)
    with pytest.raises(DataError, match="line 2: the line is longer than 100 bytes"):
        LocalDatasetStore(max_line_bytes=100).load(DatasetRef(id=str(tmp_path / "a.jsonl")))


def test_reading_holds_one_line_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("w") as file:
        for number in range(20_000):
            file.write(json.dumps({"n": number, "text": "x" * 500}) + "\n")
    tracemalloc.start()
    assert sum(1 for _ in read_jsonl(path)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 10_000_000
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ('{"a": 1}\n'.encode("utf-16"), "UTF-16 text, where UTF-8 was expected"),
        (b"\xfe\xff\x00{", "UTF-16 text"),
        (b"PAR1\x15\x04", "a Parquet file, not text"),
        (b"PK\x03\x04....", "a ZIP archive, not text"),
        (b"\x28\xb5\x2f\xfd....", "Zstandard data, not text"),
    ],
)
def test_another_kind_of_file_is_recognised(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        rows_of(tmp_path / "a.jsonl", data)


def test_gzip_is_told_by_content_and_damage_is_named(tmp_path: Path) -> None:
    data = b"".join(b'{"n": %d}\n' % n for n in range(5000))
    packed = gzip.compress(data)
    assert len(rows_of(tmp_path / "named_plainly.jsonl", packed)) == 5000
    with pytest.raises(DataError, match=r"line \d+: the gzip data are damaged .*; fetch the file again"):
        rows_of(tmp_path / "cut.jsonl.gz", packed[: len(packed) // 2])
    flipped = bytearray(packed)
    flipped[-6] ^= 0xFF
    with pytest.raises(DataError, match="line 5000: the gzip data are damaged"):
        rows_of(tmp_path / "flipped.jsonl.gz", bytes(flipped))
    with pytest.raises(DataError, match=r"named \.gz, but its content is not gzip"):
        rows_of(tmp_path / "plain.jsonl.gz", data)


def test_paths_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        list(read_lines(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match="a folder, where a file was expected"):
        list(read_lines(tmp_path))


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="may not be read; change its permissions"):
        list(read_lines(path))


def test_a_disk_that_fails_is_named_with_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self) -> None:
            self.lines = [b'{"a": 1}\n']

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *error: object) -> None: ...

        def readline(self, limit: int) -> bytes:
            if self.lines:
                return self.lines.pop()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("crucible_datasets.formats.lines.open_bytes", lambda path: Failing())
    with pytest.raises(
        CrucibleError, match=r"a.jsonl, line 1: reading failed \(Input/output error\); check the disk"
    ):
        list(read_jsonl(tmp_path / "a.jsonl"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=4), max_size=6),
    ascii_only=st.booleans(),
)
def test_any_rows_come_back_from_the_lines_that_json_writes(
    rows: list[dict[str, Any]], ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    data = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\r\n" for row in rows).encode()
    assert [row for _, row in rows_of(path, data)] == rows


def test_messages_never_show_more_than_a_fragment_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / "a.jsonl", b"z" * 100_000)
    assert not re.search("z{80}", str(caught.value))
