"""What every DatasetStore promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from crucible_ir import ConfigError, DataError, DatasetRef, IntegrityError, NotFoundError
from crucible_train.ports import DatasetStore

__all__ = ["DatasetStoreContract", "PlaceRows"]

PlaceRows = Callable[[Sequence[dict[str, Any]]], DatasetRef]
"""Puts rows where the store finds them and gives the reference to them, in source order and unmapped."""

CHAT = {"schema": "prompt_completion", "fields": {"prompt": "prompt", "completion": "completion"}}


def _rows(count: int = 12) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {n}?", "completion": f"It is {n} – “{n}”."} for n in range(count)]


def _with(ref: DatasetRef, **changes: Any) -> DatasetRef:
    return DatasetRef.model_validate(ref.model_dump() | changes)


class DatasetStoreContract:
    """Inherit it and give ``store``, ``place`` and ``missing``."""

    @pytest.fixture
    def store(self) -> DatasetStore:
        """The store under test."""
        raise NotImplementedError

    @pytest.fixture
    def place(self) -> PlaceRows:
        """See ``PlaceRows``; each call makes a new dataset with the one split ``train``."""
        raise NotImplementedError

    @pytest.fixture
    def missing(self) -> DatasetRef:
        """A reference to a dataset that is nowhere."""
        raise NotImplementedError

    def test_it_fits_the_port(self, store: DatasetStore) -> None:
        assert isinstance(store, DatasetStore)

    def test_rows_come_back_in_the_order_of_the_source(self, store: DatasetStore, place: PlaceRows) -> None:
        snapshot = store.load(place(_rows()))
        assert list(snapshot.rows) == _rows()
        assert snapshot.ref.rows == 12
        assert snapshot.drops == ()
        for digest in (snapshot.ref.digest, snapshot.ref.order_digest, snapshot.ref.transform_digest):
            assert digest is not None
            assert digest.startswith("sha256:")

    def test_rows_are_a_sequence(self, store: DatasetStore, place: PlaceRows) -> None:
        rows = store.load(_with(place(_rows()), mapping=CHAT)).rows
        assert len(rows) == 12
        assert rows[0] == next(iter(rows)) == rows[-12]
        assert rows[11] == rows[-1]
        assert list(rows[3:5]) == list(rows)[3:5]
        assert list(rows) == list(rows)
        with pytest.raises(IndexError):
            rows[12]

    @pytest.mark.parametrize("seed", [0, 1, 42])
    def test_a_seed_orders_as_numpy_permutes(self, store: DatasetStore, place: PlaceRows, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(12).tolist()
        snapshot = store.load(_with(place(_rows()), shuffle_seed=seed))
        assert list(snapshot.rows) == [_rows()[position] for position in order]

    def test_skip_and_limit_come_after_the_order(self, store: DatasetStore, place: PlaceRows) -> None:
        order = np.random.default_rng(3).permutation(12).tolist()
        snapshot = store.load(_with(place(_rows()), shuffle_seed=3, skip=2, limit=4))
        assert list(snapshot.rows) == [_rows()[position] for position in order[2:6]]

    def test_each_digest_stands_for_its_own_part(self, store: DatasetStore, place: PlaceRows) -> None:
        ref = _with(place(_rows()), shuffle_seed=1, mapping=CHAT)

        def digests(of: DatasetRef) -> tuple[str | None, str | None, str | None]:
            found = store.load(of).ref
            return found.digest, found.order_digest, found.transform_digest

        content, order, transform = digests(ref)
        assert digests(ref) == (content, order, transform)
        assert digests(_with(ref, shuffle_seed=2))[::2] == (content, transform)
        assert digests(_with(ref, shuffle_seed=2))[1] != order
        assert digests(_with(ref, limit=5))[::2] == (content, transform)
        assert digests(_with(ref, limit=5))[1] != order
        assert digests(_with(ref, mapping={}))[:2] == (content, order)
        assert digests(_with(ref, mapping={}))[2] != transform
        changed = _with(place([*_rows(11), {"prompt": "What is 11?", "completion": "12"}]))
        other = digests(_with(changed, shuffle_seed=1, mapping=CHAT))
        assert other[0] != content
        assert other[1:] == (order, transform)

    def test_a_loaded_reference_loads_the_same_rows(self, store: DatasetStore, place: PlaceRows) -> None:
        ref = _with(place(_rows()), shuffle_seed=5, limit=6, mapping={"schema": "auto", "keep": True})
        first = store.load(ref)
        again = store.load(first.ref)
        assert list(again.rows) == list(first.rows)
        assert again.ref == first.ref

    @pytest.mark.parametrize("pin", ["digest", "order_digest", "transform_digest"])
    def test_other_data_than_the_pinned_are_refused(
        self, store: DatasetStore, place: PlaceRows, pin: str
    ) -> None:
        with pytest.raises(IntegrityError, match="was asked for"):
            store.load(_with(place(_rows()), **{pin: "sha256:" + "0" * 64}))

    def test_rows_that_do_not_fit_are_counted_with_reason_and_place(
        self, store: DatasetStore, place: PlaceRows
    ) -> None:
        rows = [*_rows(3), {"prompt": "", "completion": "x"}, *_rows(2), {"prompt": "\n ", "completion": "y"}]
        snapshot = store.load(_with(place(rows), mapping=CHAT, limit=5))
        assert len(snapshot.rows) == 5
        assert [(drop.reason, drop.count) for drop in snapshot.drops] == [("prompt is empty", 1)]
        assert snapshot.drops[0].first.endswith(" 4")
        with pytest.raises(DataError, match="prompt is empty"):
            store.load(_with(place(rows), mapping=CHAT | {"strict": True}))

    def test_nothing_left_is_an_error_with_the_reasons(self, store: DatasetStore, place: PlaceRows) -> None:
        blank = place([{"prompt": " ", "completion": "x"} for _ in range(3)])
        with pytest.raises(DataError, match=r"none of the 3 rows .*prompt is empty \(3×"):
            store.load(_with(blank, mapping=CHAT))
        with pytest.raises(DataError, match="skip=12 leaves none of the 12"):
            store.load(_with(place(_rows()), skip=12, mapping=CHAT))

    def test_what_is_missing_is_not_found(
        self, store: DatasetStore, place: PlaceRows, missing: DatasetRef
    ) -> None:
        for method in (store.load, store.check):
            with pytest.raises(NotFoundError):
                method(missing)
        with pytest.raises(NotFoundError, match="no split 'tran'"):
            store.load(_with(place(_rows()), split="tran"))

    def test_a_wrong_mapping_is_refused_with_the_nearest_name(
        self, store: DatasetStore, place: PlaceRows
    ) -> None:
        ref = _with(place(_rows()), mapping={"schema": "prompt_completoin"})
        for method in (store.load, store.check):
            with pytest.raises(ConfigError, match="did you mean 'prompt_completion'"):
                method(ref)

    def test_check_passes_what_loads(self, store: DatasetStore, place: PlaceRows) -> None:
        ref = _with(place(_rows()), mapping=CHAT, shuffle_seed=0, skip=3)
        store.check(ref)
        assert len(store.load(ref).rows) == 9

    def test_streamed_rows_are_the_first_ones(self, store: DatasetStore, place: PlaceRows) -> None:
        ref = _with(place(_rows()), streaming=True, skip=1, limit=4, mapping=CHAT)
        snapshot = store.load(ref)
        assert snapshot.ref.rows == 4
        assert [row["messages"][0]["content"] for row in snapshot.rows] == [
            f"What is {n}?" for n in range(1, 5)
        ]
        whole = store.load(_with(place(_rows()), streaming=True))
        assert list(whole.rows) == _rows()
        assert whole.ref.digest == store.load(place(_rows())).ref.digest

    def test_a_buffer_larger_than_the_data_orders_streamed_rows_as_numpy_permutes(
        self, store: DatasetStore, place: PlaceRows
    ) -> None:
        ref = _with(place(_rows()), streaming=True, shuffle_seed=9, shuffle_buffer=13)
        order = np.random.default_rng(9).permutation(12).tolist()
        assert list(store.load(ref).rows) == [_rows()[position] for position in order]
