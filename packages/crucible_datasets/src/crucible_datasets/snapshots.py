"""From rows as read to a snapshot: content digest, mapping, order, skip, limit, and the reference that says so.

Rows are put in order first (over all rows of the source but those that are excluded), then mapped, and ``skip`` and
``limit`` count the rows that are left; ``limit=500`` is 500 rows even where some were dropped. Rows that are never
reached are never mapped, so drops count those that were looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from crucible_datasets.digests import ContentDigest, order_digest, transform_digest
from crucible_datasets.exclusion import Excluded, Load, excluded_by
from crucible_datasets.mapping import DropCounter, FieldMapping, RowMapper, Unfit, resolve_fields
from crucible_datasets.order import buffer_shuffle, permutation
from crucible_datasets.sources import PlacedRow, SourceRows
from crucible_ir import DataError, DatasetRef, DatasetSnapshot, Drop, IntegrityError, Row

__all__ = ["MappedRows", "RowStream", "nothing_in", "snapshot_of", "snapshot_of_stream"]

_LOOKED_AT = 100
"""Rows from which columns are told."""


class MappedRows(Sequence[Row]):
    """Rows of a source at given positions, each mapped when it is asked for."""

    def __init__(self, source: SourceRows, positions: npt.NDArray[np.int64], mapper: RowMapper) -> None:
        self._source = source
        self._positions = positions
        self._mapper = mapper

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> MappedRows: ...
    def __getitem__(self, index: int | slice) -> Row | MappedRows:
        if isinstance(index, slice):
            return MappedRows(self._source, self._positions[index], self._mapper)
        return self._mapper.turn(self._source[int(self._positions[index])])

    def __iter__(self) -> Iterator[Row]:
        for position in self._positions.tolist():
            yield self._mapper.turn(self._source[position])

    def take(self, places: npt.NDArray[np.int64]) -> MappedRows:
        """The rows at these places of this sequence; shape of ``places`` (n,)."""
        return MappedRows(self._source, self._positions[places], self._mapper)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Place of each row in the source, from 0; shape (len,)."""
        return self._positions


def _check_pins(ref: DatasetRef, found: DatasetRef) -> None:
    for field, what in (("digest", "content"), ("order_digest", "order"), ("transform_digest", "mapping")):
        pinned, now = getattr(ref, field), getattr(found, field)
        if pinned is not None and pinned != now:
            raise IntegrityError(
                what=f"the {what} of the data set is {now}, but {pinned} was asked for",
                where=ref.id,
                remedy=f"restore the data, or leave {field} out to accept them as they are",
            )


def _found(
    ref: DatasetRef, content: str, positions: Sequence[int] | npt.NDArray[np.int64], mapping: FieldMapping
) -> DatasetRef:
    described = mapping.as_dict()
    found = ref.model_copy(
        update={
            "digest": content,
            "order_digest": order_digest(positions),
            "transform_digest": transform_digest(mapping.identity),
            "mapping": {} if described == {"schema": "raw"} else described,
            "rows": len(positions),
        }
    )
    _check_pins(ref, found)
    return found


def _nothing_left(ref: DatasetRef, seen: int, drops: Sequence[Drop]) -> DataError:
    if seen == 0:
        return DataError(what="no rows", where=ref.id, remedy="give a data set that holds some")
    dropped = sum(drop.count for drop in drops)
    if dropped == seen:
        why = "; ".join(f"{drop.reason} ({drop.count}×, first at {drop.first})" for drop in drops)
        return DataError(
            what=f"none of the {seen} rows fits the mapping: {why}",
            where=ref.id,
            remedy="set mapping.schema and mapping.fields to what the columns hold",
        )
    return DataError(
        what=f"skip={ref.skip} leaves none of the {seen - dropped} usable rows",
        where=ref.id,
        remedy="give more rows, or lower skip (a recipe's test_size holds the first rows out with it)",
    )


def nothing_in(stream: RowStream, ref: DatasetRef) -> DataError:
    """Why an exhausted stream gave no row."""
    return _nothing_left(ref, stream.seen, stream.drops)


def _of_no_rows(wanted: FieldMapping) -> FieldMapping:
    """The mapping of a source without rows, whose columns nobody can look at."""
    return replace(wanted, schema="raw", fields={}) if wanted.schema == "auto" else wanted


def snapshot_of(source: SourceRows, ref: DatasetRef, *, load: Load | None = None) -> DatasetSnapshot:
    """Digest, order and map the rows of a whole source; ``load`` reads the dataset whose rows are excluded.

    Raises:
        ConfigError: ``ref.mapping`` is wrong, or names columns that are not there.
        DataError: no rows, none left, or (strict mapping) one that does not fit; the reasons are named.
        IntegrityError: ``ref`` carries a digest that these rows do not have.
    """
    wanted = FieldMapping.parse(ref.mapping)
    excluded = excluded_by(wanted, load)
    content, left = _read(source, excluded)
    if not len(source):
        raise _nothing_left(ref, 0, ())
    head = [source[n] for n in range(min(_LOOKED_AT, len(source)))]
    mapping, taken = _settled(wanted, head, excluded, ref)
    mapper = RowMapper(mapping)
    order = left[permutation(len(left), ref.shuffle_seed)]
    drops: tuple[Drop, ...] = ()
    if mapping.schema == "raw":
        stop = None if ref.limit is None else ref.skip + ref.limit
        kept = order[ref.skip : stop]
        seen = len(order)
    else:
        kept, drops, seen = _fitting(source, order, mapper, ref)
    if not len(kept):
        raise _nothing_left(ref, seen + len(source) - len(left), (*taken, *drops))
    found = _found(ref, content, kept, mapping)
    return DatasetSnapshot(ref=found, rows=MappedRows(source, kept, mapper), drops=(*taken, *drops))


def _read(source: SourceRows, excluded: Excluded | None) -> tuple[str, npt.NDArray[np.int64]]:
    """Content digest of all rows, and the positions of those that are not excluded."""
    content = ContentDigest()
    left = np.ones(len(source), dtype=np.bool_)
    for position, row in enumerate(source):
        content.add(row)
        if excluded is not None and excluded.takes(row):
            left[position] = False
            excluded.count(source.locate(position))
    return content.value, np.flatnonzero(left)


def _settled(
    wanted: FieldMapping, head: Sequence[Row], excluded: Excluded | None, ref: DatasetRef
) -> tuple[FieldMapping, tuple[Drop, ...]]:
    """The mapping with its columns and what it excludes found out, and the rows excluded."""
    if excluded is None:
        return resolve_fields(wanted, head), ()
    excluded.require_column(head, ref.id)
    return replace(resolve_fields(wanted, head), exclude=excluded.exclusion), excluded.drops


def _fitting(
    source: SourceRows, order: npt.NDArray[np.int64], mapper: RowMapper, ref: DatasetRef
) -> tuple[npt.NDArray[np.int64], tuple[Drop, ...], int]:
    """Positions that fit, after skip and limit; what was dropped; how many rows were looked at."""
    counter = DropCounter(strict=mapper.mapping.strict)
    fitting: list[int] = []
    enough = None if ref.limit is None else ref.skip + ref.limit
    seen = 0
    for position in order.tolist():
        if enough is not None and len(fitting) == enough:
            break
        seen += 1
        try:
            mapper.turn(source[position])
        except Unfit as unfit:
            counter.add(unfit, source.locate(position))
        else:
            fitting.append(position)
    return np.asarray(fitting[ref.skip :], dtype=np.int64), counter.drops, seen


class RowStream(Iterator[Row]):
    """Mapped rows one after the other, with bounded memory: the shuffle buffer and 100 rows.

    ``ref.shuffle_seed`` orders them through a buffer of ``ref.shuffle_buffer`` rows (``buffer_shuffle``); skip and
    limit count rows that fit. No row is read beyond those needed to fill the buffer and reach the limit.

    Raises:
        ConfigError, DataError: as ``snapshot_of``, the latter when the row is reached.
    """

    def __init__(self, placed: Iterable[PlacedRow], ref: DatasetRef, *, load: Load | None = None) -> None:
        self._ref = ref
        self._content = ContentDigest()
        wanted = FieldMapping.parse(ref.mapping)
        self._excluded = excluded_by(wanted, load)
        items = iter(placed)
        looked_at = 0 if wanted.schema == "raw" and self._excluded is None else _LOOKED_AT
        head = list(islice(items, looked_at))
        self.mapping = _of_no_rows(wanted)
        if head or not looked_at:
            self.mapping, _ = _settled(wanted, [item.row for item in head], self._excluded, ref)
        self._mapper = RowMapper(self.mapping)
        self._counter = DropCounter(strict=self.mapping.strict)
        self._positions: list[int] = []
        self._seen = 0
        self._rows = self._deliver(chain(head, items))

    def _read(self, placed: Iterable[PlacedRow]) -> Iterator[tuple[int, PlacedRow]]:
        for position, item in enumerate(placed):
            self._content.add(item.row)
            if self._excluded is None or not self._excluded.takes(item.row):
                yield position, item
            else:
                self._excluded.count(item.where)
                self._seen += 1

    def _deliver(self, placed: Iterable[PlacedRow]) -> Iterator[Row]:
        ref = self._ref
        items = self._read(placed)
        if ref.shuffle_seed is not None:
            items = buffer_shuffle(items, seed=ref.shuffle_seed, buffer_size=ref.shuffle_buffer)
        skipped = 0
        while ref.limit is None or len(self._positions) < ref.limit:
            position, item = next(items, (-1, None))
            if item is None:
                return
            self._seen += 1
            try:
                row = self._mapper.turn(item.row)
            except Unfit as unfit:
                self._counter.add(unfit, item.where)
                continue
            if skipped < ref.skip:
                skipped += 1
                continue
            self._positions.append(position)
            yield row

    def __next__(self) -> Row:
        return next(self._rows)

    @property
    def seen(self) -> int:
        """Rows looked at so far, those dropped and skipped included."""
        return self._seen

    @property
    def drops(self) -> tuple[Drop, ...]:
        """What was left out so far."""
        return (*(() if self._excluded is None else self._excluded.drops), *self._counter.drops)

    @property
    def ref(self) -> DatasetRef:
        """The reference with the digests of what was read and delivered so far.

        Raises:
            IntegrityError: the reference given carries a digest that differs.
        """
        return _found(self._ref, self._content.value, self._positions, self.mapping)


def snapshot_of_stream(
    placed: Iterable[PlacedRow], ref: DatasetRef, *, load: Load | None = None
) -> DatasetSnapshot:
    """Rows of a stream up to ``ref.limit``, held in memory; the content digest is that of the rows read.

    Raises:
        ConfigError, DataError, IntegrityError: as ``snapshot_of``.
    """
    stream = RowStream(placed, ref, load=load)
    rows: list[Any] = list(stream)
    if not rows:
        raise nothing_in(stream, ref)
    return DatasetSnapshot(ref=stream.ref, rows=rows, drops=stream.drops)
