from __future__ import annotations

from collections.abc import Iterable

import pytest

from crucible_ir import (
    AdapterError,
    ConfigError,
    CrucibleError,
    Experiment,
    IfDef,
    LoopDef,
    NotFoundError,
    ParallelDef,
    Problem,
    StageDef,
)
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.plan import compile_plan
from crucible_kitchen.engine.stage import Key, Stage
from crucible_testing.engine import ALL, COUNT, Catalog, MemoryPorts, Note, Recorder, Save

BEGIN = StageDef(name="begin")


def problems(*nodes: object, catalog: object = ALL, ports: MemoryPorts | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compile_plan(Experiment(id="t", pipeline=nodes), ports or MemoryPorts(), catalog)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


class NeedsPort(Stage):
    """Needs a port."""

    name = "needs_port"
    ports = ("blob_store",)

    async def run(self, ctx: StageContext) -> None:
        ctx.port("blob_store")


class Picky(Stage):
    """Finds two problems of its own."""

    name = "picky"

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        plan.prepared["seen"] = True
        return [Problem(path="x.y", message="too small"), Problem(path="x.z", message="too large")]

    async def run(self, ctx: StageContext) -> None:
        return


class MissingThing(Stage):
    """Its model is not there."""

    name = "missing_thing"

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        raise NotFoundError(what="no model 'm'", where="model", remedy="look at the path")

    async def run(self, ctx: StageContext) -> None:
        return


class Undeclared(Stage):
    """Touches what it did not declare."""

    name = "undeclared"

    async def run(self, ctx: StageContext) -> None:
        ctx.get(COUNT)


def test_an_unknown_stage_is_named_with_the_nearest_one() -> None:
    assert problems(BEGIN, StageDef(name="notte")) == [
        "pipeline[1].name: unknown stage 'notte'; did you mean 'note'?"
    ]


def test_a_key_that_nothing_wrote_is_named_with_the_stage_that_writes_it() -> None:
    (problem,) = problems(StageDef(name="save"))
    assert problem.startswith(
        "pipeline[0]: stage 'save' reads 'count', which nothing before it is sure to write"
    )
    assert "begin or note" in problem


def test_all_problems_come_at_once_with_their_paths() -> None:
    found = problems(
        BEGIN,
        StageDef(name="note", options={"txt": 1}),
        LoopDef(name="l", over="round", body=(StageDef(name="nope"),)),
        StageDef(name="picky"),
        catalog=Catalog(*[ALL.get(n) for n in ALL.names()], Picky),
    )
    assert [line.split(":")[0] for line in found] == [
        "pipeline[1].options.txt",
        "pipeline[2].over",
        "pipeline[2].body[0].name",
        "x.y",
        "x.z",
    ]


def test_what_only_one_branch_writes_does_not_count_afterwards() -> None:
    catalog = Catalog(*[ALL.get(n) for n in ALL.names()], OnlySometimes)
    node = IfDef(when="flag", body=(StageDef(name="sometimes"),))
    assert (
        "maybe"
        in problems(
            BEGIN,
            node,
            StageDef(name="reads_maybe"),
            catalog=Catalog(*[catalog.get(n) for n in catalog.names()], ReadsMaybe),
        )[0]
    )


MAYBE: Key[int] = Key("maybe")


class OnlySometimes(Stage):
    """Writes a key."""

    name = "sometimes"
    writes = (MAYBE,)

    async def run(self, ctx: StageContext) -> None:
        ctx.set(MAYBE, 1)


class ReadsMaybe(Stage):
    """Reads it."""

    name = "reads_maybe"
    reads = (MAYBE,)

    async def run(self, ctx: StageContext) -> None:
        ctx.get(MAYBE)


def test_a_loop_body_may_not_be_relied_on_after_the_loop() -> None:
    catalog = Catalog(*[ALL.get(n) for n in ALL.names()], OnlySometimes, ReadsMaybe)
    loop = LoopDef(name="l", over="rounds", body=(StageDef(name="sometimes"),))
    assert "maybe" in problems(BEGIN, loop, StageDef(name="reads_maybe"), catalog=catalog)[0]


def test_a_port_that_the_manifest_does_not_name_is_a_problem() -> None:
    (problem,) = problems(StageDef(name="needs_port"), catalog=Catalog(NeedsPort))
    assert "needs the port 'blob_store'" in problem


def test_branches_that_share_a_key_are_refused() -> None:
    node = ParallelDef(
        name="p", branches=((StageDef(name="note", label="a"),), (StageDef(name="note", label="b"),))
    )
    assert any("writes count, trace" in line for line in problems(BEGIN, node))


def test_a_checkpoint_inside_parallel_branches_is_refused() -> None:
    node = ParallelDef(name="p", branches=((StageDef(name="save"),),))
    assert any("stands inside parallel 'p'" in line for line in problems(BEGIN, node))


def test_the_only_error_keeps_its_kind_and_exit_code() -> None:
    with pytest.raises(NotFoundError, match="no model 'm'"):
        compile_plan(
            Experiment(id="t", pipeline=(StageDef(name="missing_thing"),)),
            MemoryPorts(),
            Catalog(MissingThing),
        )


def test_an_error_among_problems_joins_them() -> None:
    found = problems(
        StageDef(name="missing_thing"), StageDef(name="picky"), catalog=Catalog(MissingThing, Picky)
    )
    assert found == ["x.y: too small", "x.z: too large", "model: no model 'm'; look at the path"]


def test_a_stage_that_cannot_be_imported_is_one_error() -> None:
    class Broken(Catalog):
        def get(self, name: str) -> type[Stage]:
            raise AdapterError(
                what="cannot import stage 'note'", where="crucible.stages", remedy="install it"
            )

    with pytest.raises(AdapterError):
        compile_plan(Experiment(id="t", pipeline=(StageDef(name="note"),)), MemoryPorts(), Broken(Note))


def test_the_context_refuses_what_a_stage_did_not_declare() -> None:
    catalog = Catalog(*[ALL.get(n) for n in ALL.names()], Undeclared)
    recorder = Recorder(Experiment(id="t", pipeline=(BEGIN, StageDef(name="undeclared"))), catalog=catalog)
    with pytest.raises(CrucibleError, match="uses the key 'count' without declaring it"):
        recorder.run()


def test_a_plan_lists_its_stages_in_order_nested_ones_included() -> None:
    nodes = (
        BEGIN,
        LoopDef(
            name="l",
            over="rounds",
            body=(StageDef(name="note"), IfDef(when="flag", body=(StageDef(name="save"),))),
        ),
    )
    plan = compile_plan(Experiment(id="t", pipeline=nodes), MemoryPorts(), ALL)
    assert [planned.label for planned in plan.stages()] == ["begin", "note", "save"]
    assert isinstance(plan.stages()[2].stage, Save)
