"""The data of the checks: short rows of small token ids, the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from crucible_train.types import Datum, ModelInput, TensorData

__all__ = ["BATCH", "OTHER_BATCH", "PROMPT", "datum", "rows", "scaled", "weighted"]

_LOWEST, _BEYOND = 5, 60
"""Token ids that every vocabulary has, above those that mark the ends of texts in many."""


def rows(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    """Token ids, one row for each length."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.integers(_LOWEST, _BEYOND, length).tolist() for length in lengths]


def datum(tokens: Sequence[int], inputs: Mapping[str, NDArray[np.floating] | float] | None = None) -> Datum:
    """A datum that reads ``tokens`` but the last and predicts each next one.

    ``inputs`` are further loss inputs, a number standing for one at every position; without any, weights are 1.
    """
    length = len(tokens) - 1
    given = {"weights": 1.0} if inputs is None else inputs
    tensors = {
        name: TensorData(np.array(np.broadcast_to(value, (length,)), dtype=np.float32))
        for name, value in given.items()
    }
    return Datum(
        ModelInput.from_ints(tokens[:-1]), {"target_tokens": TensorData.of(list(tokens[1:])), **tensors}
    )


def weighted(data: Sequence[Datum], weights: Sequence[NDArray[np.floating]]) -> list[Datum]:
    """The same inputs and targets with these weights alone."""
    return [
        Datum(
            one.model_input,
            {
                "target_tokens": one.loss_fn_inputs["target_tokens"],
                "weights": TensorData(np.array(values, dtype=np.float32)),
            },
        )
        for one, values in zip(data, weights, strict=True)
    ]


def scaled(data: Sequence[Datum], factor: float) -> list[Datum]:
    """The same data with every weight times ``factor``."""
    return weighted(data, [one.weights * factor for one in data])


BATCH = tuple(datum(tokens) for tokens in rows(1, (10, 7, 13)))
"""Three datums of 27 positions together, every weight 1."""
OTHER_BATCH = tuple(datum(tokens) for tokens in rows(2, (8, 11)))
PROMPT = ModelInput.from_ints(rows(3, (6,))[0])
