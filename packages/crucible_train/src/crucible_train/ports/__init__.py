"""Ports: what the training layer asks of the outside, as protocols."""

from crucible_train.ports.backend import BackendCapabilities, TrainingBackend, TrainingSpec
from crucible_train.ports.handle import Handle
from crucible_train.ports.sampling import SamplingClient
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.ports.training import CustomLoss, CustomLossFn, TrainingClient

__all__ = [
    "BackendCapabilities",
    "CustomLoss",
    "CustomLossFn",
    "Handle",
    "SamplingClient",
    "Tokenizer",
    "TrainingBackend",
    "TrainingClient",
    "TrainingSpec",
]
