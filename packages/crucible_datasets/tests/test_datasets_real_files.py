"""Whole real files of the shared data folder: counts, content digests and first rows, as figures."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crucible_datasets import LocalDatasetStore, MappedRows
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


def turns_anywhere(text: str) -> list[dict[str, str]]:
    """Turns as tinker-cookbook 0.6.1 sees them: one at every ``Human:`` and ``Assistant:``, also within a sentence."""
    pieces = re.split(r"(Human|Assistant):", text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def test_hh_rlhf_rows_are_those_of_tinker_cookbook_but_where_somebody_says_human(shared_data: Path) -> None:
    name = "hh-rlhf/harmless-base.test.jsonl.gz"
    snapshot = load(shared_data, name)
    assert isinstance(snapshot.rows, MappedRows)
    ours = dict(zip(snapshot.rows.positions.tolist(), snapshot.rows, strict=True))
    counted: Counter[str] = Counter()
    for position, row in enumerate(load(shared_data, name, mapping={}).rows):
        chosen, rejected = turns_anywhere(row["chosen"]), turns_anywhere(row["rejected"])
        fits = len(chosen) == len(rejected) and chosen[:-1] == rejected[:-1] and chosen[-1] != rejected[-1]
        theirs = {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]} if fits else None
        if ours.get(position) == theirs:
            counted["equal"] += 1
            continue
        counted["dropped there" if theirs is None else "cut there"] += 1
        real_turns = len(
            re.findall(r"(?:\A|\n\n)(?:Human|Assistant):", row["chosen"] + "\n\n" + row["rejected"])
        )
        assert len(chosen) + len(rejected) > real_turns
    assert counted == {"equal": 2267, "dropped there": 27, "cut there": 18}
