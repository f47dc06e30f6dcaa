"""Problems and pairs of hub datasets, through the real client against the local stand-in, as recipes name them.

The rows are generated fixtures with the columns and layout of the datasets, not the datasets themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.data import PREFERENCES, PROBLEMS
from crucible_datasets import permutation
from crucible_ir import DatasetRef
from crucible_testing.hub import LocalHub
from crucible_testing.hub_problems import (
    MATH_SUBJECTS,
    REPOSITORIES,
    gsm8k_rows,
    helpsteer3_rows,
    hh_rlhf_rows,
    math_rows,
    repository_files,
    ultrafeedback_rows,
)
from crucible_testing.hub_process import HubProcess


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        for repository in REPOSITORIES:
            hub.add(repository, repository_files(repository))
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf") / "home"


@pytest.fixture(scope="module")
def process(hub: LocalHub, home: Path) -> Iterator[HubProcess]:
    with HubProcess(endpoint=hub.url, home=home) as process:
        yield process


def load(process: HubProcess, ref: DatasetRef | None) -> Any:
    assert ref is not None
    process.call("check", ref=ref.model_dump(mode="json"))
    return process.call("load", ref=ref.model_dump(mode="json"))


def answers(found: Any) -> list[str]:
    return [row["answer"] for row in found["rows"]]


def math_source() -> list[dict[str, Any]]:
    return [
        row for subject in MATH_SUBJECTS for split in ("train", "test") for row in math_rows(subject, split)
    ]


def boxed(row: dict[str, Any]) -> str:
    return str(row["solution"]).split("{")[1].split("}")[0]


def test_gsm8k_comes_in_seeded_order_without_the_row_that_has_no_answer(process: HubProcess) -> None:
    rows = gsm8k_rows()
    found = load(process, PROBLEMS["gsm8k"].train())
    order = [n for n in permutation(20, 0).tolist() if n != 19]
    assert [row["problem"] for row in found["rows"]] == [rows[n]["question"] for n in order]
    assert answers(found) == [rows[n]["answer"].split("#### ")[1].replace(",", "") for n in order]
    assert [drop[:2] for drop in found["drops"]] == [["no answer after ####", 1]]
    assert found["drops"][0][2] == "openai/gsm8k[train], row 20"
    held_out = load(process, PROBLEMS["gsm8k"].held_out())
    assert [row["problem"] for row in held_out["rows"]] == [
        row["question"] for row in gsm8k_rows("test")[:19]
    ]


def test_math_is_every_subject_and_split_without_the_test_problems_and_then_shuffled(
    process: HubProcess,
) -> None:
    found = load(process, PROBLEMS["math"].train())
    tested = {math_rows(subject, "test")[0]["problem"] for subject in MATH_SUBJECTS}
    left = [row for row in math_source() if row["problem"] not in tested]
    assert (len(math_source()), len(left)) == (56, 49)
    assert [row["problem"] for row in found["rows"]] == [
        left[n]["problem"] for n in permutation(49, 0).tolist()
    ]
    assert answers(found) == [boxed(left[n]) for n in permutation(49, 0).tolist()]
    (drop,) = found["drops"]
    assert drop[:2] == ["excluded: its 'problem' stands in HuggingFaceH4/MATH-500[test]", 7]
    held_out = load(process, PROBLEMS["math"].held_out())
    assert {row["problem"] for row in held_out["rows"]} == tested


def test_what_was_excluded_is_pinned_with_commit_and_digest(hub: LocalHub, process: HubProcess) -> None:
    ref = load(process, PROBLEMS["math"].train())["ref"]
    excluded = ref["mapping"]["exclude"]["dataset"]
    repo = hub.find("dataset", "HuggingFaceH4/MATH-500")
    assert repo is not None
    assert excluded["revision"] == repo.commits[-1].sha
    assert excluded["digest"].startswith("sha256:")
    assert process.call("load", ref=ref)["ref"] == ref


def test_math_may_be_streamed(process: HubProcess) -> None:
    ref = PROBLEMS["math"].model_copy(update={"streaming": True, "shuffle_seed": None, "limit": 9}).train()
    found = load(process, ref)
    tested = {math_rows(subject, "test")[0]["problem"] for subject in MATH_SUBJECTS}
    expected = [row["problem"] for row in math_source() if row["problem"] not in tested][:9]
    assert [row["problem"] for row in found["rows"]] == expected


def test_what_was_loaded_loads_again_without_the_hub(hub: LocalHub, process: HubProcess, home: Path) -> None:
    found = load(process, PROBLEMS["math"].train())
    with HubProcess(endpoint=hub.url, home=home, environment={"HF_HUB_OFFLINE": "1"}) as offline:
        again = load(offline, PROBLEMS["math"].train())
    assert again["rows"] == found["rows"]
    for name in ("digest", "order_digest", "transform_digest"):
        assert again["ref"][name] == found["ref"][name]


@pytest.mark.parametrize(("name", "left_out"), [("deepmath", True), ("polaris", False)])
def test_problems_with_an_answer_column_lose_those_without_one(
    process: HubProcess, name: str, left_out: bool
) -> None:
    found = load(process, PROBLEMS[name].train())
    assert all(row["problem"] and row["answer"] for row in found["rows"])
    assert [drop[0] for drop in found["drops"]] == (["answer is empty"] if left_out else [])
    assert len(found["rows"]) + sum(drop[1] for drop in found["drops"]) == 20


def text(messages: list[dict[str, Any]]) -> str:
    (message,) = messages
    assert message["role"] == "assistant"
    return str(message["content"])


def test_hhh_comes_as_pairs_with_a_shuffled_test_split(process: HubProcess) -> None:
    for ref, split in ((PREFERENCES["hhh"].train(), "train"), (PREFERENCES["hhh"].held_out(), "test")):
        found = load(process, ref)
        rows = hh_rlhf_rows(split)
        assert [text(row["chosen"])[-1] + text(row["rejected"])[-1] for row in found["rows"]] == ["AB"] * 40
        first = rows[int(permutation(40, 0)[0])]["chosen"]
        assert text(found["rows"][0]["chosen"]) == first.rsplit("Assistant: ", 1)[1]
        assert [message["role"] for message in found["rows"][0]["prompt"]] == ["user", "assistant", "user"]


def test_helpsteer3_comes_without_its_ties(process: HubProcess) -> None:
    found = load(process, PREFERENCES["helpsteer3"].train())
    source = helpsteer3_rows()
    order = [n for n in permutation(40, 0).tolist() if source[n]["overall_preference"] != 0]
    for row, number in zip(found["rows"], order, strict=True):
        better = "response1" if source[number]["overall_preference"] < 0 else "response2"
        assert text(row["chosen"]) == source[number][better]
    ties = sum(row["overall_preference"] == 0 for row in source)
    assert [drop[:2] for drop in found["drops"]] == [["a tie: neither response is preferred", ties]]
    validation = load(process, PREFERENCES["helpsteer3"].held_out())
    assert validation["ref"]["split"] == "validation"


def test_ultrafeedback_holds_its_first_1024_shuffled_pairs_out(process: HubProcess) -> None:
    source = ultrafeedback_rows()
    order = permutation(len(source), 0).tolist()
    held_out = load(process, PREFERENCES["ultrafeedback"].held_out())
    train = load(process, PREFERENCES["ultrafeedback"].train())
    for found, places in ((held_out, order[:1024]), (train, order[1024:])):
        assert [text(row["chosen"]) for row in found["rows"]] == [
            source[n]["chosen_response"] for n in places
        ]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["hhh", "helpsteer3"])
def test_preference_trains_on_a_named_hub_dataset(crucible: Any, hub: LocalHub, dataset: str) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [
            sys.executable, "-m", "crucible_kitchen", "run", "preference", "-m", "dev", "-q", "model=tiny",
            f"dataset={dataset}", "data.limit=16", "data.eval_limit=8", "batch_size=8", "max_length=128",
            "max_steps=2",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=kept
        | {
            "CRUCIBLE_HOME": str(crucible.home),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(crucible.home / "hf"),
            "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = crucible.json("show", "last")["run"]
    assert shown["step"] == 2
    assert "test/preference_accuracy" in shown["metrics"]
