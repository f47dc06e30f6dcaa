"""What an experiment from outside may name: registered things, and no files but those that are allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from crucible_ir import (
    ConfigError,
    Experiment,
    IfDef,
    LoopDef,
    ParallelDef,
    PipelineNode,
    Problem,
    StageDef,
    nearest,
)
from crucible_kitchen.manifests.loading import is_path, load_manifest, profiles
from crucible_kitchen.manifests.manifest import is_reference
from crucible_kitchen.plugins.discovery import names
from crucible_kitchen.plugins.groups import PORTS, RECIPES, STAGES, WORKFLOWS

__all__ = ["admit_experiment", "admit_manifest", "admit_model", "admit_recipe", "stage_nodes"]

_DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".toml", ".txt", ".py"})
_PLACES = frozenset({"model", "path", "uri", "id", "dataset", "file", "folder"})
_LONGEST_PATH = 4096


def stage_nodes(nodes: Iterable[PipelineNode], path: str = "pipeline") -> Iterator[tuple[str, StageDef]]:
    """Every stage of a pipeline in order, nested ones included, each with its dotted path."""
    for index, node in enumerate(nodes):
        here = f"{path}[{index}]"
        match node:
            case StageDef():
                yield here, node
            case LoopDef():
                yield from stage_nodes(node.body, f"{here}.body")
            case IfDef():
                yield from stage_nodes(node.body, f"{here}.body")
                yield from stage_nodes(node.otherwise, f"{here}.otherwise")
            case ParallelDef():
                for number, branch in enumerate(node.branches):
                    yield from stage_nodes(branch, f"{here}.branches[{number}]")


def _registered(path: str, kind: str, name: str, group: str) -> list[Problem]:
    known = names(group)
    if name in known:
        return []
    near = nearest(name, known)
    what = f"{name!r} is an import path" if ":" in name or "." in name else f"there is no {kind} {name!r}"
    remedy = f"did you mean {near!r}?" if near else f"name a registered {kind}: {', '.join(known) or 'none'}"
    return [Problem(path=path, message=what, remedy=remedy)]


def _names_file(text: str) -> bool:
    """Whether ``text`` reads like the path of a file on this machine."""
    if not text or len(text) > _LONGEST_PATH or any(c.isspace() for c in text):
        return False
    if text.lower().startswith(("~", "file:", "\\")) or (len(text) > 2 and text[1:3] in (":\\", ":/")):
        return True
    path = PurePosixPath(text)
    if ".." in path.parts or path.suffix.lower() in _DATA_SUFFIXES:
        return "://" not in text
    return path.is_absolute() and (len(path.parts) > 2 or _exists(text))


def _exists(text: str) -> bool:
    """Whether ``text`` is the path of something here; what no system call takes (too long, NUL) is none."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _allowed(text: str, roots: Iterable[Path]) -> bool:
    try:
        resolved = Path(text.removeprefix("file://")).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: the home of a user there is not
        return False
    return any(resolved.is_relative_to(root.resolve()) for root in roots)


def _files(value: Any, path: str, roots: tuple[Path, ...]) -> Iterator[Problem]:
    """A problem for every text in JSON ``value`` that names a file outside ``roots``."""
    if isinstance(value, str):
        if _names_file(value) and not _allowed(value, roots):
            yield Problem(
                path=path,
                message=f"{value!r} names a file of this machine",
                remedy="name a hub id or something registered here",
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _files(item, f"{path}.{key}", roots)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _files(item, f"{path}[{index}]", roots)


def _local(value: str | None, path: str, roots: tuple[Path, ...]) -> Iterator[Problem]:
    """A problem when a model or dataset id is an absolute or an existing path outside ``roots``."""
    if not value or _names_file(value) or _allowed(value, roots):
        return
    if PurePosixPath(value).is_absolute() or _exists(value):
        yield Problem(
            path=path,
            message=f"{value!r} is a file or folder of this machine",
            remedy="name a hub id or something registered here",
        )


def admit_manifest(name: str, *, where: str = "backend.manifest") -> list[Problem]:
    """Problems of a manifest that is named from outside: built-in profiles alone, and none that spends with a key."""
    free = [profile for profile in profiles() if not _has_a_key(profile)]
    if is_path(name) or (name in profiles() and name not in free):
        what = "is a file" if is_path(name) else "works with a key of this machine"
        return [Problem(path=where, message=f"{name!r} {what}", remedy=f"name one of {', '.join(free)}")]
    return []


def _has_a_key(profile: str) -> bool:
    """Whether a built-in profile takes an option from the environment."""
    ports = load_manifest(profile).ports.values()
    return any(is_reference(value) for choice in ports for value in choice.options.values())


def admit_model(name: str, *, roots: tuple[Path, ...] = (), where: str = "model") -> list[Problem]:
    """Problems of a model that is named from outside: hub ids, and folders under ``roots``."""
    return [*_files(name, where, roots), *_local(name, where, roots)]


def _backend(experiment: Experiment) -> Iterator[Problem]:
    backend = experiment.backend
    yield from admit_manifest(backend.manifest)
    for port, adapter in backend.adapters.items():
        if port in PORTS:
            yield from _registered(f"backend.adapters.{port}", "adapter", adapter, PORTS[port].group)
    for port in backend.options:
        yield Problem(
            path=f"backend.options.{port}",
            message="adapter options are not taken from outside",
            remedy="leave them out, or put them into a manifest on the server",
        )


def admit_experiment(experiment: Experiment, *, roots: tuple[Path, ...] = ()) -> None:
    """Check what an experiment from outside names.

    Raises:
        ConfigError: import paths, unregistered names, manifest files, adapter options, or files that are not
            under ``roots``; all of them at once.
    """
    problems = list(_backend(experiment))
    if experiment.recipe is not None:
        problems += _registered("recipe", "recipe", experiment.recipe, RECIPES)
    if experiment.workflow is not None:
        problems += _registered("workflow", "workflow", experiment.workflow, WORKFLOWS)
    for path, stage in stage_nodes(experiment.pipeline):
        problems += _registered(f"{path}.name", "stage", stage.name, STAGES)
        problems += _files(stage.options, f"{path}.options", roots)
    plain = experiment.model_dump(mode="json")
    for name in ("model", "dataset", "eval_dataset", "training", "settings"):
        problems += _files(plain[name], name, roots)
    for name in ("dataset", "eval_dataset"):
        ref = getattr(experiment, name)
        if ref is not None:
            problems += _local(ref.id, f"{name}.id", roots)
            problems += _places(ref.mapping, f"{name}.mapping", roots)
    if experiment.model is not None:
        problems += _local(experiment.model.uri or experiment.model.id, "model", roots)
    if problems:
        raise ConfigError(problems=problems)


def admit_recipe(recipe: str, config: dict[str, Any], *, roots: tuple[Path, ...] = ()) -> None:
    """Check a recipe's name and settings from outside, before the recipe sees them.

    Raises:
        ConfigError: as for ``admit_experiment``.
    """
    problems = _registered("recipe", "recipe", recipe, RECIPES) + list(_files(config, "config", roots))
    problems += _places(config, "config", roots)
    if problems:
        raise ConfigError(problems=problems)


def _places(settings: dict[str, Any], path: str, roots: tuple[Path, ...]) -> Iterator[Problem]:
    """Problems of settings that name a place by their key (``model``, ``path``, ``eval_path`` …)."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _places(value, f"{path}.{key}", roots)
        elif isinstance(value, str) and (key in _PLACES or key.endswith(("_path", "_model"))):
            yield from _local(value, f"{path}.{key}", roots)
