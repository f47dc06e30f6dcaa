"""Names, units and directions of what training reports, under upstream's names where they mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from crucible_ir.errors import ConfigError, nearest

__all__ = ["SUPERVISED_METRICS", "Direction", "MetricSpec", "metric_spec"]

Direction = Literal["lower", "higher", "none"]
"""Which way is better; ``none`` for counts and settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric: its name, what it says, its unit, and which way is better.

    ``deterministic`` is False for what depends on the machine (times); two runs of one experiment differ there.
    """

    name: str
    meaning: str
    unit: str
    direction: Direction = "none"
    deterministic: bool = True


def _schema(specs: Iterable[MetricSpec]) -> Mapping[str, MetricSpec]:
    return MappingProxyType({spec.name: spec for spec in specs})


_COUNTS = (
    MetricSpec(name="step", meaning="optimiser step, from 0", unit="steps"),
    MetricSpec(name="epoch", meaning="pass over the data, from 0", unit="epochs"),
    MetricSpec(name="progress", meaning="(step + 1) / total steps", unit="1"),
    MetricSpec(name="learning_rate", meaning="rate of this step, after the schedule", unit="1"),
    MetricSpec(name="num_sequences", meaning="datums in the batch", unit="sequences"),
    MetricSpec(name="num_tokens", meaning="input positions in the batch", unit="tokens"),
    MetricSpec(
        name="num_loss_tokens",
        meaning="sum of the loss weights; about num_sequences under reduction 'mean'",
        unit="tokens",
    ),
    MetricSpec(name="tokens/trained", meaning="input positions of this step", unit="tokens"),
    MetricSpec(name="tokens/cumulative/trained", meaning="input positions so far", unit="tokens"),
)
_QUALITY = (
    MetricSpec(
        name="train_mean_nll",
        meaning="weighted mean negative log-likelihood of the batch",
        unit="nats/token",
        direction="lower",
    ),
    MetricSpec(
        name="train_mean_bpb", meaning="bits per byte of the batch", unit="bits/byte", direction="lower"
    ),
    MetricSpec(
        name="test/nll", meaning="train_mean_nll on held-out data", unit="nats/token", direction="lower"
    ),
    MetricSpec(
        name="test/bpb", meaning="train_mean_bpb on held-out data", unit="bits/byte", direction="lower"
    ),
    MetricSpec(
        name="loss:sum", meaning="loss summed over the batch's tokens", unit="nats", direction="lower"
    ),
    MetricSpec(
        name="unclipped_grad_l2:mean", meaning="gradient norm before clipping", unit="1", direction="none"
    ),
)
_TIMES = tuple(
    MetricSpec(name=f"time/{name}", meaning=meaning, unit="s", direction="lower", deterministic=False)
    for name, meaning in (
        ("step", "the whole step"),
        ("get_batch", "reading and rendering the batch"),
        ("submit_batch", "submitting the batch"),
        ("finish_batch", "waiting for the batch"),
        ("evals", "all evaluations before the step"),
        ("run_evaluator", "one evaluator"),
        ("save_checkpoint", "saving state"),
    )
)

SUPERVISED_METRICS: Mapping[str, MetricSpec] = _schema((*_COUNTS, *_QUALITY, *_TIMES))
"""What a supervised run reports, by name."""


def metric_spec(name: str, schema: Mapping[str, MetricSpec] = SUPERVISED_METRICS) -> MetricSpec:
    """The metric called ``name``.

    Raises:
        ConfigError: the schema has none; says the nearest name.
    """
    found = schema.get(name)
    if found is None:
        near = nearest(name, schema)
        raise ConfigError(
            what=f"no metric is called {name!r}",
            where="metric",
            remedy=f"did you mean {near!r}?" if near else f"valid: {', '.join(sorted(schema))}",
        )
    return found
