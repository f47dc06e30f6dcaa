"""Every problem at once, with the path a person would write and the nearest valid name."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from crucible_ir import ConfigError, Contract, Event, Experiment, Problem, Prompt, TrainingConfig
from crucible_ir.json_values import JsonObject


def problems(model: type[Contract], data: Any, where: str = "") -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        model.parse(data, where=where)
    return {problem.path: f"{problem.message}; {problem.remedy}" for problem in caught.value.problems}


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Leaf(Contract):
    width: int = Field(default=1, ge=0)
    size: Size = Size.SMALL


class Cat(Contract):
    type: Literal["cat"] = "cat"
    whiskers: int = 0


class Dog(Contract):
    type: Literal["dog"] = "dog"
    tail: str = ""


Pet = Annotated[Cat | Dog, Field(discriminator="type")]


class Tree(Contract):
    leaf: Leaf = Leaf()
    maybe: Leaf | None = None
    many: tuple[Leaf, ...] = ()
    pair: tuple[Leaf, Cat] | None = None
    named: dict[str, Leaf] = Field(default_factory=dict)
    grid: list[list[Leaf]] = Field(default_factory=list)
    pet: Pet | None = None
    pets: tuple[Pet, ...] = Field(default=(), min_length=0)
    either: Leaf | int | str = 0
    free: JsonObject = Field(default_factory=dict)
    api_key: int = 0
    count: int = 0


def test_all_problems_of_an_experiment_come_at_once_with_dotted_paths() -> None:
    found = problems(
        Experiment,
        {
            "id": "",
            "pipeline": [
                {"kind": "stage", "nme": "a", "name": 3},
                {"kind": "loop", "name": "l", "over": "o", "body": []},
                {"kind": "stge"},
                {
                    "kind": "if",
                    "when": "w",
                    "body": [{"kind": "stage", "name": "x", "retry": {"atempts": 2}}],
                },
                {"kind": "parallel", "name": "p", "branches": [[{"name": "a", "timeout_s": 0}]]},
            ],
            "sed": 3,
            "training": {"lora": {"rnk": 3}, "batch_size": 0, "optimizer": {"learning_rate": -1}},
            "dataset": {"id": "x", "source": "fil"},
            "backend": {"options": {"hub": {"x": {1, 2}}}},
        },
    )
    assert found == {
        "id": "String should have at least 1 character (given ''); ",
        "pipeline[0].name": "should be a valid string, not 3; ",
        "pipeline[0].nme": "unknown key 'nme'; did you mean 'name'?",
        "pipeline[1].body": "should have at least 1 item, not 0; ",
        "pipeline[2].kind": "unknown kind 'stge'; did you mean 'stage'?",
        "pipeline[3].body[0].retry.atempts": "unknown key 'atempts'; did you mean 'attempts'?",
        "pipeline[4].branches[0][0].timeout_s": "should be greater than 0, not 0; ",
        "sed": "unknown key 'sed'; did you mean 'seed'?",
        "training.lora.rnk": "unknown key 'rnk'; did you mean 'rank'?",
        "training.batch_size": "should be greater than or equal to 1, not 0; ",
        "training.optimizer.learning_rate": "should be greater than or equal to 0, not -1; ",
        "dataset.source": (
            "should be 'auto', 'file', 'hub', 'memory' or 'store', not 'fil'; did you mean 'file'?"
        ),
        "backend.options.hub.x": (
            "a set is not a JSON value; give text, numbers, lists, objects, or dates with an offset"
        ),
    }


def test_where_goes_before_every_path() -> None:
    assert set(problems(TrainingConfig, {"epoch": 1}, where="run.toml")) == {"run.toml.epoch"}
    assert set(problems(Event, "{}", where="line 3")) >= {"line 3.seq", "line 3.at"}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"leaf": {"widht": 1}}, "leaf.widht"),
        ({"maybe": {"widht": 1}}, "maybe.widht"),
        ({"many": [{}, {"widht": 1}]}, "many[1].widht"),
        ({"pair": [{"widht": 1}, {}]}, "pair[0].widht"),
        ({"named": {"a b": {"widht": 1}}}, "named.a b.widht"),
        ({"grid": [[], [{}, {"widht": 1}]]}, "grid[1][1].widht"),
        ({"either": {"widht": 1}}, "either.widht"),
    ],
)
def test_the_nearest_valid_key_is_named_at_any_depth(data: dict[str, Any], path: str) -> None:
    assert problems(Tree, data) == {path: "unknown key 'widht'; did you mean 'width'?"}


def test_the_nearest_valid_key_is_that_of_the_chosen_member_of_a_union() -> None:
    found = problems(Tree, {"pet": {"type": "cat", "wiskers": 1}, "pets": [{"type": "dog", "tial": ""}]})
    assert found["pet.wiskers"].endswith("did you mean 'whiskers'?")
    assert found["pets[0].tial"].endswith("did you mean 'tail'?")


def test_a_key_like_no_other_is_answered_with_all_valid_ones() -> None:
    assert problems(Leaf, {"zzz": 1}) == {"zzz": "unknown key 'zzz'; valid: size, width"}


def test_the_nearest_valid_value_of_an_enum_is_named() -> None:
    found = problems(Tree, {"leaf": {"size": "smal"}, "many": [{"size": "xyz"}]})
    assert found["leaf.size"] == "should be 'small' or 'large', not 'smal'; did you mean 'small'?"
    assert found["many[0].size"] == "should be 'small' or 'large', not 'xyz'; "


def test_a_missing_or_unknown_kind_is_a_problem_of_the_field_that_tells_them_apart() -> None:
    found = problems(Tree, {"pet": {"whiskers": 1}, "pets": [{"type": "bird"}]})
    assert found == {
        "pet.type": "missing; valid: cat, dog",
        "pets[0].type": "unknown kind 'bird'; valid: cat, dog",
    }


def test_problems_inside_a_union_are_those_of_the_member_that_was_meant() -> None:
    found = problems(Prompt, {"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]})
    assert found == {
        "messages[0].content[0].text": "missing; give a value",
        "messages[0].content[0].txt": "unknown key 'txt'; did you mean 'text'?",
    }


def test_a_value_that_fits_no_member_of_a_union_is_told_what_each_wants() -> None:
    with pytest.raises(ConfigError) as caught:
        Tree.parse({"either": 1.5})
    assert {problem.path for problem in caught.value.problems} == {"either"}
    assert len(caught.value.problems) == 3


def test_too_few_items_is_not_reported_because_items_failed() -> None:
    found = problems(Experiment, {"id": "x", "pipeline": [{"name": 1}]})
    assert set(found) == {"pipeline[0].name"}
    assert set(problems(Experiment, {"id": "x", "pipeline": []})) == {"pipeline"}


@pytest.mark.parametrize("name", ["api_key", "token", "password", "client_secret", "key", "hf_token"])
def test_values_of_fields_that_smell_of_a_secret_are_not_shown(name: str) -> None:
    model = type("Model", (Contract,), {"__annotations__": {name: int, "inner": dict[str, int]}})
    with pytest.raises(ConfigError) as caught:
        model.parse({name: "s3cr3t", "inner": {name: "s3cr3t"}})
    assert len(caught.value.problems) == 2
    assert "s3cr3t" not in str(caught.value)
    assert "[redacted]" in str(caught.value)


def test_secrets_within_a_shown_value_are_not_shown() -> None:
    found = problems(Tree, {"count": {"api_key": "s3cr3t", "url": "https://ann:pa55@host"}})
    assert "s3cr3t" not in found["count"]
    assert "pa55" not in found["count"]


def test_the_error_of_a_direct_construction_shows_no_values() -> None:
    with pytest.raises(ValidationError) as caught:
        Tree(api_key="s3cr3t")  # type: ignore[arg-type]
    assert "s3cr3t" not in str(caught.value)


def test_a_long_value_is_cut_to_one_line() -> None:
    (text,) = problems(Tree, {"count": "x" * 500}).values()
    assert len(text) < 200
    assert "..." in text


def test_free_form_fields_name_the_place_that_is_not_json() -> None:
    found = problems(
        Tree, {"free": {"a": [{"b": object()}], "c": float("nan"), "d": {None: 1}, "e": {"f": b""}}}
    )
    assert set(found) == {"free.a[0].b", "free.c", "free.d", "free.e.f"}
    assert found["free.c"] == "should be a finite number, not nan; "


def test_text_that_is_not_json_is_one_problem_with_line_and_column() -> None:
    assert problems(Leaf, '{"width": 1,\n "size": }', where="a.json") == {
        "a.json": "not JSON: Expecting value at line 2, column 10; give one JSON object"
    }
    assert problems(Leaf, b'{"width": "\xff"}') == {"Leaf": "not UTF-8 text: byte 11; save it as UTF-8"}


def test_a_key_that_stands_twice_in_json_is_refused() -> None:
    found = problems(Leaf, '{"width": 1, "width": 2}')
    assert found == {"Leaf": "the key 'width' stands twice in one object; keep one of them"}


def test_json_that_is_no_object_is_a_problem_of_the_whole() -> None:
    assert list(problems(Leaf, "[1]", where="a.json")) == ["a.json"]
    assert list(problems(Leaf, "3")) == [""]


def test_lenient_parsing_drops_unknown_keys_at_any_depth_and_nothing_else() -> None:
    data = {
        "leaf": {"width": 2, "old": 1},
        "many": [{"gone": {}}],
        "pet": {"type": "dog", "x": 1},
        "extra": 1,
    }
    tree = Tree.parse(data, strict=False)
    assert tree == Tree(leaf=Leaf(width=2), many=(Leaf(),), pet=Dog())
    assert data["extra"] == 1
    with pytest.raises(ConfigError, match=r"leaf\.width"):
        Tree.parse({"leaf": {"width": "wide", "old": 1}}, strict=False)


def test_lenient_parsing_refuses_an_unknown_enum_word_too() -> None:
    with pytest.raises(ConfigError, match=r"leaf\.size"):
        Tree.parse({"leaf": {"size": "medium"}}, strict=False)


def test_a_problem_is_not_listed_twice() -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"id": "x", "pipeline": [{"name": "a"}, {"name": "b", "label": "a"}]})
    assert caught.value.problems == (
        Problem(
            path="pipeline[1].label",
            message="the stage at [0] goes by 'a' already",
            remedy="give each place a label of its own",
        ),
    )
