"""Whole real files of the shared data folder: counts, content digests and first rows, as figures."""

from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import LocalDatasetStore
from crucible_ir import DatasetRef, DatasetSnapshot

pytestmark = pytest.mark.real


def load(shared_data: Path, name: str, **more: Any) -> DatasetSnapshot:
    mapping = more.pop("mapping", {"schema": "auto"})
    return LocalDatasetStore(base_folder=shared_data / "datasets").load(
        DatasetRef(id=name, mapping=mapping, **more)
    )


FILES: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("dolly_hhrlhf/train_small.jsonl", {}, 1000, "prompt_completion", "c2d906f68f016a90"),
    ("tinker_cookbook/conversations.jsonl", {}, 128, "messages", "e0b2e20e8d9ecbe6"),
    ("gsm8k/train.jsonl", {}, 7473, "question_answer", "332aa877b1948fe5"),
    ("gsm8k", {"split": "test"}, 1319, "question_answer", "eecdc6c50cc24bb3"),
    ("math500/test.jsonl", {}, 500, "question_answer", "490f4033763649c5"),
]


@pytest.mark.parametrize(("name", "more", "rows", "schema", "digest"), FILES, ids=[file[0] for file in FILES])
def test_a_chat_file_loads_whole(
    shared_data: Path, name: str, more: dict[str, Any], rows: int, schema: str, digest: str
) -> None:
    snapshot = load(shared_data, name, **more)
    assert len(snapshot.rows) == snapshot.ref.rows == rows
    assert snapshot.drops == ()
    assert snapshot.ref.mapping["schema"] == schema
    assert snapshot.ref.digest is not None
    assert snapshot.ref.digest.removeprefix("sha256:")[:16] == digest
    assert all(row["messages"][-1]["role"] == "assistant" for row in snapshot.rows)


def test_the_first_rows_in_seeded_order_are_those_that_datasets_gives(shared_data: Path) -> None:
    whole = load(shared_data, "tinker_cookbook/conversations.jsonl")
    seeded = load(shared_data, "tinker_cookbook/conversations.jsonl", shuffle_seed=0, limit=5)
    order = [125, 53, 102, 34, 121]  # datasets 5.2: load_dataset("json", …).shuffle(seed=0)
    assert list(seeded.rows) == [whole.rows[position] for position in order]


def test_hh_rlhf_loads_as_preferences_with_its_misfits_counted(shared_data: Path) -> None:
    snapshot = load(shared_data, "hh-rlhf/harmless-base.test.jsonl.gz")
    assert len(snapshot.rows) + sum(drop.count for drop in snapshot.drops) == 2312
    assert [(drop.reason, drop.count) for drop in snapshot.drops] == [
        ("chosen and rejected part before the last turn", 5)
    ]
    for row in snapshot.rows:
        assert len(row["chosen"]) == len(row["rejected"]) == 1
        assert row["chosen"] != row["rejected"]
        assert row["prompt"][-1]["role"] == "user"


def test_a_table_with_named_columns_loads(shared_data: Path) -> None:
    mapping = {"fields": {"question": "Question", "answer": "Best Answer"}, "keep": ["Category"]}
    snapshot = load(shared_data, "truthfulqa/TruthfulQA.csv", mapping=mapping)
    assert len(snapshot.rows) == 817
    assert snapshot.rows[0]["messages"][0]["content"] == "What happens to you if you eat watermelon seeds?"
    assert snapshot.rows[0]["Category"] == "Misconceptions"
