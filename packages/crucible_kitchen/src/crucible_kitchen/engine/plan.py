"""From an experiment to a plan that is known to hold together, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from crucible_ir import (
    AdapterError,
    ConfigError,
    CrucibleError,
    Experiment,
    IfDef,
    LoopDef,
    ParallelDef,
    Problem,
    StageDef,
    nearest,
)
from crucible_kitchen.engine.context import PlanContext
from crucible_kitchen.engine.scope import Ports
from crucible_kitchen.engine.stage import Stage

__all__ = [
    "Plan",
    "PlannedIf",
    "PlannedLoop",
    "PlannedNode",
    "PlannedParallel",
    "PlannedStage",
    "StageCatalog",
    "compile_plan",
]


class StageCatalog(Protocol):
    """Stages by registered name."""

    def names(self) -> Iterable[str]:
        """Every registered name."""
        ...

    def get(self, name: str) -> type[Stage]:
        """The stage of that name; raises AdapterError when it cannot be imported."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage with its validated options."""

    node: StageDef
    stage: Stage
    path: str

    @property
    def label(self) -> str:
        """The label of this place, or the stage's name."""
        return self.node.label or self.node.name


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLoop:
    """A loop with its planned body."""

    node: LoopDef
    body: tuple[PlannedNode, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedIf:
    """A condition with its planned branches."""

    node: IfDef
    body: tuple[PlannedNode, ...]
    otherwise: tuple[PlannedNode, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedParallel:
    """Planned branches that run at the same time."""

    node: ParallelDef
    branches: tuple[tuple[PlannedNode, ...], ...]


PlannedNode = PlannedStage | PlannedLoop | PlannedIf | PlannedParallel


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A pipeline that was checked whole."""

    experiment: Experiment
    nodes: tuple[PlannedNode, ...]
    prepared: dict[str, Any]

    def stages(self) -> list[PlannedStage]:
        """Every stage in order, nested ones included."""
        return list(_stages(self.nodes))


def _stages(nodes: Iterable[PlannedNode]) -> Iterable[PlannedStage]:
    for node in nodes:
        match node:
            case PlannedStage():
                yield node
            case PlannedLoop():
                yield from _stages(node.body)
            case PlannedIf():
                yield from _stages((*node.body, *node.otherwise))
            case PlannedParallel():
                for branch in node.branches:
                    yield from _stages(branch)


@dataclass(slots=True)
class _Compiler:
    experiment: Experiment
    ports: Ports
    catalog: StageCatalog
    problems: list[Problem] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    parallel: str | None = None

    def sequence(self, nodes: Iterable[Any], path: str, known: set[str]) -> tuple[PlannedNode, ...]:
        """Plan ``nodes``; adds to ``known`` the keys they are sure to write."""
        planned = []
        for index, node in enumerate(nodes):
            done = self._node(node, f"{path}[{index}]", known)
            if done is not None:
                planned.append(done)
        return tuple(planned)

    def _node(self, node: Any, path: str, known: set[str]) -> PlannedNode | None:
        match node:
            case StageDef():
                return self._stage(node, path, known)
            case LoopDef():
                self._needs(node.over, f"{path}.over", known)
                inside = known | {f"{node.name}_index", f"{node.name}_item"}
                body = self.sequence(node.body, f"{path}.body", inside)
                if node.until is not None:
                    self._needs(node.until, f"{path}.until", inside)
                return PlannedLoop(node=node, body=body)
            case IfDef():
                self._needs(node.when, f"{path}.when", known)
                yes, no = set(known), set(known)
                body = self.sequence(node.body, f"{path}.body", yes)
                otherwise = self.sequence(node.otherwise, f"{path}.otherwise", no)
                known |= yes & no
                return PlannedIf(node=node, body=body, otherwise=otherwise)
            case ParallelDef():
                return self._parallel(node, path, known)
        raise ConfigError(what=f"unknown node {node!r}", where=path, remedy="use stage, loop, if or parallel")

    def _stage(self, node: StageDef, path: str, known: set[str]) -> PlannedStage | None:
        if not node.enabled:
            return PlannedStage(node=node, stage=_Disabled(_Disabled.options_model()), path=path)
        if node.name not in self.names:
            near = nearest(node.name, self.names)
            remedy = f"did you mean {near!r}?" if near else "crucible stages lists them"
            self._problem(f"{path}.name", f"unknown stage {node.name!r}", remedy)
            return None
        kind = self.catalog.get(node.name)
        for key in kind.reads:
            self._needs(key.name, path, known, reader=node.name)
        for port in kind.ports:
            if port not in self.ports.names():
                self._problem(
                    path,
                    f"stage {node.name!r} needs the port {port!r}, which the manifest does not name",
                    f"add [ports.{port}] to the manifest",
                )
        if kind.commits and self.parallel:
            self._problem(
                path,
                f"stage {node.name!r} saves checkpoints and stands inside parallel {self.parallel!r}",
                "move it out",
            )
        known |= {key.name for key in kind.writes}
        try:
            options = kind.options_model.parse(node.options, where=f"{path}.options")
        except ConfigError as error:
            self.problems.extend(error.problems)
            return None
        return PlannedStage(node=node, stage=kind(options), path=path)

    def _parallel(self, node: ParallelDef, path: str, known: set[str]) -> PlannedParallel:
        outer, self.parallel = self.parallel, self.parallel or node.name
        branches, written = [], set[str]()
        for index, branch in enumerate(node.branches):
            inside = set(known)
            branches.append(self.sequence(branch, f"{path}.branches[{index}]", inside))
            written |= inside - known
        self.parallel = outer
        self._isolated(branches, path)
        known |= written
        return PlannedParallel(node=node, branches=tuple(branches))

    def _isolated(self, branches: list[tuple[PlannedNode, ...]], path: str) -> None:
        uses = []
        for branch in branches:
            stages = [planned.stage for planned in _stages(branch)]
            reads = {k.name for s in stages for k in (*s.reads, *s.optional_reads)}
            uses.append((reads, {k.name for s in stages for k in s.writes}))
        for i, (_, writes) in enumerate(uses):
            for j, (other_reads, other_writes) in enumerate(uses):
                shared = sorted(writes & (other_reads | other_writes)) if i != j else []
                if shared and (i < j or not set(shared) & other_writes):
                    self._problem(
                        f"{path}.branches[{i}]",
                        f"writes {', '.join(shared)}, which branch {j} uses too",
                        "give each branch keys of its own",
                    )

    def _needs(self, key: str, path: str, known: set[str], reader: str | None = None) -> None:
        if key in known:
            return
        writers = sorted(n for n in self.names if key in {k.name for k in self._writes(n)})
        remedy = (
            f"put {' or '.join(writers)} before it"
            if writers
            else (
                f"did you mean {nearest(key, known)!r}?"
                if nearest(key, known)
                else "no registered stage writes it"
            )
        )
        what = f"stage {reader!r} reads" if reader else "needs"
        self._problem(path, f"{what} {key!r}, which nothing before it is sure to write", remedy)

    def _writes(self, name: str) -> tuple[Any, ...]:
        try:
            return self.catalog.get(name).writes
        except AdapterError:
            return ()

    def _problem(self, path: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(path=path, message=message, remedy=remedy))


class _Disabled(Stage):
    """Stands where a disabled stage stood, so that positions in the pipeline stay the same."""

    name = "disabled"
    setup = True

    async def run(self, ctx: Any) -> None:
        return


def compile_plan(experiment: Experiment, ports: Ports, catalog: StageCatalog) -> Plan:
    """Check the whole pipeline and give the plan of it.

    Order of checks: stages, options, keys and ports of every node; then each stage's own ``check``.

    Raises:
        ConfigError: every problem found, each with its path.
        CrucibleError: the one problem there is, when it is not one of configuration (a missing model,
            an SDK that is not installed), so that its exit code is kept.
    """
    compiler = _Compiler(
        experiment=experiment, ports=ports, catalog=catalog, names=frozenset(catalog.names())
    )
    compiler.problems += _unserved(experiment)
    nodes = compiler.sequence(experiment.pipeline, "pipeline", set())
    prepared: dict[str, Any] = {}
    problems, errors = compiler.problems, list[CrucibleError]()
    for planned in _stages(nodes):
        context = PlanContext(experiment=experiment, ports=ports, path=planned.path, prepared=prepared)
        _collect(lambda p=planned, c=context: p.stage.check(c), problems, errors)  # type: ignore[misc]
    _raise_all(problems, errors)
    return Plan(experiment=experiment, nodes=nodes, prepared=prepared)


def _unserved(experiment: Experiment) -> list[Problem]:
    """Settings that an experiment may carry and no part of this version acts on: refused, never ignored."""
    training = experiment.training
    given = {
        "outputs": bool(experiment.outputs),
        "reliability": experiment.reliability is not None,
        "training.options": training is not None and bool(training.options),
    }
    return [
        Problem(path=path, message="nothing acts on it in this version", remedy="leave it out")
        for path, there in given.items()
        if there
    ]


def _collect(
    check: Callable[[], Iterable[Problem]], problems: list[Problem], errors: list[CrucibleError]
) -> None:
    try:
        problems.extend(check())
    except ConfigError as error:
        problems.extend(error.problems)
    except CrucibleError as error:
        if str(error) not in {str(known) for known in errors}:
            errors.append(error)


def _raise_all(problems: list[Problem], errors: list[CrucibleError]) -> None:
    if len(errors) == 1 and not problems:
        raise errors[0]
    unique = list(
        dict.fromkeys([*problems, *(Problem(path=e.where, message=e.what, remedy=e.remedy) for e in errors)])
    )
    if unique:
        raise ConfigError(problems=unique)
