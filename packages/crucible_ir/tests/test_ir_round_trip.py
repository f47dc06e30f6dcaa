"""JSON there and back is identity for every contract with every field filled."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, ValidationError

from crucible_ir import Contract, IfDef, LoopDef, ParallelDef, StageDef, digest_of
from crucible_ir.json_values import JsonData, JsonObject, MeasuredObject
from crucible_ir.llm import Base64Text
from crucible_ir.pipeline import RegisteredName
from crucible_ir.refs import Digest
from crucible_ir.schema import contract_named, contract_names
from crucible_ir.versions import VersionId

NODES = (StageDef, LoopDef, IfDef, ParallelDef)
NUMBERS = st.integers(0, 100) | st.floats(0, 1, exclude_min=True)
SCALARS = st.booleans() | st.text(max_size=8) | st.integers(-(2**60), 2**60) | st.floats(-1e6, 1e6)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=4), SCALARS, max_size=2)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, min_size=1, max_size=3)
DATES = st.datetimes(
    datetime(1970, 1, 1),
    datetime(2100, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45))]),
)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(min_size=1, max_size=12),
    bool: st.booleans(),
    int: st.integers(1, 40),
    float: st.floats(0, 1, exclude_min=True, exclude_max=True),
    AwareDatetime: DATES,
}
SPECIAL = [
    (JsonObject, OBJECTS),
    (MeasuredObject, OBJECTS),
    (JsonData, VALUES),
    (RegisteredName, st.sampled_from(["load_dataset", "acme.load-2", "x"])),
    (Digest, st.integers(0, 9).map(digest_of)),
    (VersionId, st.sampled_from(["1.2.3", "v0.1.0-rc.1+b5", "20260106T101530-ab12"])),
    (Base64Text, st.sampled_from(["", "AAAA", "aGk="])),
]


@cache
def of_type(annotation: Any, depth: int) -> st.SearchStrategy[Any]:
    """Values for any annotation that a contract uses; never None where something else may stand."""
    for known, strategy in SPECIAL:
        if annotation == known:
            return strategy
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return of_type(arguments[0], depth)
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        if depth <= 0 and set(members) == set(NODES):
            members = [StageDef]
        return st.one_of(*(of_type(member, depth) for member in members))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        inner = of_type(arguments[0], depth - 1)
        return st.lists(inner, min_size=1, max_size=2 if depth > 1 else 1).map(tuple)
    if origin is dict:
        keys = st.text(min_size=1, max_size=5)
        return st.dictionaries(keys, of_type(arguments[1], depth - 1), min_size=1, max_size=1)
    if annotation is Any:
        return VALUES
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Contract):
        return instances(annotation, depth - 1)
    return LEAVES[annotation]


@st.composite
def instances(draw: st.DrawFn, model: type[Contract], depth: int = 2) -> Contract:
    """A valid contract with every field given; values that break a rule are put right or drawn again."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name == "schema_version" or (model.__name__ == "ApprovalRequest" and name == "digest"):
            continue
        annotation = field.annotation
        for mark in field.metadata:
            annotation = Annotated[annotation, mark]
        fields[name] = draw(of_type(annotation, depth))
    fields.update({name: value(fields) for name, value in RULES.get(model.__name__, {}).items()})
    try:
        return model(**fields)
    except ValidationError as error:
        assume(False)
        raise AssertionError from error


def _renamed(nodes: tuple[Any, ...], prefix: str = "n") -> tuple[Any, ...]:
    """The nodes with a place and a name of their own each."""
    out = []
    for number, node in enumerate(nodes):
        name = f"{prefix}{number}"
        update: dict[str, Any] = {"label": name} if isinstance(node, StageDef) else {"name": name}
        for inner in ("body", "otherwise"):
            if hasattr(node, inner):
                update[inner] = _renamed(getattr(node, inner), f"{name}{inner[0]}")
        if isinstance(node, ParallelDef):
            update["branches"] = tuple(
                _renamed(branch, f"{name}p{at}_") for at, branch in enumerate(node.branches)
            )
        if isinstance(node, IfDef):
            del update["name"]
        out.append(node.model_copy(update=update))
    return tuple(out)


RULES: dict[str, dict[str, Any]] = {
    "Experiment": {
        "pipeline": lambda f: _renamed(f["pipeline"]),
        "outputs": lambda f: f["outputs"][:1],
    },
    "TrainingConfig": {"max_length": lambda f: f["max_length"] + 1, "micro_batch_size": lambda f: 1},
    "EnsembleConfig": {"weights": lambda f: {f["models"][0]: 0.5}},
    "FeedbackEvent": {
        "feedback_type": lambda f: f["signal"].feedback_type,
        "feedback_value": lambda f: {"thumbs": True, "rating": 4.5}.get(f["signal"].feedback_type, "text"),
    },
    "ScalingSpec": {"max_replicas": lambda f: f["min_replicas"] + 1},
    "CanarySpec": {"steps_percent": lambda f: (5, 50, 100)},
    "DeploymentConfig": {"strategy": lambda f: "canary"},
    "DeploymentStatus": {"total_replicas": lambda f: f["ready_replicas"] + 1},
    "DriftConfig": {"window": lambda f: f["window"] + 1, "min_samples": lambda f: f["min_samples"] + 1},
    "ImagePart": {"url": lambda f: None},
    "RetryPolicy": {"factor": lambda f: f["factor"] + 1},
    "Prompt": {"tool_choice": lambda f: f["tools"][0].name},
}


@pytest.mark.parametrize("name", contract_names())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_json_there_and_back_is_identity_with_every_field_filled(name: str, data: st.DataObject) -> None:
    model = contract_named(name)
    value = data.draw(instances(model))
    assert value.model_fields_set | {"schema_version", "digest"} >= set(model.model_fields)
    assert model.parse(value.model_dump_json()) == value
    assert model.parse(value.model_dump(mode="json")) == value
    assert model.parse(value.canonical()) == value
    assert model.parse(value.model_dump()) == value
    assert model.parse(value.canonical()).content_digest == value.content_digest


@pytest.mark.parametrize("name", contract_names())
def test_a_contract_constructs_with_its_required_fields_alone_and_names_each_that_is_missing(
    name: str,
) -> None:
    model = contract_named(name)
    required = {field for field, info in model.model_fields.items() if info.is_required()}
    try:
        model()
        missing = set()
    except ValidationError as error:
        missing = {str(e["loc"][0]) for e in error.errors() if e["type"] == "missing"}
    if name not in ("ImagePart", "AlertRule"):  # these need one of two optional fields
        assert missing == required


def test_measured_values_that_are_not_finite_survive_json() -> None:
    from math import inf, isnan

    from crucible_ir import MetricRow

    row = MetricRow(step=1, metrics={"loss": float("nan"), "ppl": inf})
    again = MetricRow.parse(row.model_dump_json())
    assert isnan(again.metrics["loss"])
    assert again.metrics["ppl"] == inf


def test_a_contract_cannot_be_changed() -> None:
    stage = StageDef(name="x")
    with pytest.raises(ValidationError, match="frozen"):
        stage.name = "y"  # type: ignore[misc]
