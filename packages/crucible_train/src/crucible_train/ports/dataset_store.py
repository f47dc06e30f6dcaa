"""The port of a place that datasets load from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from crucible_ir import DatasetRef, DatasetSnapshot

__all__ = ["DatasetStore"]


@runtime_checkable
class DatasetStore(Protocol):
    """Rows by reference. Carries ``crucible_ir`` values alone, so that a store need not know this package."""

    def load(self, ref: DatasetRef) -> DatasetSnapshot:
        """Rows in the order that ``ref`` asks for; the snapshot's reference carries the digests of what was read.

        The same reference gives the same rows; digests that ``ref`` carries already are held against the data.

        Raises:
            NotFoundError: no such dataset, revision or split.
            DataError: data that cannot be read, or no row left after mapping.
            ConfigError: a reference that does not fit, or a missing credential (named).
            IntegrityError: the data do not have a digest that ``ref`` carries.
            ServiceError: a service failed; retryable where the same call may go through later.
        """
        ...

    def check(self, ref: DatasetRef) -> None:
        """Look, cheaply, whether ``load`` can begin: the data exist, are readable, credentials are present.

        Raises:
            NotFoundError, DataError, ConfigError, ServiceError: as ``load``.
        """
        ...
