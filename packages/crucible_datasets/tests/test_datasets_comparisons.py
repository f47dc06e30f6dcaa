"""Preference datasets in their real shapes: hh-rlhf as upstream reads it, scored responses and their ties."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import LocalDatasetStore, MappedRows, MemoryDataset, detect_schema
from crucible_ir import DatasetRef, DatasetSnapshot


def load(rows: list[dict[str, Any]], **mapping: Any) -> DatasetSnapshot:
    store = LocalDatasetStore(memory=[MemoryDataset("rows", rows)])
    return store.load(DatasetRef(id="rows", source="memory", mapping=mapping or {"schema": "auto"}))


def helpsteer3(score: Any, **more: Any) -> dict[str, Any]:
    """A row with the columns of nvidia/HelpSteer3, configuration preference."""
    return {
        "domain": "general",
        "language": "english",
        "context": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "and?"},
        ],
        "response1": "first",
        "response2": "second",
        "overall_preference": score,
        "individual_preference": [
            {"score": -1, "reasoning": "r", "feedback1": "f", "feedback2": "g"},
            {"score": 2, "reasoning": "s", "feedback1": "h", "feedback2": "i"},
        ],
        **more,
    }


ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Write a haiku.",
    "chosen_response": "Snow on the pine",
    "rejected_response": "Snow",
    "chosen_avg_rating": 5.0,
    "rejected_avg_rating": 3.75,
    "chosen_model": "gpt-4",
}
"""A row with the columns of argilla/ultrafeedback-binarized-preferences."""


@pytest.mark.parametrize("score", [-3, -2, -1, 1, 2, 3])
def test_a_score_below_zero_is_for_the_first_response_and_one_above_for_the_second(score: int) -> None:
    row = helpsteer3(score)
    assert detect_schema([row]).schema == "preference_scored"
    (found,) = load([row]).rows
    said = {name: found[name][0]["content"] for name in ("chosen", "rejected")}
    better, worse = ("first", "second") if score < 0 else ("second", "first")
    assert said == {"chosen": better, "rejected": worse}
    assert found["prompt"] == row["context"]


def test_a_tie_is_nobodys_win_but_counted() -> None:
    snapshot = load([helpsteer3(0), helpsteer3(1), helpsteer3(0)])
    assert len(snapshot.rows) == 1
    assert [(drop.reason, drop.count) for drop in snapshot.drops] == [
        ("a tie: neither response is preferred", 2)
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (helpsteer3(None), "score is missing"),
        (helpsteer3("1"), "score is no number"),
        (helpsteer3(True), "score is no number"),
        (helpsteer3(1, response1=""), "first is empty"),
        (helpsteer3(1, context=[]), "the conversation is empty"),
        (helpsteer3(1, response2="first"), "chosen and rejected are the same"),
    ],
)
def test_a_scored_row_that_does_not_fit_is_dropped_with_its_reason(row: dict[str, Any], reason: str) -> None:
    snapshot = load([helpsteer3(1), row], schema="preference_scored")
    assert [(drop.reason, drop.count) for drop in snapshot.drops] == [(reason, 1)]


def test_ultrafeedback_has_its_responses_in_columns_of_their_own() -> None:
    assert detect_schema([ULTRAFEEDBACK]).schema == "preference"
    assert list(load([ULTRAFEEDBACK]).rows) == [
        {
            "prompt": [{"role": "user", "content": "Write a haiku."}],
            "chosen": [{"role": "assistant", "content": "Snow on the pine"}],
            "rejected": [{"role": "assistant", "content": "Snow"}],
        }
    ]


@pytest.mark.real
def test_hh_rlhf_gives_upstreams_comparisons_but_where_a_speaker_is_named_within_a_turn(
    shared_data: Path,
) -> None:
    recorded = json.loads((Path(__file__).parent / "golden" / "hh_rlhf_comparisons.json").read_text("utf-8"))
    path = shared_data / "datasets" / "hh-rlhf" / "harmless-base.test.jsonl.gz"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == recorded["header"]["file_sha256"]
    snapshot = LocalDatasetStore().load(
        DatasetRef(id=str(path), mapping={"schema": "preference_conversations"})
    )
    assert isinstance(snapshot.rows, MappedRows)
    ours: list[Any] = [None] * recorded["rows"]
    for position, row in zip(snapshot.rows.positions.tolist(), snapshot.rows, strict=True):
        ours[position] = [row["prompt"], row["chosen"], row["rejected"]]
    quoting = set(recorded["quoting"])
    alike = [comparison for position, comparison in enumerate(ours) if position not in quoting]
    text = json.dumps(alike, separators=(",", ":"), sort_keys=True)
    assert len(alike) == 2263
    assert hashlib.sha256(text.encode()).hexdigest() == recorded["digest"]
    # explained: upstream starts a turn at every "Human:" and "Assistant:", in 49 rows within what somebody says; it
    # loses 31 of them to that, and trains on what a user says in 5. Ours keeps what stands there.
    lost = quoting & set(recorded["left_out"])
    assert (len(quoting), len(lost), recorded["speaker_after_quote"]) == (49, 31, 5)
    assert sum(ours[position] is None for position in quoting) == 4
    assert all(side[0]["role"] == "assistant" for comparison in ours if comparison for side in comparison[1:])
