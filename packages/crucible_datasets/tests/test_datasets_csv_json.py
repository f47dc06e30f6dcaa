"""CSV tables and JSON documents."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_datasets.formats import read_csv, read_json, read_rows
from crucible_ir import ConfigError, DataError, DatasetRef, NotFoundError


def csv_rows(path: Path, data: bytes, **options: Any) -> list[tuple[int, Any]]:
    path.write_bytes(data)
    return list(read_csv(path, **options))


def test_cells_are_text_by_column_name_and_rows_carry_the_line_they_begin_on(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfid, text ,n\r\n1,"a, ""b""\r\nc",7\r\n\r\n2,,\r\n'
    assert csv_rows(tmp_path / "a.csv", data) == [
        (2, {"id": "1", "text": 'a, "b"\r\nc', "n": "7"}),
        (5, {"id": "2", "text": "", "n": ""}),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a,b\n1,2\n3\n", "line 3: 1 cells, where the header has 2"),
        (b"a,b\n1,2,3\n", "line 2: 3 cells, where the header has 2; quote cells that hold a comma"),
        (b"a,a\n1,2\n", "line 1: two columns are named 'a'"),
        (b"a,,b\n1,2,3\n", "line 1: column 2 has no name"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: not CSV: unexpected end of data; close the quote"),
        (b'a,b\n1,"2"x\n', "line 2: not CSV"),
        (b"a,b\n1,\xff\n", "line 2, column 3: byte 0xff is not UTF-8"),
    ],
)
def test_a_malformed_table_is_named_with_its_line(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        csv_rows(tmp_path / "a.csv", data)


def test_cells_may_be_long_and_the_limit_of_the_csv_module_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    ((_, row),) = csv_rows(tmp_path / "a.csv", b"a\n" + b"x" * 300_000 + b"\n")
    assert len(row["a"]) == 300_000
    assert csv.field_size_limit() == before
    with pytest.raises(DataError, match="line 2: the line is longer than 1000 bytes"):
        csv_rows(tmp_path / "a.csv", b"a\n" + b"x" * 300_000 + b"\n", max_line_bytes=1000)
    assert csv.field_size_limit() == before


cells = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(rows=st.lists(st.tuples(cells, cells), max_size=6))
def test_any_table_that_the_csv_module_writes_comes_back(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path = tmp_path_factory.getbasetemp() / "any.csv"
    found = [(row["a"], row["b"]) for _, row in csv_rows(path, text.getvalue().encode())]
    assert found == rows


def test_a_document_is_an_array_or_holds_one_per_split(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [{"a": 1}, {"a": 2}]
    for document in (rows, {"data": rows}, {"train": rows, "test": []}):
        path.write_text("\ufeff" + json.dumps(document, indent=1), encoding="utf-8")
        assert list(read_json(path)) == [(1, {"a": 1}), (2, {"a": 2})]
    assert list(read_json(path, split="test")) == []
    with pytest.raises(
        NotFoundError, match="no split 'tset'; there are 'train', 'test'; did you mean 'test'"
    ):
        list(read_json(path, split="tset"))
    with pytest.raises(NotFoundError, match=r"no split 'q'; .*; name one of them"):
        list(read_json(path, split="q"))


def test_an_array_is_the_split_that_its_file_is_named_for(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text('[{"a": 1}]')
    assert len(list(read_json(path, split="test"))) == len(list(read_json(path))) == 1
    with pytest.raises(NotFoundError, match="no split 'validation'; there are 'test'"):
        list(read_json(path, split="validation"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"a": 1},\n {"a": }]', "line 2, column 8: not one JSON document"),
        ('{"a": 1}\n{"a": 2}\n', "line 2, column 1: .*; set format=jsonl"),
        ('{"a": 1}', "neither an array of objects nor an object with one array per split"),
        ("7", "neither an array"),
        ('[{"a": 1}, 2]', "row 2: a number, where an object was expected"),
        ('[{"a": 1, "a": 2}]', "the key 'a' stands twice"),
        ('[{"a": "é"}, {"b":\n"\udcff"}]', r"line 2, column 2: byte 0xff is not UTF-8"),
    ],
)
def test_a_malformed_document_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=says):
        list(read_json(path))


def test_the_format_comes_from_the_reference_or_else_from_the_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text('{"a": 1}\n')
    assert list(read_rows(path, DatasetRef(id="x", format="jsonl"))) == [(1, {"a": 1})]
    with pytest.raises(ConfigError, match=r"the format of 'rows\.txt' cannot be told"):
        list(read_rows(path, DatasetRef(id="x")))
    with pytest.raises(ConfigError, match="Parquet is read by the Hugging Face dataset store"):
        list(read_rows(tmp_path / "a.parquet", DatasetRef(id="x")))
    (tmp_path / "a.NDJSON").write_text('{"a": 2}\n')
    assert list(read_rows(tmp_path / "a.NDJSON", DatasetRef(id="x"))) == [(1, {"a": 2})]
