"""Learning from comparisons: pairs and ties, their datums, and losses over pairs."""

from crucible_train.preference.comparison import (
    Comparison,
    Label,
    LabeledComparison,
    Ties,
    balance_positions,
    chosen_and_rejected,
    comparison_from_dict,
    comparison_to_dict,
    with_both_orders,
)
from crucible_train.preference.datums import PairDatums, interleaved, pair_datums
from crucible_train.preference.dpo import (
    DpoSettings,
    DpoValue,
    PairLoss,
    dpo,
    dpo_loss,
    sequence_logprobs,
)
from crucible_train.preference.judging import ComparisonRenderer

__all__ = [
    "Comparison",
    "ComparisonRenderer",
    "DpoSettings",
    "DpoValue",
    "Label",
    "LabeledComparison",
    "PairDatums",
    "PairLoss",
    "Ties",
    "balance_positions",
    "chosen_and_rejected",
    "comparison_from_dict",
    "comparison_to_dict",
    "dpo",
    "dpo_loss",
    "interleaved",
    "pair_datums",
    "sequence_logprobs",
    "with_both_orders",
]
