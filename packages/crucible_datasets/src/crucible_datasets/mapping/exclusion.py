"""The part of a mapping that leaves out what another dataset holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crucible_ir import ConfigError, DatasetRef, Problem, nearest

__all__ = ["Exclusion"]

_KEYS = ("column", "dataset")
_PATH = "mapping.exclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Rows whose value in ``column`` is one of that column in ``dataset``."""

    column: str
    dataset: DatasetRef

    @classmethod
    def parse(cls, given: Any, problems: list[Problem]) -> Exclusion | None:
        """Read ``{"column": …, "dataset": {"id": …}}``; None, with the problems added, where it is none."""
        if not isinstance(given, Mapping):
            problems.append(
                Problem(
                    path=_PATH,
                    message=f"{given!r} is no table",
                    remedy='write {"column": "problem", "dataset": {"id": "…", "split": "test"}}',
                )
            )
            return None
        before = len(problems)
        for key in given:
            if key not in _KEYS:
                near = nearest(str(key), _KEYS)
                hint = f"did you mean {near!r}?" if near else f"valid: {', '.join(_KEYS)}"
                problems.append(Problem(path=f"{_PATH}.{key}", message=f"unknown key {key!r}", remedy=hint))
        column = given.get("column")
        if not isinstance(column, str) or not column:
            problems.append(
                Problem(path=f"{_PATH}.column", message=f"{column!r} names no column", remedy="name one")
            )
        dataset = _dataset(given.get("dataset"), problems)
        if len(problems) > before or dataset is None:
            return None
        return cls(column=str(column), dataset=dataset)

    def as_dict(self) -> dict[str, Any]:
        """The dict that ``parse`` reads back."""
        dataset = self.dataset.model_dump(mode="json", exclude_defaults=True)
        return {"column": self.column, "dataset": dataset}

    @property
    def identity(self) -> dict[str, Any]:
        """What it excludes, wherever that is stored: column and digests of the rows, once loaded."""
        return {
            "column": self.column,
            "digest": self.dataset.digest,
            "order_digest": self.dataset.order_digest,
            "transform_digest": self.dataset.transform_digest,
        }


def _dataset(given: Any, problems: list[Problem]) -> DatasetRef | None:
    if not isinstance(given, Mapping):
        problems.append(
            Problem(path=f"{_PATH}.dataset", message=f"{given!r} is no dataset", remedy='give {"id": "…"}')
        )
        return None
    try:
        return DatasetRef.parse(given, where=f"{_PATH}.dataset")
    except ConfigError as error:
        problems.extend(error.problems)
        return None
