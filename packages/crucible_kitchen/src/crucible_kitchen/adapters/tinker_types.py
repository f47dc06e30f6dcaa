"""Values of the training interface in the SDK's types, and the SDK's results in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crucible_train.losses import LOSSES
from crucible_train.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    ImageChunk,
    ModelInput,
    OptimStepOutput,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
    TopLogprobs,
)

if TYPE_CHECKING:
    import tinker

__all__ = [
    "sdk_adam",
    "sdk_custom_datums",
    "sdk_datums",
    "sdk_input",
    "sdk_sampling",
    "to_output",
    "to_prompt_logprobs",
    "to_response",
    "to_step",
]

_INTEGERS = frozenset({"target_tokens"})


def sdk_input(given: ModelInput) -> tinker.ModelInput:
    """The same chunks in the same order."""
    from tinker import EncodedTextChunk, types
    from tinker import ModelInput as SdkInput

    chunks: list[Any] = []
    for chunk in given.chunks:
        if isinstance(chunk, ImageChunk):
            chunks.append(
                types.ImageChunk(data=chunk.data, format=chunk.format, expected_tokens=chunk.expected_tokens)
            )
        else:
            chunks.append(EncodedTextChunk(tokens=list(chunk.tokens)))
    return SdkInput(chunks=chunks)


def sdk_datums(data: Sequence[Datum], loss_fn: str) -> list[tinker.Datum]:
    """Datums with exactly the inputs that the loss has on the service.

    Targets are int64, everything else float32; shapes are kept, (N,) or (N, K). Whatever else a datum carries (a
    ``mask``, say, which no loss of the service takes) stays here.
    """
    return [_datum(datum, LOSSES[loss_fn].inputs) for datum in data]


def sdk_custom_datums(data: Sequence[Datum]) -> list[tinker.Datum]:
    """Datums for a loss of the caller's: targets, and weights where there are any."""
    names = [tuple(n for n in ("target_tokens", "weights") if n in datum.loss_fn_inputs) for datum in data]
    return [_datum(datum, kept) for datum, kept in zip(data, names, strict=True)]


def _datum(datum: Datum, names: Sequence[str]) -> tinker.Datum:
    from tinker import Datum as SdkDatum

    inputs = {name: _sdk_tensor(datum.loss_fn_inputs[name].array, name) for name in names}
    return SdkDatum(model_input=sdk_input(datum.model_input), loss_fn_inputs=inputs)


def _sdk_tensor(array: NDArray[Any], name: str) -> tinker.TensorData:
    from tinker import TensorData as SdkTensor

    dtype = np.int64 if name in _INTEGERS else np.float32
    return SdkTensor.from_numpy(np.array(array, dtype=dtype))


def sdk_adam(params: AdamParams) -> tinker.AdamParams:
    """The same settings, each given: the SDK's own default for eps is another."""
    from tinker import AdamParams as SdkAdam

    return SdkAdam(
        learning_rate=params.learning_rate,
        beta1=params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        weight_decay=params.weight_decay,
        grad_clip_norm=params.grad_clip_norm,
    )


def sdk_sampling(params: SamplingParams) -> tinker.SamplingParams:
    """The same settings, each given."""
    from tinker import SamplingParams as SdkSampling

    stop: Any = params.stop if params.stop is None or isinstance(params.stop, str) else list(params.stop)
    return SdkSampling(
        max_tokens=params.max_tokens,
        seed=params.seed,
        stop=stop,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
    )


def to_output(result: Any, data: Sequence[Datum]) -> ForwardBackwardOutput:
    """Log-probabilities in the shape of each datum's targets, and the totals."""
    outputs = tuple(
        {name: _tensor(tensor, datum.target_tokens.shape) for name, tensor in output.items()}
        for output, datum in zip(result.loss_fn_outputs, data, strict=True)
    )
    return ForwardBackwardOutput(loss_fn_outputs=outputs, metrics=_metrics(result.metrics))


def _tensor(tensor: Any, targets: tuple[int, ...]) -> TensorData:
    values = np.asarray(tensor.to_numpy())
    if values.shape != targets and values.size == int(np.prod(targets)):
        values = values.reshape(targets)
    return TensorData.of(values, dtype="int64" if tensor.dtype == "int64" else "float32")


def to_step(result: Any, more: Mapping[str, float]) -> OptimStepOutput:
    """The totals of an optimiser step, and ``more``."""
    return OptimStepOutput(metrics={**_metrics(result.metrics or {}), **more})


def _metrics(given: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in given.items()}


def to_response(result: Any) -> SampleResponse:
    """Sequences and what was asked for about the prompt."""
    likeliest = result.topk_prompt_logprobs
    return SampleResponse(
        sequences=tuple(_sequence(sequence) for sequence in result.sequences),
        prompt_logprobs=None
        if result.prompt_logprobs is None
        else to_prompt_logprobs(result.prompt_logprobs),
        topk_prompt_logprobs=None if likeliest is None else tuple(_likeliest(row) for row in likeliest),
    )


def _sequence(sequence: Any) -> SampledSequence:
    logprobs = sequence.logprobs
    return SampledSequence(
        tokens=tuple(int(token) for token in sequence.tokens),
        logprobs=None if logprobs is None else tuple(float(value) for value in logprobs),
        stop_reason="stop" if str(sequence.stop_reason) == "stop" else "length",
    )


def to_prompt_logprobs(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """One value per position, None at the first."""
    return tuple(None if value is None else float(value) for value in values)


def _likeliest(row: Sequence[tuple[int, float]] | None) -> TopLogprobs | None:
    """Likeliest first, equal ones by id."""
    if row is None:
        return None
    pairs = [(int(token), float(logprob)) for token, logprob in row]
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
