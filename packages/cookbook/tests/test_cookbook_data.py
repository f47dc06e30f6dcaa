"""Datasets that recipes know by name: which rows they mean, and what may be changed about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.bundled import bundled_data
from crucible_cookbook.data import PREFERENCES, PROBLEMS, PreferenceData, ProblemData, problem_data
from crucible_cookbook.recipes.preference import Preference, PreferenceConfig
from crucible_datasets import FieldMapping
from crucible_ir import ConfigError, DatasetRef

MATH_500 = "HuggingFaceH4/MATH-500"


def short(ref: DatasetRef | None) -> tuple[Any, ...] | None:
    if ref is None:
        return None
    return (ref.id, ref.config, ref.split, ref.shuffle_seed, ref.skip, ref.limit, ref.mapping["schema"])


def preference_rows(**settings: Any) -> list[tuple[Any, ...] | None]:
    experiment = Preference().parse({"model": "tiny", **settings})
    return [short(experiment.dataset), short(experiment.eval_dataset)]


HHH = ("Anthropic/hh-rlhf", None)
HELPSTEER3 = ("nvidia/HelpSteer3", "preference")
ULTRAFEEDBACK = ("argilla/ultrafeedback-binarized-preferences", None)


@pytest.mark.parametrize(
    ("dataset", "train", "held_out"),
    [
        (
            "hhh",
            (*HHH, "train", 0, 0, None, "preference_conversations"),
            (*HHH, "test", 0, 0, 1024, "preference_conversations"),
        ),
        (
            "helpsteer3",
            (*HELPSTEER3, "train", 0, 0, None, "preference_scored"),
            (*HELPSTEER3, "validation", 0, 0, 1024, "preference_scored"),
        ),
        (
            "ultrafeedback",
            (*ULTRAFEEDBACK, "train", 0, 1024, None, "preference"),
            (*ULTRAFEEDBACK, "train", 0, 0, 1024, "preference"),
        ),
    ],
)
def test_preference_takes_upstreams_rows_of_the_dataset_that_is_named(
    dataset: str, train: tuple[Any, ...], held_out: tuple[Any, ...]
) -> None:
    assert preference_rows(dataset=dataset) == [train, held_out]


def test_without_a_name_preference_takes_hhh() -> None:
    assert preference_rows() == preference_rows(dataset="hhh")
    assert PreferenceConfig().data == PREFERENCES["hhh"]


def test_a_named_dataset_may_be_changed_in_part() -> None:
    (train, held_out) = preference_rows(
        dataset="helpsteer3", data={"limit": 50, "eval_limit": 9, "shuffle_seed": 4}
    )
    assert train == (*HELPSTEER3, "train", 4, 0, 50, "preference_scored")
    assert held_out == (*HELPSTEER3, "validation", 0, 0, 9, "preference_scored")
    (copy, _) = preference_rows(dataset="helpsteer3", data={"path": "me/helpsteer3"})
    assert copy == ("me/helpsteer3", *train[1:3], 0, 0, None, train[6])
    assert PreferenceConfig(dataset="hhh", data=PreferenceData(limit=5)).data.eval_split == "test"


def test_a_path_is_no_named_dataset(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("")
    rows = [(str(path), None, "train", 0, 20, None, "auto"), (str(path), None, "train", 0, 0, 20, "auto")]
    assert preference_rows(dataset=str(path), data={"test_size": 20}) == rows
    assert preference_rows(data={"path": str(path), "test_size": 20}) == rows
    bundled = [str(bundled_data(f"preference_{role}.jsonl")) for role in ("train", "test")]
    for settings in ({"dataset": "tiny"}, {"data": {"path": "tiny"}}):
        assert [row[0] for row in preference_rows(**settings) if row] == bundled


@pytest.mark.parametrize("dataset", [None, "hhh", "helpsteer3", "ultrafeedback", "tiny"])
def test_the_settings_of_a_run_read_back_to_the_same_run(dataset: str | None) -> None:
    experiment = Preference().parse({"model": "tiny", "dataset": dataset, "data": {"limit": 7}})
    assert Preference().parse(dict(experiment.settings)) == experiment


@pytest.mark.parametrize(
    ("settings", "path"),
    [({"data": {"limt": 5}}, "data.limt"), ({"dataset": 7}, "dataset"), ({"data": 7}, "data")],
)
def test_settings_that_are_wrong_keep_their_path(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Preference().parse({"model": "tiny", **settings})
    assert path in [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize("name", [*PREFERENCES, *PROBLEMS])
def test_every_named_dataset_has_a_mapping_that_reads(name: str) -> None:
    data = (PREFERENCES | PROBLEMS)[name]
    for ref in (data.train(), data.held_out()):
        if ref is not None:
            assert FieldMapping.parse(ref.mapping).schema == ref.mapping["schema"] != "auto"


def test_math_is_every_subject_without_the_problems_it_is_tested_on() -> None:
    train, test = PROBLEMS["math"].train(), PROBLEMS["math"].held_out()
    assert train.split == "train+test"
    assert train.config is not None
    assert len(train.config.split("+")) == 7
    exclude = FieldMapping.parse(train.mapping).exclude
    assert exclude is not None
    assert (exclude.column, exclude.dataset.id, exclude.dataset.split) == ("problem", MATH_500, "test")
    assert short(test) == (MATH_500, None, "test", None, 0, None, "problem_boxed")
    assert test is not None
    assert "exclude" not in test.mapping


def test_held_out_rows_of_another_dataset_take_neither_configuration_nor_revision_of_the_first() -> None:
    data = ProblemData(
        path="a/b", config="main", revision="v1", eval_path="c/d", eval_config="hard", eval_split="test"
    )
    held_out = data.held_out()
    assert held_out is not None
    assert (held_out.id, held_out.config, held_out.revision) == ("c/d", "hard", None)
    same = data.model_copy(update={"eval_path": None}).held_out()
    assert same is not None
    assert (same.id, same.config, same.revision) == ("a/b", "main", "v1")


def test_upstream_shows_an_example_before_problems_of_gsm8k_and_math_alone() -> None:
    assert {name: data.few_shot for name, data in PROBLEMS.items()} == {
        "gsm8k": True,
        "math": True,
        "deepmath": False,
        "polaris": False,
    }
    assert (problem_data("mine.jsonl").path, problem_data("mine.jsonl").few_shot) == ("mine.jsonl", True)
