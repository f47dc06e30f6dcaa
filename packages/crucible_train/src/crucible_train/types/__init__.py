"""Values that cross the training interface: inputs, tensors, datums, parameters, outputs."""

from crucible_train.types.datum import Datum, LossInputs
from crucible_train.types.input import Chunk, EncodedTextChunk, ImageChunk, ModelInput
from crucible_train.types.output import (
    ForwardBackwardOutput,
    OptimStepOutput,
    SampledSequence,
    SampleResponse,
    TopLogprobs,
)
from crucible_train.types.parameters import (
    AdamParams,
    LoraConfig,
    LossConfig,
    LossName,
    SamplingParams,
    StopCondition,
)
from crucible_train.types.tensor import DType, TensorData

__all__ = [
    "AdamParams",
    "Chunk",
    "DType",
    "Datum",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "ImageChunk",
    "LoraConfig",
    "LossConfig",
    "LossInputs",
    "LossName",
    "ModelInput",
    "OptimStepOutput",
    "SampleResponse",
    "SampledSequence",
    "SamplingParams",
    "StopCondition",
    "TensorData",
    "TopLogprobs",
]
