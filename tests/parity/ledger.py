"""What the comparison counts: cases that are equal, refused by both, or different for a reason that is named here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["EQUAL", "EXPLAINED", "REFUSED", "Explanation", "Ledger"]

EQUAL = "equal"
REFUSED = "refused by both"


class Explanation(NamedTuple):
    """One kind of difference: upstream's function, and why ours is right."""

    upstream: str
    why: str


EXPLAINED: Mapping[str, Explanation] = {
    "text stays literal": Explanation(
        "renderers.*.render_message (tokenizer.encode of the content)",
        "what a user writes is text: a mark in it must not end the user's turn",
    ),
    "tool calls refused": Explanation(
        "renderers.role_colon, renderers.llama3: render_message",
        "the format has no tool calls; dropping them trains a model to say nothing where it called a tool",
    ),
    "turn is closed": Explanation(
        "renderers.deepseek_v3.DeepSeekV3ThinkingRenderer.render_message",
        "the model's own template ends an assistant's turn without text too",
    ),
    "trainable": Explanation(
        "renderers.base.Renderer.build_supervised_example (customized)",
        "the system message that the format adds itself cannot say `trainable`; ours takes it as false",
    ),
    "no placeholder": Explanation(
        "renderers.role_colon.RoleColonRenderer.render_message (stop_overlap)",
        "the text `<UNUSED>` after a last message that is not the assistant's belongs to no conversation",
    ),
    "one think block": Explanation(
        "renderers.qwen3.Qwen3Renderer.render_message",
        "text before a closing mark is the reasoning, as in the model's own template; upstream writes an empty block "
        "before it",
    ),
    "calls in order": Explanation(
        "renderers.qwen3_5, renderers.nemotron3: parse_response",
        "calls are read in the order in which the model made them, whatever their notation",
    ),
    "thinking trimmed": Explanation(
        "renderers.qwen3_5, renderers.nemotron3: parse_response",
        "every thinking part is trimmed, as rendering frames every one; not those before the first text alone",
    ),
    "blank sections": Explanation(
        "renderers.gpt_oss.GptOssRenderer.parse_response",
        "an answer whose sections are all blank says nothing; its marks are no text of the model's",
    ),
    "nothing sampled": Explanation(
        "rl.data_processing.trajectory_to_data; rl.metrics: compute_kl_sample_train, compute_post_kl, "
        "incorporate_kl_penalty",
        "advantages are float32 zeros (torch makes int64 of integer zeros), an image that nothing follows is left out "
        "(upstream stops), a mean over no token is NaN and a penalty then changes nothing (upstream stops, or makes "
        "every advantage NaN)",
    ),
    "schedule ends": Explanation(
        "utils.lr_scheduling.compute_schedule_lr_multiplier",
        "at and after the last step the factor stays 0; a negative or rising rate undoes training",
    ),
    "batch too large": Explanation(
        "supervised.data.SupervisedDatasetFromHFDataset.__len__",
        "a batch larger than the data is an error; upstream has no batch and trains on nothing",
    ),
}
"""The kinds of difference, each decided by a predicate on the case; anything else fails."""


@dataclass(slots=True)
class Ledger:
    """Counts of verdicts by area, in the order in which areas were first seen."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def note(self, area: str, verdict: str, case: Any = None) -> None:
        """Count a case.

        Raises:
            AssertionError: the verdict is no kind that is explained; shows the case.
        """
        assert verdict in {EQUAL, REFUSED} or verdict in EXPLAINED, f"{area}: {verdict}\n{case!r}"
        self.counts.setdefault(area, Counter())[verdict] += 1

    def figures(self) -> dict[str, Any]:
        """Everything that was counted, for the evidence."""
        total: Counter[str] = Counter()
        areas = []
        for area, counts in self.counts.items():
            total += counts
            kinds = {kind: counts[kind] for kind in EXPLAINED if counts[kind]}
            areas.append(
                {
                    "area": area,
                    "cases": counts.total(),
                    "equal": counts[EQUAL],
                    "refused": counts[REFUSED],
                    "explained": kinds,
                }
            )
        explained = {
            kind: {"cases": total[kind], **explanation._asdict()} for kind, explanation in EXPLAINED.items()
        }
        return {"cases": total.total(), "areas": areas, "explained": explained}
