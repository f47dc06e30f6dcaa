"""The adapters that a manifest chose, each built when first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible_ir.errors import AdapterError, ConfigError, CrucibleError, Problem, nearest
from crucible_kitchen.blocking import run_to_end
from crucible_kitchen.manifests.manifest import AdapterChoice, Manifest, is_reference
from crucible_kitchen.plugins.discovery import Plugin, find, names
from crucible_kitchen.plugins.groups import PORTS, group_of
from crucible_kitchen.plugins.loading import load_adapter, missing_module, require_fit

__all__ = ["ManifestPorts"]


class ManifestPorts:
    """Builds adapters from a manifest; fits ``crucible_kitchen.engine.scope.Ports``.

    An adapter's options are given as keywords. A parameter ``home``, ``root`` or ``environ`` that the options leave
    out is filled in: the home folder, the folder under it that belongs to the port, the environment. So is a parameter
    without a default that has the name of another port: the manifest's adapter of that port.
    """

    def __init__(self, manifest: Manifest, *, home: Path, environ: Mapping[str, str]) -> None:
        self._manifest = manifest
        self._home = home
        self._environ = environ
        self._built: dict[str, Any] = {}

    @property
    def manifest(self) -> Manifest:
        """The choices, overrides included."""
        return self._manifest

    def names(self) -> frozenset[str]:
        """Ports for which the manifest names an adapter."""
        return frozenset(self._manifest.ports)

    def check(self) -> None:
        """Look whether every adapter is installed and every variable set; imports no adapter.

        Raises:
            AdapterError: an adapter is unknown or owned twice.
            ConfigError: variables that the manifest refers to are not set; all of them at once.
        """
        for port, choice in self._manifest.ports.items():
            _require_installed(port, choice)
        problems = [
            Problem(
                path=f"{self._manifest.profile}.ports.{port}.options.{name}",
                message=f"the environment variable {value['env']} is not set",
                remedy="set it or choose another adapter",
            )
            for port, choice in self._manifest.ports.items()
            for name, value in choice.options.items()
            if is_reference(value) and not self._environ.get(value["env"])
        ]
        if problems:
            raise ConfigError(problems=problems)

    def get(self, name: str) -> Any:
        """The adapter of port ``name``; the same object each time.

        Raises:
            AdapterError: the manifest names none, or it cannot be built.
            ConfigError: its options are wrong; all of them at once.
        """
        if name not in self._built:
            choice = self._manifest.ports.get(name)
            if choice is None:
                group_of(name)
                raise AdapterError(
                    what=f"the manifest {self._manifest.profile!r} names no adapter for the port {name!r}",
                    where="manifest",
                    remedy=f"add [ports.{name}] to it or set backend.adapters.{name}",
                )
            self._built[name] = self._build(name, choice)
        return self._built[name]

    async def aclose(self) -> None:
        """Close every adapter that was built, last first; each is closed even when another fails."""
        failed: BaseException | None = None
        while self._built:
            _, adapter = self._built.popitem()
            close = getattr(adapter, "aclose", None) or getattr(adapter, "close", None)
            if close is None:
                continue
            try:
                result = close()
                if inspect.isawaitable(result):
                    await result
            except Exception as error:  # noqa: BLE001 - all adapters are closed before the first error is raised
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """``aclose`` for plain code."""
        if self._built:
            run_to_end(self.aclose)

    def _build(self, port: str, choice: AdapterChoice) -> Any:
        _require_installed(port, choice)
        plugin, factory = load_adapter(port, choice.adapter)
        options = self._options(port, choice, plugin, factory)
        try:
            adapter = factory(**options)
        except CrucibleError:
            raise
        except ImportError as error:
            raise missing_module(plugin, error) from error
        except Exception as error:
            raise AdapterError(
                what=f"{plugin.name!r} of {plugin.package} cannot be made ({type(error).__name__}: {error})",
                where=plugin.group,
                remedy=f"correct [ports.{port}] of the manifest {self._manifest.profile!r}",
            ) from error
        if not isinstance(factory, type):
            require_fit(plugin, port, adapter)
        return adapter

    def _options(self, port: str, choice: AdapterChoice, plugin: Plugin, factory: Any) -> dict[str, Any]:
        """Keyword arguments for ``factory``: the manifest's, with variables and folders filled in."""
        where = f"{self._manifest.profile}.ports.{port}.options"
        parameters = _parameters(factory)
        options = dict(choice.options)
        for name, value in choice.options.items():
            if is_reference(value):
                options[name] = self._variable(f"{where}.{name}", value["env"])
        for name, value in (("home", self._home), ("environ", self._environ)):
            if name in parameters:
                options.setdefault(name, value)
        folder = group_of(port).folder
        if "root" in parameters:
            options.setdefault("root", self._home / folder if folder else self._home)
            if isinstance(options["root"], str):
                options["root"] = Path(options["root"]).expanduser()
        needed = {name for name, p in parameters.items() if p.default is p.empty}
        for other in needed & PORTS.keys() - {port, *options}:
            options[other] = self.get(other)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        problems = [] if open_ended else _unknown(options, parameters, where=where, plugin=plugin)
        problems += [
            Problem(
                path=f"{where}.{name}", message=f"{plugin.name!r} needs this option", remedy="give a value"
            )
            for name, p in parameters.items()
            if p.default is p.empty
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and name not in options
        ]
        if problems:
            raise ConfigError(problems=problems)
        return options

    def _variable(self, where: str, name: str) -> str:
        value = self._environ.get(name)
        if not value:
            raise ConfigError(
                what=f"the environment variable {name} is not set",
                where=where,
                remedy="set it or choose another adapter",
            )
        return value


def _require_installed(port: str, choice: AdapterChoice) -> None:
    """Look whether exactly one package adds the adapter; says what to install where the manifest knows."""
    group = group_of(port).group
    try:
        find(group, choice.adapter)
    except AdapterError as error:
        if choice.package is None or choice.adapter in names(group):
            raise
        raise AdapterError(
            what=error.what, where=error.where, remedy=f"install {choice.package}, or choose another adapter"
        ) from error


def _parameters(factory: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return {}


def _unknown(
    options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], *, where: str, plugin: Plugin
) -> list[Problem]:
    problems = []
    for name in options:
        if name in parameters:
            continue
        near = nearest(name, parameters)
        known = ", ".join(parameters) or "it takes none"
        problems.append(
            Problem(
                path=f"{where}.{name}",
                message=f"{plugin.name!r} of {plugin.package} has no option {name!r}",
                remedy=f"did you mean {near!r}?" if near else f"options: {known}",
            )
        )
    return problems
