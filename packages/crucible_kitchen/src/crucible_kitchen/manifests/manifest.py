"""The manifest: one adapter and its options for each port."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from crucible_ir import BackendRef, Contract
from crucible_ir.errors import ConfigError, Problem, nearest
from crucible_ir.redaction import is_secret_name
from crucible_kitchen.plugins.groups import PORTS

__all__ = ["AdapterChoice", "Manifest", "is_reference"]


def is_reference(value: object) -> bool:
    """Whether an option's value is ``{ env = "NAME" }``: taken from the environment when needed."""
    return isinstance(value, dict) and set(value) == {"env"} and isinstance(value["env"], str)


class AdapterChoice(Contract):
    """The adapter of one port."""

    adapter: str = Field(min_length=1)
    """Name in the port's entry-point group."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the adapter; ``{ env = "NAME" }`` takes a value from the environment."""
    package: str | None = None
    """What to install when the adapter is not there (``crucible-kitchen[torch]``)."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Self:
        for name, value in self.options.items():
            if is_secret_name(name) and isinstance(value, str) and value:
                raise ValueError(
                    f"option {name!r} holds a secret in plain text; write "
                    f'{name} = {{ env = "NAME_OF_A_VARIABLE" }}'
                )
        return self


class Manifest(Contract):
    """A named choice of adapters."""

    profile: str = Field(min_length=1)
    description: str = ""
    extends: str | None = None
    """Built-in profile whose ports this one starts from."""
    ports: dict[str, AdapterChoice] = Field(default_factory=dict)

    def unknown_ports(self, *, where: str) -> list[Problem]:
        """One problem for each key of ``ports`` that is no port."""
        problems = []
        for port in sorted(set(self.ports) - set(PORTS)):
            near = nearest(port, PORTS)
            problems.append(
                Problem(
                    path=f"{where}.ports.{port}",
                    message=f"there is no port {port!r}",
                    remedy=f"did you mean {near!r}?" if near else f"ports: {', '.join(PORTS)}",
                )
            )
        return problems

    def on_top_of(self, base: Manifest) -> Manifest:
        """This manifest with the ports of ``base`` that it does not name."""
        return self.model_copy(update={"ports": {**base.ports, **self.ports}})

    def with_overrides(self, overrides: BackendRef) -> Manifest:
        """This manifest with an experiment's own choices.

        Another adapter drops the manifest's options; options alone are laid over them.

        Raises:
            ConfigError: options for a port that has no adapter, or a port that does not exist.
        """
        ports = dict(self.ports)
        problems: list[Problem] = []
        for port, adapter in overrides.adapters.items():
            if port not in ports or ports[port].adapter != adapter:
                ports[port] = AdapterChoice(adapter=adapter)
        for port, options in overrides.options.items():
            if port in ports:
                merged = {**ports[port].model_dump(), "options": {**ports[port].options, **options}}
                try:
                    ports[port] = AdapterChoice.parse(merged, where=f"backend.{port}")
                except ConfigError as error:
                    problems.extend(error.problems)
            elif port in PORTS:
                problems.append(
                    Problem(
                        path=f"backend.options.{port}",
                        message=f"the manifest {self.profile!r} names no adapter for {port!r}",
                        remedy=f"name one with backend.adapters.{port}",
                    )
                )
        changed = self.model_copy(update={"ports": ports})
        asked = Manifest(
            profile=self.profile,
            ports={port: AdapterChoice(adapter="-") for port in {*overrides.adapters, *overrides.options}},
        )
        problems.extend(asked.unknown_ports(where="backend"))
        if problems:
            raise ConfigError(problems=problems)
        return changed
