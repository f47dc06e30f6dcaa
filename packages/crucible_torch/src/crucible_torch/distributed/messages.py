"""Messages between the processes of one run as bytes: JSON and arrays, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from crucible_ir.errors import CrucibleError, error_class
from crucible_train.types import Datum, ModelInput, TensorData

__all__ = ["Message", "data_of", "error_of", "told", "with_data"]

Array = NDArray[Any]
_HEADER = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """JSON values and named arrays."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As one safetensors file, the JSON being one of its arrays."""
        header = np.frombuffer(json.dumps(dict(self.values)).encode(), dtype=np.uint8)
        tensors = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        raw: bytes = save({_HEADER: header, **tensors})
        return raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> Message:
        """The inverse of ``to_bytes``."""
        arrays = load(raw)
        values = json.loads(arrays.pop(_HEADER).tobytes())
        return cls(values=values, arrays=arrays)


def with_data(values: Mapping[str, Any], data: Sequence[tuple[int, Datum]]) -> Message:
    """A message that carries datums, each with its place in the data of the call."""
    arrays: dict[str, Array] = {}
    for number, (_, datum) in enumerate(data):
        arrays[f"{number}"] = np.asarray(datum.model_input.to_ints(), dtype=np.int64)
        arrays |= {f"{number}/{name}": t.array for name, t in datum.loss_fn_inputs.items()}
    return Message(values={**values, "places": [place for place, _ in data]}, arrays=arrays)


def data_of(message: Message) -> list[tuple[int, Datum]]:
    """The datums of ``with_data``."""
    inputs: dict[str, dict[str, TensorData]] = {}
    for key, array in message.arrays.items():
        number, _, name = key.partition("/")
        if name:
            inputs.setdefault(number, {})[name] = TensorData(array)
    places = message.values["places"]
    return [
        (
            place,
            Datum(ModelInput.from_ints(message.arrays[f"{n}"].tolist()), inputs.get(f"{n}", {})),
        )
        for n, place in enumerate(places)
    ]


def told(error: BaseException) -> dict[str, str]:
    """An error as JSON: its kind and its sentence."""
    if isinstance(error, CrucibleError):
        return {
            "kind": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "remedy": error.remedy,
        }
    return {"kind": "", "what": f"{type(error).__name__}: {error}"}


def error_of(value: Mapping[str, str], rank: int) -> CrucibleError:
    """The error that another process told of."""
    found = error_class(value["kind"])(
        what=value["what"],
        where=value.get("where") or f"process {rank}",
        remedy=value.get("remedy") or "read the output of that process",
    )
    found.add_note(f"process {rank} of the run")
    return found
