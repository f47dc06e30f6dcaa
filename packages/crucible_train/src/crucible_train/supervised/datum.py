"""From a sequence with weights to a datum: truncated, shifted by one, weights reduced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crucible_ir.errors import ConfigError, DataError, nearest
from crucible_train.renderers import Message, Renderer, TrainOnWhat
from crucible_train.types import Chunk, Datum, EncodedTextChunk, ImageChunk, ModelInput, TensorData

__all__ = ["Reduction", "conversation_to_datum", "datum_from_model_input_weights"]

Reduction = Literal["none", "mean"]
"""``none`` keeps the weights (the loss is a sum over tokens); ``mean`` makes them sum to 1 per datum."""


def conversation_to_datum(
    messages: Sequence[Message],
    renderer: Renderer,
    max_length: int | None = None,
    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    reduction: Reduction = "mean",
) -> Datum:
    """A conversation as one datum.

    Raises:
        RenderError: the renderer cannot express a message.
        DataError: fewer than two tokens are left.
    """
    example = renderer.build_supervised_example(messages, train_on_what)
    return datum_from_model_input_weights(example.model_input, example.weights, max_length, reduction)


def datum_from_model_input_weights(
    model_input: ModelInput,
    weights: NDArray[np.floating] | Sequence[float],
    max_length: int | None = None,
    reduction: Reduction = "none",
) -> Datum:
    """Inputs without the last token, targets without the first, the target's weight at each position.

    At most ``max_length`` tokens are kept, from the beginning. An image is kept whole or not at all; one
    at the end goes, since nothing is predicted after it. Image positions have target 0. Weights whose
    sum is not positive are left as they are by ``mean``.

    Raises:
        DataError: as many weights as positions are needed, and two tokens at least must be left.
        ConfigError: the reduction is unknown.
    """
    _check_reduction(reduction)
    given = np.asarray(weights, dtype=np.float32)
    if given.shape != (model_input.length,):
        raise DataError(
            what=f"weights of shape {given.shape} for {model_input.length} positions",
            where="datum_from_model_input_weights.weights",
            remedy="give one weight per position",
        )
    chunks = _without_tail(_truncated(model_input.chunks, max_length))
    tokens = ModelInput(tuple(chunks)).all_tokens(image_id=0)
    if len(tokens) < 2:
        raise DataError(
            what=f"{len(tokens)} of {model_input.length} tokens are left (max_length {max_length})",
            where="datum_from_model_input_weights",
            remedy="two are needed for an input and a target: raise max_length or leave the example out",
        )
    kept = given[1 : len(tokens)]
    return Datum(
        ModelInput(_without_last_token(chunks)),
        {
            "weights": TensorData(_reduced(kept, reduction)),
            "target_tokens": TensorData(np.array(tokens[1:], dtype=np.int64)),
        },
    )


def _check_reduction(reduction: str) -> None:
    if reduction not in get_args(Reduction):
        near = nearest(reduction, get_args(Reduction))
        raise ConfigError(
            what=f"no reduction is called {reduction!r}",
            where="reduction",
            remedy=f"did you mean {near!r}?" if near else "valid: 'none', 'mean'",
        )


def _truncated(chunks: Sequence[Chunk], max_length: int | None) -> list[Chunk]:
    if max_length is None:
        return list(chunks)
    kept: list[Chunk] = []
    left = max_length
    for chunk in chunks:
        if chunk.length <= left:
            kept.append(chunk)
            left -= chunk.length
            continue
        if isinstance(chunk, EncodedTextChunk):
            kept.append(EncodedTextChunk(chunk.tokens[: max(left, 0)]))
        break
    return kept


def _without_tail(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Without empty chunks, and without images at the end."""
    kept = [chunk for chunk in chunks if chunk.length]
    while kept and isinstance(kept[-1], ImageChunk):
        kept.pop()
    return kept


def _without_last_token(chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    *before, last = chunks
    if isinstance(last, EncodedTextChunk) and last.length > 1:
        before.append(EncodedTextChunk(last.tokens[:-1]))
    return tuple(before)


def _reduced(weights: NDArray[np.float32], reduction: Reduction) -> NDArray[np.float32]:
    total = weights.sum(dtype=np.float32)
    if reduction == "mean" and total > 0:
        return np.asarray(weights / total, dtype=np.float32)
    return weights.copy()
