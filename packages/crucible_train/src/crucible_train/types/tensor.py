"""A typed, read-only numpy array with the two dtypes that cross the training interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crucible_ir.errors import DataError

__all__ = ["DType", "TensorData"]

DType = Literal["int64", "float32"]

_DTYPES: dict[str, DType] = {"i": "int64", "u": "int64", "b": "int64", "f": "float32"}


@dataclass(frozen=True, slots=True, eq=False)
class TensorData:
    """An array of ``int64`` or ``float32``, made read-only so that datums can be shared and hashed.

    Raises:
        DataError: the data are neither integers nor floats.
    """

    array: NDArray[np.int64] | NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.array.dtype.name not in ("int64", "float32"):
            raise DataError(
                what=f"tensor of dtype {self.array.dtype.name}",
                where="TensorData.array",
                remedy="give int64 or float32, or build it with TensorData.of(values)",
            )
        self.array.setflags(write=False)

    @classmethod
    def of(cls, values: ArrayLike | Sequence[Any], dtype: DType | None = None) -> Self:
        """Copy ``values`` into a tensor; integers become int64 and floats float32 unless ``dtype`` says so."""
        raw = np.asarray(values)
        chosen = dtype or _DTYPES.get(raw.dtype.kind)
        if chosen is None:
            raise DataError(
                what=f"values of kind {raw.dtype.name!r}",
                where="TensorData.of",
                remedy="give integers or floats",
            )
        return cls(np.array(raw, dtype=chosen))

    @property
    def dtype(self) -> DType:
        """Name of the element type."""
        return "int64" if self.array.dtype == np.int64 else "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    def tolist(self) -> list[Any]:
        """Nested Python lists of the values."""
        values: list[Any] = self.array.tolist()
        return values

    def __len__(self) -> int:
        """Length of the first axis."""
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        """Same dtype, same shape, same values (NaN equals NaN)."""
        if not isinstance(other, TensorData):
            return NotImplemented
        return self.dtype == other.dtype and bool(
            np.array_equal(self.array, other.array, equal_nan=self.dtype == "float32")
        )

    def __hash__(self) -> int:
        """Hash of dtype, shape and bytes."""
        return hash((self.dtype, self.shape, self.array.tobytes()))
