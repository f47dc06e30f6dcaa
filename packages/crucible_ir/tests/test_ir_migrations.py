"""Documents of older schema versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ConfigError, ConflictError, Contract, Event, Experiment
from crucible_ir.migrations import current_version, migrate, register

GOLDEN = Path(__file__).parent / "golden" / "experiment_v1.json"
GOLDEN_CONFIG_DIGEST = "sha256:0ba24069a00ec82f1ff8c8649d22a70d6c4ae62e33b1d6d8d9dd46ee7576d053"
GOLDEN_CONTENT_DIGEST = "sha256:620b7d038ebb7b457348444bb4b50d99df64dc66765da07a555adde5e53f243a"


class Thing(Contract):
    schema_version: int = 3
    name: str
    size_bytes: int = 0


class Plain(Contract):
    name: str


@register(Thing, from_version=1)
def _title_becomes_name(data: dict[str, Any]) -> dict[str, Any]:
    fields = dict(data)
    fields["name"] = fields.pop("title")
    return fields


@register(Thing, from_version=2)
def _kilobytes_become_bytes(data: dict[str, Any]) -> dict[str, Any]:
    fields = dict(data)
    fields["size_bytes"] = fields.pop("size_kb", 0) * 1024
    return fields


def test_an_older_document_is_taken_through_every_step_before_validation() -> None:
    expected = Thing(name="a", size_bytes=2048)
    assert Thing.parse({"schema_version": 1, "title": "a", "size_kb": 2}) == expected
    assert Thing.parse('{"schema_version": 2, "name": "a", "size_kb": 2}') == expected
    assert Thing.parse({"schema_version": 3, "name": "a", "size_bytes": 2048}) == expected
    assert expected.schema_version == 3


def test_a_document_without_a_version_counts_as_current() -> None:
    assert Thing.parse({"name": "a"}) == Thing(name="a")


def test_the_document_that_is_given_is_not_changed() -> None:
    document = {"schema_version": 1, "title": "a"}
    Thing.parse(document)
    assert document == {"schema_version": 1, "title": "a"}


def test_a_newer_document_is_one_clear_error() -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"schema_version": 99, "everything": "else", "is": "unknown"}, where="old.json")
    assert str(caught.value) == (
        "old.json.schema_version: Experiment of schema version 99 is newer than 1, the newest known here; "
        "upgrade crucible-ir, or write the document with the older version"
    )


def test_a_missing_step_is_one_clear_error() -> None:
    class Gap(Contract):
        schema_version: int = 3

    register(Gap, from_version=1)(dict)
    with pytest.raises(ConfigError, match="no migration of Gap from schema version 2 to 3"):
        Gap.parse({"schema_version": 1})


@pytest.mark.parametrize("version", ["1", True, 0, -1, None, 1.5])
def test_a_version_that_is_no_positive_integer_is_left_to_validation(version: object) -> None:
    assert migrate(Thing, {"schema_version": version}) == {"schema_version": version}


def test_a_version_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="schema_version"):
        Experiment.parse({"schema_version": 0, "id": "x", "pipeline": [{"name": "a"}]})


def test_a_step_registered_twice_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match="already"):
        register(Thing, from_version=1)(dict)


@pytest.mark.parametrize(("model", "version"), [(Plain, 1), (Thing, 3), (Thing, 0)])
def test_a_step_must_start_at_an_older_version_of_a_versioned_contract(
    model: type[Contract], version: int
) -> None:
    with pytest.raises(ConfigError):
        register(model, from_version=version)


def test_contracts_that_are_stored_carry_a_version() -> None:
    assert current_version(Experiment) == current_version(Event) == 1
    assert current_version(Plain) is None


def test_a_stored_experiment_of_version_1_still_parses_with_the_same_digests() -> None:
    text = GOLDEN.read_text(encoding="utf-8")
    experiment = Experiment.parse(text, where=GOLDEN.name)
    assert experiment.config_digest == GOLDEN_CONFIG_DIGEST
    assert experiment.content_digest == GOLDEN_CONTENT_DIGEST
    assert Experiment.parse(experiment.canonical()) == experiment
