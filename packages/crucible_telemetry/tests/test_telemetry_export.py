"""Exports that other programs read."""

import csv
import json
import math
from datetime import UTC, datetime

import pytest

from crucible_ir import Event, MetricRow, StorageError
from crucible_telemetry import events_to_csv, events_to_jsonl, metrics_to_csv, metrics_to_jsonl
from crucible_telemetry.export import csv_text

ROWS = [
    MetricRow(step=0, time_s=0.5, metrics={"a": 0.1}),
    MetricRow(step=1, metrics={"b": 1e-300, "a": 2.0}),
]


def test_the_header_has_every_key_of_every_row(tmp_path):
    path = metrics_to_csv(ROWS, tmp_path / "deep" / "m.csv")
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["step", "time_s", "a", "b"],
            ["0", "0.5", "0.1", ""],
            ["1", "", "2.0", "1e-300"],
        ]


def test_quotes_commas_and_line_ends_come_back():
    text = csv_text([{'a"b': 'say "x", or\ny', "n": None, "t": True, "l": [1, {"k": "ä"}]}])
    header, row = csv.reader(text.splitlines(keepends=True))
    assert header == ['a"b', "n", "t", "l"]
    assert row == ['say "x", or\ny', "", "true", '[1, {"k": "ä"}]']


def test_nothing_exports_as_an_empty_header():
    assert csv_text([]) == "\r\n"


def test_jsonl_has_one_object_per_line(tmp_path):
    lines = metrics_to_jsonl(ROWS, tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 0, "time_s": 0.5, "metrics": {"a": 0.1}},
        {"step": 1, "time_s": None, "metrics": {"b": 1e-300, "a": 2.0}},
    ]


def test_nan_is_seen_in_both_formats(tmp_path):
    row = MetricRow(step=0, metrics={"a": math.nan})
    assert '"NaN"' in metrics_to_jsonl([row], tmp_path / "m.jsonl").read_text()
    assert "nan" in metrics_to_csv([row], tmp_path / "m.csv").read_text()


def test_events_export_with_their_data(tmp_path):
    at = datetime(2026, 1, 2, tzinfo=UTC)
    events = [
        Event(seq=1, run_id="r", type="x.y", at=at, data={"n": 1}),
        Event(seq=2, run_id="r", type="x.y", at=at, data={"text": "ä"}),
    ]
    with events_to_csv(events, tmp_path / "e.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["data.n"] for row in rows] == ["1", ""]
    assert rows[1]["data.text"] == "ä"
    lines = events_to_jsonl(events, tmp_path / "e.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Event.model_validate_json(line) for line in lines] == events


def test_a_target_that_cannot_be_written_is_a_storage_error_and_leaves_nothing(tmp_path):
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(StorageError, match=r"m\.csv"):
        metrics_to_csv(ROWS, tmp_path / "m.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]
