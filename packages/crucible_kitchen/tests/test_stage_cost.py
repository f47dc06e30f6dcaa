"""What a run is expected to cost, and how that is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.remarks import remarks
from crucible_kitchen.stages.cost import (
    COST_ESTIMATED,
    COST_RECONCILED,
    Priced,
    announce_cost,
    reconcile_cost,
    trained_tokens,
)
from crucible_testing.backend import BigramBackend


class PaidBackend:
    """A dollar a token."""

    def __init__(self, used: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._used = used or {}

    def used_by_model(self) -> Mapping[str, Mapping[str, int]]:
        return self._used

    def price_of(
        self, base_model: str, *, trained: int = 0, scored: int = 0, prefilled: int = 0, sampled: int = 0
    ) -> float | None:
        return float(trained + scored + sampled) if base_model == "priced" else None


class Context:
    """What ``announce_cost`` reads of a stage's context."""

    def __init__(
        self, backend: object, model: str = "priced", resume: object = None, run_dir: Path = Path("nowhere")
    ) -> None:
        self.run_dir = run_dir
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.resume = resume
        self.experiment = type("E", (), {"model": type("M", (), {"uri": None, "id": model})})
        self.backend = backend

    def has_port(self, name: str) -> bool:
        return self.backend is not None

    def port(self, name: str) -> object:
        return self.backend

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        self.events.append((kind, data))


def announced(
    context: Context, trained: int | None = 10, scored: int = 2
) -> list[tuple[str, dict[str, Any]]]:
    announce_cost(context, trained=trained, scored=scored, without="evaluation")  # type: ignore[arg-type]
    return context.events


def test_a_backend_that_is_paid_for_is_priced_before_it_works() -> None:
    assert isinstance(PaidBackend(), Priced)
    tokens = {"trained": 10, "scored": 2}
    assert announced(Context(PaidBackend())) == [
        (COST_ESTIMATED, {"tokens": tokens, "usd": 12.0, "without": "evaluation"})
    ]
    assert announced(Context(PaidBackend(), "other"))[0][1]["usd"] is None
    assert announced(Context(PaidBackend()), trained=None)[0][1] == {
        "tokens": {},
        "usd": None,
        "without": "evaluation",
    }


@pytest.mark.parametrize(
    "context", [Context(BigramBackend()), Context(None), Context(PaidBackend(), resume="a checkpoint")]
)
def test_nothing_is_said_of_an_engine_of_ones_own_nor_of_a_run_that_goes_on(context: Context) -> None:
    assert announced(context) == []


def test_tokens_of_some_steps_are_those_of_the_mean_example() -> None:
    assert trained_tokens([3, 5, 10], steps=2, batch_size=3) == 36
    assert trained_tokens([3, 4], steps=3, batch_size=1) == 10
    assert trained_tokens([], steps=3, batch_size=1) == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"tokens": {"trained": 12000, "scored": 0}, "usd": 0.125, "without": "samples"},
            "expected cost: 0.12 USD (12,000 tokens trained; without: samples)",
        ),
        (
            {"tokens": {}, "usd": None, "without": "all"},
            "expected cost: unknown (tokens unknown; without: all)",
        ),
    ],
)
def test_the_expected_cost_is_a_remark_of_the_run(data: dict[str, Any], said: str) -> None:
    assert remarks(COST_ESTIMATED, data) == [said]


def reconciled(folder: Path, backend: PaidBackend, estimate: Mapping[str, Any] | None) -> dict[str, Any]:
    lines = [] if estimate is None else [{"type": COST_ESTIMATED, "data": estimate}]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    context = Context(backend, run_dir=folder)
    reconcile_cost(context)  # type: ignore[arg-type]
    ((kind, data),) = context.events
    assert kind == COST_RECONCILED
    return data


def test_what_was_used_is_held_against_what_was_expected_kind_by_kind(tmp_path: Path) -> None:
    estimate = {"tokens": {"trained": 10, "scored": 0}, "usd": 10.0, "without": "evaluation"}
    used = {"priced": {"trained": 12, "scored": 3, "sampled": 0}}
    data = reconciled(tmp_path, PaidBackend(used), estimate)
    assert data["used"] == {"tokens": {"trained": 12, "scored": 3, "sampled": 0}, "usd": 15.0}
    assert data["estimated"] == {"tokens": {"trained": 10, "scored": 0}, "usd": 10.0}
    assert data["difference"] == pytest.approx({"trained": 0.2, "usd": 0.5})
    assert remarks(COST_RECONCILED, data) == [
        "cost: 15.00 USD (12 tokens trained, 3 tokens scored); expected 10.00 USD "
        "(10 tokens trained, without: evaluation): trained +20.0%, usd +50.0%"
    ]


def test_where_nothing_could_be_expected_what_was_used_is_told_alone(tmp_path: Path) -> None:
    rollouts = {"tokens": {}, "usd": None, "without": "all"}
    used = {"priced": {"trained": 4, "sampled": 6}, "teacher": {"trained": 0, "scored": 5}}
    for estimate in (rollouts, None):
        data = reconciled(tmp_path, PaidBackend(used), estimate)
        assert data["difference"] == {}
        assert data["used"] == {"tokens": {"trained": 4, "sampled": 6, "scored": 5}, "usd": None}
        assert {name: part["usd"] for name, part in data["by_model"].items()} == {
            "priced": 10.0,
            "teacher": None,
        }
    said = "cost: unknown (4 tokens trained, 6 tokens sampled, 5 tokens scored); nothing was expected"
    assert remarks(COST_RECONCILED, data) == [said]


def test_an_engine_of_ones_own_has_no_cost_to_reconcile() -> None:
    context = Context(BigramBackend())
    reconcile_cost(context)  # type: ignore[arg-type]
    assert context.events == []
