"""Supervised training: from conversations to datums, the order of batches, and what a batch measured."""

from crucible_train.supervised.batches import SupervisedBatches, batch_indices, number_of_batches
from crucible_train.supervised.datum import Reduction, conversation_to_datum, datum_from_model_input_weights
from crucible_train.supervised.likelihood import compute_bpb, compute_mean_nll

__all__ = [
    "Reduction",
    "SupervisedBatches",
    "batch_indices",
    "compute_bpb",
    "compute_mean_nll",
    "conversation_to_datum",
    "datum_from_model_input_weights",
    "number_of_batches",
]
