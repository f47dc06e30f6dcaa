"""The experiment: what its digest covers, and what its pipeline may hold."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import (
    ConfigError,
    Experiment,
    IfDef,
    LoopDef,
    ParallelDef,
    StageDef,
    TrainingConfig,
)
from crucible_ir.experiment import UNDIGESTED
from crucible_ir.pipeline import nodes_of

GOLDEN = Experiment.parse(
    (Path(__file__).parent / "golden" / "experiment_v1.json").read_text(encoding="utf-8")
)
A, B, C = StageDef(name="a"), StageDef(name="b"), StageDef(name="c")

ASIDE: dict[str, Any] = {
    "schema_version": 1,
    "id": "another",
    "description": "Other words",
    "owner": "bob",
    "tags": ("other",),
    "metadata": {"other": 1},
    "baseline": "run-2",
    "created_at": datetime(2027, 1, 1, tzinfo=UTC),
    "updated_at": None,
}
OTHER: dict[str, Any] = {
    "experiment_type": "ablation",
    "recipe": "chat_sl",
    "workflow": None,
    "pipeline": GOLDEN.pipeline[:1],
    "backend": {"manifest": "dev"},
    "model": None,
    "dataset": None,
    "eval_dataset": {"id": "other.jsonl"},
    "training": {"epochs": 2},
    "reliability": None,
    "settings": {"renderer": "llama3"},
    "seed": 43,
    "outputs": (),
}


def changed(**fields: Any) -> Experiment:
    return Experiment.parse({**GOLDEN.model_dump(), **fields})


def test_every_field_is_either_digested_or_named_as_not_digested() -> None:
    assert set(ASIDE) == set(UNDIGESTED)
    assert set(ASIDE) | set(OTHER) == set(Experiment.model_fields)
    assert not set(ASIDE) & set(OTHER)


@pytest.mark.parametrize("name", sorted(ASIDE))
def test_who_when_and_what_for_do_not_change_the_config_digest(name: str) -> None:
    assert changed(**{name: ASIDE[name]}).config_digest == GOLDEN.config_digest


@pytest.mark.parametrize("name", sorted(OTHER))
def test_any_other_field_changes_the_config_digest(name: str) -> None:
    other = changed(**{name: OTHER[name]})
    assert getattr(other, name) != getattr(GOLDEN, name)
    assert other.config_digest != GOLDEN.config_digest


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for number, item in enumerate(value) for leaf in leaves(item, (*path, number))]
    return [path]


def other_than(value: Any, path: tuple[Any, ...]) -> list[Any]:
    """Values to try instead of ``value``; the first that the contract accepts is taken."""
    if path[-1] in ("digest", "order_digest", "transform_digest"):
        return ["sha256:" + "0" * 64]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2, value + 0.5]
    words = ["other", "json", "csv", "hub", "float32", "auto", "constant", "linear", "archived", "comparison"]
    words += ["bonferroni", "percentile", "ttest", "html", "stdout", "ablation", "2.0.0", "cross"]
    return [*words, "cohens_d", {}, 3, 0.25, True, {"a": 1}, ["a"], [], "2026-01-01T00:00:00Z", "memory"]


DUMPED = GOLDEN.model_dump(mode="json", exclude=set(UNDIGESTED))
ONE_VALUE = {("training", "optimizer", "name")}
LEAVES = [path for path in leaves(DUMPED) if path[-1] != "kind" and path not in ONE_VALUE]


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_a_change_of_any_value_inside_changes_the_config_digest(path: tuple[Any, ...]) -> None:
    import copy

    for candidate in other_than(_at(DUMPED, path), path):
        data = copy.deepcopy(DUMPED)
        _at(data, path[:-1])[path[-1]] = candidate
        try:
            other = Experiment.parse({"id": "x", **data})
        except ConfigError:
            continue
        if other.model_dump(mode="json", exclude=set(UNDIGESTED)) == DUMPED:
            continue
        assert other.config_digest != GOLDEN.config_digest
        return
    pytest.fail("no other valid value found")


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def test_full_fine_tuning_and_an_adapter_have_different_digests() -> None:
    adapter = changed(training=TrainingConfig().model_dump())
    full = changed(training={**TrainingConfig().model_dump(), "lora": None})
    assert adapter.config_digest != full.config_digest


def test_none_in_free_form_settings_counts() -> None:
    assert changed(settings={"a": None}).config_digest != changed(settings={}).config_digest


def test_free_form_values_are_plain_json_and_apart_from_what_was_given() -> None:
    given: dict[str, Any] = {"sizes": (1, 2), "where": Path("a/b"), "n": {3: "x"}}
    experiment = Experiment(id="x", pipeline=(A,), settings=given)
    given["late"] = 1
    assert experiment.settings == {"sizes": [1, 2], "where": "a/b", "n": {"3": "x"}}
    assert Experiment.parse(experiment.model_dump_json()) == experiment


def test_a_node_without_kind_is_a_stage() -> None:
    experiment = Experiment.parse({"id": "x", "pipeline": [{"name": "a"}]})
    assert experiment.pipeline == (A,)


def test_nodes_come_with_their_paths_in_order() -> None:
    nodes = (
        A,
        LoopDef(name="l", over="n", body=(B,)),
        IfDef(when="w", body=(C,), otherwise=(StageDef(name="d"),)),
        ParallelDef(name="p", branches=((StageDef(name="e"),), (StageDef(name="f"),))),
    )
    assert [path for path, _ in nodes_of(nodes)] == [
        "[0]",
        "[1]",
        "[1].body[0]",
        "[2]",
        "[2].body[0]",
        "[2].otherwise[0]",
        "[3]",
        "[3].branches[0][0]",
        "[3].branches[1][0]",
    ]


def problems(*nodes: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"id": "x", "pipeline": nodes})
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_stage_may_stand_twice_with_or_without_labels() -> None:
    labelled = StageDef(name="a", label="second")
    assert Experiment(id="x", pipeline=(A, labelled)).pipeline[1] == labelled
    assert (A.place, labelled.place) == ("a", "second")
    assert Experiment(id="x", pipeline=(A, IfDef(when="w", body=(A,), otherwise=(A,)))).pipeline[0] == A


def test_a_label_that_stands_twice_is_named() -> None:
    first, second = StageDef(name="a", label="same"), StageDef(name="b", label="same")
    assert problems(first, LoopDef(name="l", over="n", body=(second,))) == {
        "pipeline[1].body[0].label": "the stage at [0] goes by 'same' already"
    }


def test_one_stage_object_put_in_twice_is_two_places() -> None:
    labelled = StageDef(name="a", label="same")
    assert set(problems(labelled, labelled)) == {"pipeline[1].label"}


def test_a_label_that_is_the_name_of_another_stage_is_named() -> None:
    labelled = StageDef(name="a", label="b")
    assert problems(labelled, B) == {"pipeline[0].label": "the stage at [1] goes by 'b' already"}
    assert problems(B, labelled) == {"pipeline[1].label": "the stage at [0] goes by 'b' already"}
    own = StageDef(name="a", label="a")
    assert Experiment(id="x", pipeline=(own, B)).pipeline[0] == own


def test_a_loop_inside_a_loop_of_the_same_name_is_named() -> None:
    inner = LoopDef(name="l", over="n", body=(A,))
    found = problems(LoopDef(name="l", over="m", body=(B, inner)))
    assert found == {"pipeline[0].body[1].name": "the loop 'l' stands inside a loop of the same name at [0]"}


def test_loops_of_the_same_name_one_after_the_other_are_fine() -> None:
    nodes = (LoopDef(name="l", over="n", body=(A,)), LoopDef(name="l", over="n", body=(B,)))
    assert len(Experiment(id="x", pipeline=nodes).pipeline) == 2


@pytest.mark.parametrize("name", ["os:system", "a/b", "../x", "", "a b", "1a", "a..b", "a\n"])
def test_a_stage_is_a_registered_name_never_an_import_path(name: str) -> None:
    assert set(problems({"name": name})) == {"pipeline[0].name"}


def test_outputs_have_names_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"outputs\[1\]\.name: the output 'r' stands in the list already"):
        Experiment.parse({"id": "x", "pipeline": [A], "outputs": [{"name": "r"}, {"name": "r"}]})
