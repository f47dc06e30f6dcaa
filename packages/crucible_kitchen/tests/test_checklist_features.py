"""Checklists K- and F- and the listed defects of the upstream engine, where no other test names the claim."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import (
    ConfigError,
    DatasetRef,
    Experiment,
    IfDef,
    LoopDef,
    ModelRef,
    ParallelDef,
    Problem,
    StageDef,
    TrainError,
)
from crucible_kitchen.api import Crucible
from crucible_kitchen.catalog import recipe
from crucible_kitchen.engine.context import PlanContext, StageContext
from crucible_kitchen.engine.execution import describe
from crucible_kitchen.engine.plan import compile_plan
from crucible_kitchen.engine.stage import Stage
from crucible_kitchen.operations.admission import admit_experiment, admit_recipe
from crucible_kitchen.plugins.stages import InstalledStages
from crucible_kitchen.stages.begin_epoch import BeginEpoch
from crucible_kitchen.stages.keys import BATCHES, IN_FLIGHT, TOTAL_STEPS
from crucible_kitchen.workflows.supervised import SupervisedOptions, supervised
from crucible_testing.bench import StageBench, plant_bigram, toy_experiment
from crucible_testing.engine import (
    ALL,
    COUNT,
    FLAG,
    ROUNDS,
    TRACE,
    Begin,
    Catalog,
    MemoryPorts,
    Note,
    Recorder,
    resume_point,
)

STAGES = [ALL.get(name) for name in ALL.names()]


def note(text: str) -> StageDef:
    return StageDef(name="note", options={"text": text})


def toy(*nodes: Any, **options: Any) -> Experiment:
    return Experiment(id="toy", pipeline=(StageDef(name="begin", options=dict(options)), *nodes))


# --- K: the workflow ---------------------------------------------------------------------------------------


def test_k01_the_supervised_workflow_has_these_stages_in_this_order() -> None:
    plan = compile_plan(
        Experiment(id="x", pipeline=supervised(SupervisedOptions(renderer="role_colon"))),
        _Everything(),
        _Unchecked(),
    )
    assert [planned.label for planned in plan.stages()] == [
        "load_dataset",
        "init_session",
        "init_tokenizer",
        "capture_environment",
        "build_datums",
        "open_metrics",
        "sample_before",
        "begin_epoch",
        "begin_step",
        "evaluate_nll",
        "forward_backward",
        "optim_step",
        "log_metrics",
        "save_checkpoint",
        "final_checkpoint",
        "final_evaluation",
        "sample_after",
        "save_weights",
        "register_model",
        "write_report",
    ]


class _Everything(MemoryPorts):
    def names(self) -> frozenset[str]:
        return frozenset({"training_backend", "dataset_store", "metrics_store", "model_registry"})


class _Unchecked:
    """The installed stages, none of which looks at the experiment."""

    def __init__(self) -> None:
        self._installed = InstalledStages()

    def names(self) -> Iterable[str]:
        return self._installed.names()

    def get(self, name: str) -> type[Stage]:
        return type(name, (self._installed.get(name),), {"check": lambda self, plan: ()})


def test_k02_exactly_the_ports_that_are_missing_are_named() -> None:
    class Some(MemoryPorts):
        def names(self) -> frozenset[str]:
            return frozenset({"metrics_store"})

    pipeline = supervised(SupervisedOptions(renderer="role_colon"))
    with pytest.raises(ConfigError) as caught:
        compile_plan(Experiment(id="x", pipeline=pipeline), Some(), _Unchecked())
    missing = {match[1] for p in caught.value.problems if (match := re.search(r"the port '(\w+)'", str(p)))}
    assert missing == {"training_backend", "dataset_store"}


def test_k04_the_run_id_is_on_every_event(
    home: Path, probe: Path, experiment: Callable[..., Experiment]
) -> None:
    crucible = Crucible(home)
    record = crucible.run(experiment())
    assert re.fullmatch(r"run_\d+_[a-f0-9]{8}", record.run_id)
    assert {event.run_id for event in crucible.events(record.run_id).events} == {record.run_id}


def test_k05_what_the_user_gives_wins_over_a_recipes_defaults(probe: Path) -> None:
    made = recipe("probe_tune").parse({"turns": 5})
    assert made.pipeline[0] == StageDef(name="probe_begin", options={"turns": 5})
    assert recipe("probe_tune").parse({}).pipeline[0] == StageDef(name="probe_begin", options={"turns": 2})


class Picky(Stage):
    """Finds fault with every plan."""

    name = "picky"
    ran: ClassVar[list[str]] = []

    def check(self, plan: PlanContext) -> Iterable[Problem]:
        return [Problem(path=plan.path, message="not like this", remedy="otherwise")]

    async def run(self, ctx: StageContext) -> None:
        self.ran.append(ctx.label)


def test_k06_a_stage_that_finds_fault_stops_the_run_before_any_stage() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\[1\]: not like this"):
        Recorder(toy(StageDef(name="picky")), catalog=Catalog(Begin, Picky)).run()
    assert Picky.ran == []


def test_k08_an_error_in_an_inner_loop_ends_all_loops_and_they_know_their_turns() -> None:
    seen: list[tuple[int, int, int]] = []

    class Where(Stage):
        """Look at the turns; break at the second outer one."""

        name = "where"
        optional_reads = (ROUNDS,)

        async def run(self, ctx: StageContext) -> None:
            values = ctx._state.values
            seen.append((values["outer_index"], values["inner_index"], values["inner_item"]))
            if values["outer_index"] == 1:
                raise TrainError(what="broken", where=ctx.label)

    inner = LoopDef(name="inner", over="rounds", body=(StageDef(name="where"),))
    loops = LoopDef(name="outer", over="rounds", body=(inner, note("between")))
    recorder = Recorder(toy(loops, note("never"), rounds=3), catalog=Catalog(Begin, Note, Where))
    with pytest.raises(TrainError):
        recorder.run()
    assert seen == [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0)]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_k12_no_more_branches_run_at_once_than_allowed_and_as_many_as_that(limit: int) -> None:
    running, most = 0, 0

    class Together(Stage):
        """Count those that run at the same time."""

        name = "together"

        async def run(self, ctx: StageContext) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            running -= 1

    branches = tuple((StageDef(name="together", label=f"b{n}"),) for n in range(5))
    node = ParallelDef(name="p", max_concurrency=limit, branches=branches)
    Recorder(toy(node), catalog=Catalog(Begin, Together)).run()
    assert most == limit


def test_k14_start_and_end_of_a_stage_are_events_with_its_duration_and_how_it_went() -> None:
    recorder = Recorder(toy(note("a"), StageDef(name="fail")))
    with pytest.raises(TrainError):
        recorder.run()
    began = [data["label"] for data in recorder.of("stage.started")]
    assert began == ["begin", "note", "fail"]
    assert [data["label"] for data in recorder.of("stage.completed")] == ["begin", "note"]  # F-03
    (failed,) = recorder.of("stage.failed")
    assert (failed["stage"], "broken" in failed["error"]) == ("fail", True)
    for data in (*recorder.of("stage.completed"), failed):
        assert data["duration_s"] > 0


def test_k19_a_registered_model_says_how_it_was_trained_and_how_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    crucible = Crucible(tmp_path / "home")
    experiment = toy_experiment(tmp_path, epochs=2)
    record = crucible.run(experiment)
    (event,) = [e for e in crucible.events(record.run_id).events if e.type == "model.registered"]
    model = event.data["model"]
    assert model["produced_by"] == record.run_id
    assert model["uri"].endswith(f"{record.run_id}/checkpoints/final")  # D-K12
    known = model["metadata"]
    assert known["config_digest"] == experiment.config_digest
    assert (known["steps"], known["seed"]) == (8, experiment.seed)
    assert experiment.training is not None
    assert known["training"] == experiment.training.model_dump(mode="json")
    assert known["workflow"] == experiment.workflow
    assert "test/nll" in known["metrics"]
    assert set(known["provenance"]) == {
        *("dataset", "eval_dataset", "model", "tokenizer", "renderer"),
        *("backend", "code", "environment"),
    }


# --- defects that are not carried over ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        {"kind": "async_loop", "name": "x", "body": [{"name": "note"}]},
        {"name": "x", "over": "rounds", "body": [{"name": "note"}]},
        {"kind": "loop", "name": "x", "over": "rounds", "body": []},
        {"kind": "loop", "name": "x", "over": "rounds", "body": [{"kind": "block"}]},
    ],
)
def test_dk7_dk8_an_unknown_or_empty_node_is_refused_and_never_dropped(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"pipeline"):
        Experiment.parse({"id": "x", "pipeline": [{"name": "begin"}, node]})


class Bad(Stage):
    """Cannot even be taken back."""

    name = "bad"

    async def run(self, ctx: StageContext) -> None:
        return

    async def rollback(self, ctx: StageContext, error: BaseException) -> None:
        raise ZeroDivisionError("while taking back")


def test_dk9_a_rollback_that_breaks_hides_neither_the_error_nor_the_other_rollbacks() -> None:
    undone: list[str] = []

    class Good(Bad):
        """Can be taken back."""

        name = "good"

        async def rollback(self, ctx: StageContext, error: BaseException) -> None:
            undone.append(describe(error))

    nodes = (StageDef(name="good"), StageDef(name="bad"), StageDef(name="fail"))
    recorder = Recorder(toy(*nodes), catalog=Catalog(*STAGES, Good, Bad))
    with pytest.raises(TrainError, match="broken"):
        recorder.run()
    assert len(undone) == 1
    bad, good = recorder.of("stage.rolled_back")
    assert "ZeroDivisionError: while taking back" in bad["error"]
    assert "error" not in good


def test_what_fails_while_closing_is_a_note_of_the_error_and_does_not_hide_it() -> None:
    class Leaky(Stage):
        """Opens what cannot be closed."""

        name = "leaky"

        async def run(self, ctx: StageContext) -> None:
            async def close() -> None:
                raise ZeroDivisionError("while closing")

            ctx.defer(close)

    catalog = Catalog(*STAGES, Leaky)
    with pytest.raises(TrainError, match="broken") as caught:
        Recorder(toy(StageDef(name="leaky"), StageDef(name="fail")), catalog=catalog).run()
    assert "ZeroDivisionError: while closing" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        Recorder(toy(StageDef(name="leaky")), catalog=catalog).run()


class SetFlag(Stage):
    """Build what the rest needs in memory."""

    name = "set_flag"
    writes = (FLAG,)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        ctx.set(FLAG, True)


class UseFlag(Stage):
    """Needs what was built."""

    name = "use_flag"
    reads = (FLAG,)

    async def run(self, ctx: StageContext) -> None:
        assert ctx.get(FLAG)


class Rounds(Stage):
    """Begin without a flag."""

    name = "rounds"
    writes = (TRACE, COUNT, ROUNDS)
    setup = True

    async def run(self, ctx: StageContext) -> None:
        for key, value in ((TRACE, []), (COUNT, 0), (ROUNDS, 1)):
            ctx.set(key, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrapped", ["if", "parallel"])
def test_k32_setup_stages_within_choices_and_branches_are_run_again_on_resume(wrapped: str) -> None:
    inner = StageDef(name="set_flag")
    node: Any = IfDef(when="rounds", body=(inner,), otherwise=(inner,))
    if wrapped == "parallel":
        node = ParallelDef(name="p", branches=((inner,),))
    names = [StageDef(name="rounds"), node, StageDef(name="save"), StageDef(name="use_flag")]
    catalog = Catalog(*STAGES, SetFlag, UseFlag, Rounds)
    recorder = Recorder(Experiment(id="toy", pipeline=tuple(names)), catalog=catalog)
    recorder.run()
    (saved,) = recorder.of("checkpoint.saved")
    recorder.run(resume_point(saved))


@pytest.mark.parametrize(
    "training", [{"epochs": 0}, {"batch_size": 0}, {"max_steps": 0}, {"epochs": -1}, {"micro_batch_size": 0}]
)
def test_dk11_a_count_below_one_is_refused(training: dict[str, int]) -> None:
    (name,) = training
    with pytest.raises(ConfigError, match=rf"training\.{name}"):
        Experiment.parse({"id": "x", "pipeline": [{"name": "begin"}], "training": training})


def test_df1_what_a_disabled_stage_would_write_is_not_there_for_others() -> None:
    off = StageDef(name="begin", enabled=False)
    with pytest.raises(ConfigError, match="which nothing before it is sure to write"):
        Recorder(Experiment(id="x", pipeline=(off, note("x")))).run()


def test_df7_defaults_of_options_are_applied() -> None:
    assert Recorder(toy(StageDef(name="note"))).run().results["trace"] == ["note"]


@given(st.lists(st.booleans(), min_size=1, max_size=4))
def test_k09_nested_conditions_take_exactly_one_path(flags: list[bool]) -> None:
    flag = flags[0]
    node: Any = note("leaf")
    for _ in flags:
        node = IfDef(when="flag", body=(node,), otherwise=(note("not"),))
    trace = Recorder(toy(node, flag=flag)).run().results["trace"]
    assert trace == (["leaf"] if flag else ["not"])


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_dk1_nothing_is_left_unawaited_after_the_last_step_whatever_follows(
    tmp_path: Path, ahead: int
) -> None:
    bench = StageBench(tmp_path / "run_1_00000000", toy_experiment(tmp_path, epochs=1, submit_ahead=ahead))
    bench.ready()
    bench.turn("epochs", 0)
    bench.run(BeginEpoch)
    for index, batch in enumerate(bench[BATCHES]):
        bench.turn("batches", index, batch)
        bench.step()
    rows = bench.metrics.read("run_1_00000000")
    assert [row.step for row in rows] == list(range(bench[TOTAL_STEPS]))  # D-K17 too: they reach the store
    assert not bench[IN_FLIGHT].steps
    bench.close()


# --- from outside ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("../\0x", True),
        ("~nobody-of-that-name/rows", True),
        ("FILE:///etc/hosts", True),
        ("/nowhere here/rows", True),
        ("a" * 300, False),
        ("someone/rows", False),
    ],
)
def test_no_name_from_outside_breaks_the_admission_whatever_it_looks_like(name: str, refused: bool) -> None:
    outside = toy().model_copy(
        update={"pipeline": (), "dataset": DatasetRef(id=name), "model": ModelRef(id=name)}
    )
    for call in (
        lambda: admit_experiment(outside),
        lambda: admit_recipe("probe_tune", {"model": name, "data": {"path": name}}),
    ):
        try:
            call()
            problems = ""
        except ConfigError as error:
            problems = " ".join(str(p) for p in error.problems if p.path != "recipe")
        assert ("of this machine" in problems) == refused


@pytest.mark.parametrize("destination", ["~nobody-of-that-name/x", "\0", "/elsewhere/x", "../x"])
def test_no_destination_from_outside_leads_elsewhere(
    destination: str, home: Path, probe: Path, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    record = Crucible(home).run(experiment())
    outside = Crucible(home, trusted=False, allowed_roots=(tmp_path / "uploads",))
    with pytest.raises(ConfigError, match="destination"):
        outside.fetch(record.run_id, "metrics.jsonl", destination)
