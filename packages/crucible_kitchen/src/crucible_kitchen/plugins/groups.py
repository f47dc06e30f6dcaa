"""Entry-point groups: where a package says what it adds to Crucible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["COMMANDS", "ENVIRONMENTS", "PORTS", "RECIPES", "STAGES", "WORKFLOWS", "PortGroup", "group_of"]

COMMANDS = "crucible.commands"
"""Verbs of the ``crucible`` command."""
RECIPES = "crucible.recipes"
"""Recipes: a small config that becomes an experiment."""
WORKFLOWS = "crucible.workflows"
"""Functions that return the nodes of a pipeline."""
STAGES = "crucible.stages"
"""Stage classes that a pipeline names."""
ENVIRONMENTS = "crucible.environments"
"""Kinds of problems that reinforcement learning is done on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortGroup:
    """One port that a manifest fills: its entry-point group, its protocol, and where its files belong."""

    port: str
    protocol: str
    """``module:Name`` of the protocol that an adapter of this port fits."""
    summary: str
    folder: str | None = None
    """Folder under the home that an adapter's ``root`` defaults to; None when the port keeps no files."""

    @property
    def group(self) -> str:
        """Name of the entry-point group."""
        return f"crucible.{self.port}"


_PORTS = (
    PortGroup(
        port="training_backend",
        protocol="crucible_train.ports:TrainingBackend",
        summary="trains and samples models",
    ),
    PortGroup(
        port="completer",
        protocol="crucible_train.ports:Completer",
        summary="answers conversations",
    ),
    PortGroup(
        port="tokenizer",
        protocol="crucible_train.ports:Tokenizer",
        summary="turns text into ids and back",
    ),
    PortGroup(
        port="dataset_store",
        protocol="crucible_train.ports:DatasetStore",
        summary="loads datasets",
        folder="datasets",
    ),
    PortGroup(
        port="hub_client",
        protocol="crucible_train.ports:HubClient",
        summary="fetches files from a model or dataset hub",
    ),
    PortGroup(
        port="metrics_store",
        protocol="crucible_train.ports:MetricsStore",
        summary="keeps the metrics of every step",
        folder="runs",
    ),
    PortGroup(
        port="model_registry",
        protocol="crucible_train.ports:ModelRegistry",
        summary="registers models and checkpoints with their lineage",
        folder="registry",
    ),
    PortGroup(
        port="blob_store",
        protocol="crucible_train.ports:BlobStore",
        summary="keeps files under the digest of their content",
        folder="blobs",
    ),
    PortGroup(
        port="launcher",
        protocol="crucible_train.ports:Launcher",
        summary="starts runs elsewhere, or in several processes",
        folder="jobs",
    ),
    PortGroup(
        port="python_bridge",
        protocol="crucible_train.ports:PythonBridge",
        summary="runs functions in processes that can be killed",
    ),
)

PORTS: Mapping[str, PortGroup] = MappingProxyType({item.port: item for item in _PORTS})
"""Every port that a manifest may fill, by name."""


def group_of(port: str) -> PortGroup:
    """The group of ``port``.

    Raises:
        AdapterError: there is no such port; names the nearest.
    """
    if port in PORTS:
        return PORTS[port]
    from crucible_ir.errors import AdapterError, nearest

    near = nearest(port, PORTS)
    raise AdapterError(
        what=f"there is no port {port!r}",
        where="ports",
        remedy=f"did you mean {near!r}?" if near else f"ports: {', '.join(PORTS)}",
    )
