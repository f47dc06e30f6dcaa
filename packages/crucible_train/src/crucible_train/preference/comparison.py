"""Two completions of one prompt, and which of them is better, if any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from crucible_ir.canonical import canonical_json
from crucible_ir.errors import ConfigError, DataError, nearest
from crucible_train.renderers import Message, message_to_dict, messages_from_dicts

__all__ = [
    "Comparison",
    "Label",
    "LabeledComparison",
    "Ties",
    "balance_positions",
    "chosen_and_rejected",
    "comparison_from_dict",
    "comparison_to_dict",
    "with_both_orders",
]

Label = Literal["A", "B", "Tie"]
"""Which completion is better; ``Tie`` when neither is."""

Ties = Literal["drop", "refuse"]
"""What becomes of a tie where a winner is needed: left out, or an error. It is never somebody's win."""

_FIELDS = {
    "prompt_conversation": "prompt_conversation",
    "completion_A": "completion_a",
    "completion_B": "completion_b",
}
"""Fields by their names in rows."""
_SWAPPED: Mapping[Label, Label] = {"A": "B", "B": "A", "Tie": "Tie"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A conversation and two ways to go on with it, called A and B.

    Raises:
        DataError: one of the three has no message.
    """

    prompt_conversation: tuple[Message, ...]
    completion_a: tuple[Message, ...]
    completion_b: tuple[Message, ...]

    def __post_init__(self) -> None:
        for key in _FIELDS.values():
            if not getattr(self, key):
                raise DataError(
                    what=f"{key} has no message",
                    where=f"Comparison.{key}",
                    remedy="leave the comparison out, or complete it",
                )

    def swap(self) -> Comparison:
        """The same with A and B exchanged."""
        return Comparison(
            prompt_conversation=self.prompt_conversation,
            completion_a=self.completion_b,
            completion_b=self.completion_a,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledComparison:
    """A comparison and its outcome."""

    comparison: Comparison
    label: Label

    def __post_init__(self) -> None:
        if self.label not in get_args(Label):
            raise DataError(
                what=f"label {self.label!r}", where="LabeledComparison.label", remedy="give 'A', 'B' or 'Tie'"
            )

    def swap(self) -> LabeledComparison:
        """The same judgement with A and B exchanged; a tie stays a tie."""
        return LabeledComparison(comparison=self.comparison.swap(), label=_SWAPPED[self.label])


def comparison_from_dict(row: Mapping[str, Any], *, where: str = "comparison") -> LabeledComparison:
    """A row ``{"comparison": {prompt_conversation, completion_A, completion_B}, "label": "A" | "B" | "Tie"}``.

    Raises:
        DataError: a key is missing or unknown, the label is none of the three, or a message cannot be read;
            ``where`` (a file's name and line, say) is part of the message.
    """
    _only(row, ("comparison", "label"), where)
    inner = row["comparison"]
    if not isinstance(inner, Mapping):
        raise DataError(what="no object", where=f"{where}.comparison", remedy=f"give {', '.join(_FIELDS)}")
    _only(inner, tuple(_FIELDS), f"{where}.comparison")
    label = row["label"]
    if label not in get_args(Label):
        raise DataError(what=f"label {label!r}", where=f"{where}.label", remedy="give 'A', 'B' or 'Tie'")
    messages = {}
    for key, field in _FIELDS.items():
        there = f"{where}.comparison.{key}"
        if not isinstance(inner[key], list) or not inner[key]:
            raise DataError(what="no list of messages", where=there, remedy="give one message or more")
        messages[field] = tuple(messages_from_dicts(inner[key], where=there))
    return LabeledComparison(comparison=Comparison(**messages), label=label)


def comparison_to_dict(labeled: LabeledComparison) -> dict[str, Any]:
    """What ``comparison_from_dict`` reads."""
    return {"comparison": _content(labeled.comparison), "label": labeled.label}


def _content(comparison: Comparison) -> dict[str, Any]:
    return {
        key: [message_to_dict(message) for message in getattr(comparison, field)]
        for key, field in _FIELDS.items()
    }


def _only(row: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    missing = [key for key in keys if key not in row]
    unknown = sorted(set(row) - set(keys))
    if missing or unknown:
        near = nearest(unknown[0], missing or keys) if unknown else None
        raise DataError(
            what=f"missing {missing}, unknown {unknown}",
            where=where,
            remedy=f"did you mean {near!r}?" if near else f"give {', '.join(keys)} and nothing else",
        )


def chosen_and_rejected(labeled: Iterable[LabeledComparison], ties: Ties = "drop") -> list[Comparison]:
    """Comparisons with the better completion as A and the worse as B.

    Raises:
        DataError: a tie, where ``ties`` is ``refuse``; says which.
        ConfigError: ``ties`` is unknown.
    """
    if ties not in get_args(Ties):
        raise ConfigError(what=f"ties = {ties!r}", where="ties", remedy="give 'drop' or 'refuse'")
    found = []
    for index, one in enumerate(labeled):
        if one.label == "Tie":
            if ties == "refuse":
                raise DataError(
                    what="a tie has no chosen completion", where=f"comparisons[{index}]", remedy="drop ties"
                )
            continue
        found.append(one.comparison.swap() if one.label == "B" else one.comparison)
    return found


def balance_positions(labeled: Iterable[LabeledComparison], seed: int) -> list[LabeledComparison]:
    """About half of the comparisons exchanged, so that no position is favoured.

    Which ones follows from ``seed`` and each comparison's content alone: neither order nor the presence of others
    matters. The lowest bit of SHA-256 over the seed, a colon, and the canonical JSON of the comparison
    decides.
    """
    return [one.swap() if _is_swapped(one.comparison, seed) else one for one in labeled]


def with_both_orders(labeled: Iterable[LabeledComparison]) -> list[LabeledComparison]:
    """Every comparison followed by itself exchanged."""
    return [order for one in labeled for order in (one, one.swap())]


def _is_swapped(comparison: Comparison, seed: int) -> bool:
    text = f"{seed}:{canonical_json(_content(comparison))}"
    return bool(hashlib.sha256(text.encode("utf-8")).digest()[-1] & 1)
