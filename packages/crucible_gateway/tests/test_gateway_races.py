"""What comes while something else is under way: nothing is closed in use, taken twice, or left behind."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crucible_gateway.tinker.checkpoints import CheckpointLibrary
from crucible_gateway.tinker.samplers import SamplerPool
from crucible_gateway.tinker.settings import Limits, ServedModel, TinkerSettings
from crucible_gateway.tinker.store import StateStore
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.faulty import FaultyBackend, FaultySampler

NAMES = ("a", "b", "c", "d")


class SlowToClose(FaultySampler):
    """A sampler whose closing lasts until ``may_close`` is set."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.may_close = asyncio.Event()
        self.closing = False

    async def close(self) -> None:
        self.closing = True
        await self.may_close.wait()
        await super().close()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[SamplerPool]:
    """Samplers ``s:sample:0`` to ``3`` of which one is held open."""
    folder = str(write_bigram_model(tmp_path / "model"))
    settings = TinkerSettings(
        models=tuple(ServedModel(name=name, source=folder, tokenizer_id=folder) for name in NAMES),
        state=tmp_path / "state",
        limits=Limits(open_samplers=1),
    )
    store = StateStore(settings.state)
    library = CheckpointLibrary(store, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    pool = SamplerPool(FaultyBackend(BigramBackend(), sampler=SlowToClose), store, settings, library)
    for number, name in enumerate(NAMES):
        pool.create(f"s:sample:{number}", base_model=name, model_path=None)
    yield pool
    store.close()


async def turns(count: int = 20) -> None:
    """Let everything that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 5))


def test_two_that_let_go_of_samplers_at_once_do_not_meet_and_close_none_in_use(pool: SamplerPool) -> None:
    async def work() -> None:
        async with AsyncExitStack() as all_used:
            clients = [await all_used.enter_async_context(pool.using(f"s:sample:{n}")) for n in range(3)]
        assert len(pool) == 3  # each was used while the next was opened
        last = pool.using("s:sample:3")
        entering = [asyncio.create_task(last.__aenter__()), asyncio.create_task(pool._shrink())]
        await turns()
        assert [client.closing for client in clients] == [True, True, False]
        async with pool.using("s:sample:2") as again:  # gains a user while the others are being closed
            for client in clients[:2]:
                client.may_close.set()
            await asyncio.wait(entering)
            assert again is clients[2]
            assert not again.closing
        for task in entering:
            task.result()
        again.may_close.set()
        await last.__aexit__(None, None, None)

    run(work)


def test_a_sampler_that_another_takes_the_place_of_is_closed_when_nobody_uses_it(pool: SamplerPool) -> None:
    async def work() -> None:
        record = pool.find("s:sample:0")
        async with pool.using("s:sample:0") as before:
            fresh = SlowToClose(before.inner)
            await pool.publish("s:sample:0", {**record, "model_id": "m"}, fresh, kept=4)
            assert not before.closing
            async with pool.using("s:sample:0") as now:
                assert now is fresh
            assert not before.closing
            before.may_close.set()
        assert before.closing
        assert not fresh.closing

    run(work)
