"""Loops over iterables: lazy, ordered, bounded ahead, ended by a key, resumed (K-10, K-11)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

import pytest

from crucible_ir import ConfigError, Experiment, LoopDef, StageDef, TrainError
from crucible_kitchen.engine.context import StageContext
from crucible_kitchen.engine.stage import Key, Stage
from crucible_testing.engine import ALL, Catalog, Recorder, resume_point

SOURCE: Key[Any] = Key("source")
SEEN: Key[list[int]] = Key("seen", durable=True)
ENOUGH: Key[bool] = Key("enough")
ITEM: Key[int] = Key("items_item")


class Open(Stage):
    """Open what the test planted."""

    name = "open"
    writes = (SOURCE, SEEN)
    setup = True
    make: ClassVar[Callable[[], Any]] = itertools.count

    async def run(self, ctx: StageContext) -> None:
        ctx.set(SOURCE, type(self).make())
        if ctx.resume is None:
            ctx.set(SEEN, [])


class See(Stage):
    """Note the item; enough after five, trouble at a planted one."""

    name = "see"
    reads = (SEEN, ITEM)
    writes = (SEEN, ENOUGH)
    breaks_at: ClassVar[int | None] = None
    watch: ClassVar[Callable[[], None] | None] = None

    async def run(self, ctx: StageContext) -> None:
        if type(self).watch is not None:
            type(self).watch()
        if ctx.get(ITEM) == type(self).breaks_at:
            raise TrainError(what="broken", where="see")
        ctx.set(SEEN, [*ctx.get(SEEN), ctx.get(ITEM)])
        ctx.set(ENOUGH, len(ctx.get(SEEN)) >= 5)


class Commit(Stage):
    """Commit a checkpoint."""

    name = "commit"
    reads = (SEEN,)
    commits = True

    async def run(self, ctx: StageContext) -> None:
        from crucible_ir import CheckpointRef

        step = len(ctx.get(SEEN))
        ctx.commit_checkpoint(
            CheckpointRef(id=f"c{step}", path="x", step=step), step=step, metrics_position=0
        )


CATALOG = Catalog(*[ALL.get(name) for name in ALL.names()], Open, See, Commit)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    def planted(make: Callable[[], Any]) -> None:
        monkeypatch.setattr(Open, "make", staticmethod(make))

    return planted


def looped(**loop: Any) -> Recorder:
    body = (StageDef(name="see"), StageDef(name="commit"))
    nodes = (StageDef(name="open"), LoopDef(name="items", over="source", body=body, **loop))
    return Recorder(Experiment(id="streamed", pipeline=nodes), catalog=CATALOG)


@pytest.mark.parametrize("prefetch", [None, 1, 3])
def test_an_endless_iterable_is_read_in_order_until_the_key_says_so(
    plant: Callable[..., None], prefetch: int | None
) -> None:
    plant(itertools.count)
    assert looped(until="enough", prefetch=prefetch).run().results["seen"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("prefetch", [None, 2])
def test_async_iterables_are_read_and_closed(plant: Callable[..., None], prefetch: int | None) -> None:
    closed = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            closed.append(True)

    plant(numbers)
    assert looped(until="enough", prefetch=prefetch).run().results["seen"] == [0, 1, 2, 3, 4]
    assert closed == [True]


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_no_more_than_the_asked_number_is_pulled_ahead(
    plant: Callable[..., None], prefetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled, ahead, turns = [], [], itertools.count(1)

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            pulled.append(number)
            yield number

    monkeypatch.setattr(See, "watch", staticmethod(lambda: ahead.append(len(pulled) - next(turns))))
    plant(numbers)
    looped(until="enough", prefetch=prefetch).run()
    assert max(ahead) <= prefetch + 1  # those that wait, and the one in the producer's hand


@pytest.mark.parametrize("prefetch", [None, 2])
def test_an_error_in_a_turn_stops_the_source_and_comes_out_as_itself(
    plant: Callable[..., None], prefetch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    monkeypatch.setattr(See, "breaks_at", 2)
    plant(numbers)
    with pytest.raises(TrainError, match="broken"):
        looped(prefetch=prefetch).run()
    assert closed == [True]


@pytest.mark.parametrize("prefetch", [None, 2])
def test_an_error_of_the_source_comes_after_the_items_before_it(
    plant: Callable[..., None], prefetch: int | None
) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)
        raise TrainError(what="the source broke", where="numbers")

    plant(numbers)
    recorder = looped(prefetch=prefetch)
    with pytest.raises(TrainError, match="the source broke"):
        recorder.run()
    assert len(recorder.of("checkpoint.saved")) == 3


@pytest.mark.parametrize("prefetch", [None, 2])
def test_a_resumed_loop_goes_on_with_the_next_item(plant: Callable[..., None], prefetch: int | None) -> None:
    plant(lambda: iter(range(7)))
    whole = looped(prefetch=prefetch)
    expected = whole.run().results["seen"]
    for saved in whole.of("checkpoint.saved"):
        assert looped(prefetch=prefetch).run(resume_point(saved)).results["seen"] == expected


def test_a_counted_loop_ends_by_its_key_too(plant: Callable[..., None]) -> None:
    plant(lambda: list(range(100)))
    assert looped(until="enough").run().results["seen"] == [0, 1, 2, 3, 4]


def test_a_key_that_nothing_writes_cannot_end_a_loop() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\[1\]\.until"):
        looped(until="never_written").run()


def test_text_is_no_sequence_of_items(plant: Callable[..., None]) -> None:
    plant(lambda: "abc")
    with pytest.raises(ConfigError, match="'source' = 'abc'"):
        looped().run()
