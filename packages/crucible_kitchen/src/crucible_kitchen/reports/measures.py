"""What a run is judged by: the measures of which it leaves one record per held-out example."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MEASURES", "Measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure with records ``results/<prefix>_<step>.jsonl``, how it is called, and which way is better."""

    prefix: str
    label: str
    unit: str
    higher_is_better: bool

    def gain(self, before: list[float], after: list[float]) -> tuple[list[float], list[float]]:
        """The two sides in the order whose difference is positive when things got better."""
        return (before, after) if self.higher_is_better else (after, before)


MEASURES = (
    Measure(prefix="nll", label="held-out loss", unit=" nats/token", higher_is_better=False),
    Measure(prefix="preference", label="held-out preference accuracy", unit="", higher_is_better=True),
    Measure(prefix="accuracy", label="held-out accuracy", unit="", higher_is_better=True),
    Measure(
        prefix="teacher_kl",
        label="held-out distance from the teacher",
        unit=" nats/token",
        higher_is_better=False,
    ),
    Measure(prefix="reward", label="held-out reward", unit="", higher_is_better=True),
)
"""In the order in which a report looks for them."""
