"""What a run will cost and what it did cost, said in its log; of backends that are paid for alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from crucible_kitchen.atomic import read_lines
from crucible_kitchen.engine.context import StageContext

__all__ = [
    "COST_ESTIMATED",
    "COST_RECONCILED",
    "Priced",
    "announce_cost",
    "reconcile_cost",
    "trained_tokens",
]

COST_ESTIMATED = "cost.estimated"
"""Event: ``tokens`` by kind, ``usd`` (null where it is unknown), and what the figures leave out."""

COST_RECONCILED = "cost.reconciled"
"""Event: ``used`` and ``estimated`` (``tokens`` by kind, ``usd``), the relative ``difference`` of each kind that was
estimated and of ``usd``, ``by_model`` (the same of what was used), and what the estimate left out (``without``)."""


@runtime_checkable
class Priced(Protocol):
    """A training backend whose work is paid for by the token."""

    def price_of(
        self, base_model: str, *, trained: int = 0, scored: int = 0, prefilled: int = 0, sampled: int = 0
    ) -> float | None:
        """US dollars for so many tokens; None where no price is known."""
        ...

    def used_by_model(self) -> Mapping[str, Mapping[str, int]]:
        """Tokens that were used, by model and kind; of a resumed run those before it too."""
        ...


def announce_cost(ctx: StageContext, *, trained: int | None, scored: int = 0, without: str) -> None:
    """Tell the log what is to come, if the backend is paid for and the run begins here.

    ``trained`` None: nobody can know yet. ``without`` says what the figures leave out, or why there are none.
    """
    backend, model = _priced(ctx), ctx.experiment.model
    if ctx.resume is not None or backend is None or model is None:
        return
    known = trained is not None
    usd = backend.price_of(model.uri or model.id, trained=trained or 0, scored=scored) if known else None
    tokens = {"trained": trained, "scored": scored} if known else {}
    ctx.emit(COST_ESTIMATED, {"tokens": tokens, "usd": usd, "without": without})


def reconcile_cost(ctx: StageContext) -> None:
    """Tell the log what was used, beside what was expected where anything was."""
    backend = _priced(ctx)
    if backend is None:
        return
    spent = {model: dict(counts) for model, counts in sorted(backend.used_by_model().items())}
    prices = {model: backend.price_of(model, **counts) for model, counts in spent.items()}
    known = [usd for usd in prices.values() if usd is not None]
    usd = sum(known) if len(known) == len(prices) else None
    tokens: dict[str, int] = {}
    for counts in spent.values():
        for kind, count in counts.items():
            tokens[kind] = tokens.get(kind, 0) + count
    expected = _estimate(ctx)
    foreseen: Mapping[str, int] = expected.get("tokens") or {}
    pairs: dict[str, tuple[float | None, float | None]] = {
        **{kind: (count, tokens.get(kind, 0)) for kind, count in foreseen.items()},
        "usd": (expected.get("usd"), usd),
    }
    ctx.emit(
        COST_RECONCILED,
        {
            "used": {"tokens": tokens, "usd": usd},
            "estimated": {"tokens": foreseen, "usd": expected.get("usd")},
            "difference": {
                name: (found - given) / given
                for name, (given, found) in pairs.items()
                if given and found is not None
            },
            "by_model": {model: {"tokens": spent[model], "usd": prices[model]} for model in spent},
            "without": expected.get("without"),
        },
    )


def _priced(ctx: StageContext) -> Priced | None:
    backend = ctx.port("training_backend") if ctx.has_port("training_backend") else None
    return backend if isinstance(backend, Priced) else None


def _estimate(ctx: StageContext) -> Mapping[str, Any]:
    """The run's own estimate, which a resumed run reads where its first process wrote it."""
    log = ctx.run_dir / "events.jsonl"
    events = (json.loads(line) for line in (read_lines(log) if log.is_file() else ()))
    return next((event["data"] for event in events if event["type"] == COST_ESTIMATED), {})


def trained_tokens(lengths: Sequence[int], steps: int, batch_size: int) -> int:
    """Tokens of so many steps over examples of these lengths, each example as often as the others."""
    return round(sum(lengths) / len(lengths) * steps * batch_size) if lengths else 0
