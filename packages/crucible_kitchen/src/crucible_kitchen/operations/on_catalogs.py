"""What is installed: adapters, recipes, workflows, stages, environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

from crucible_ir import AdapterError, Contract
from crucible_kitchen.operations.catalog_models import (
    AdapterItem,
    AdapterList,
    Catalog,
    CatalogItem,
    ListAdapters,
    ListNames,
)
from crucible_kitchen.operations.service import Service
from crucible_kitchen.plugins.discovery import Plugin, discover, find
from crucible_kitchen.plugins.groups import ENVIRONMENTS, PORTS, RECIPES, STAGES, WORKFLOWS, group_of
from crucible_kitchen.plugins.loading import load, load_adapter

__all__ = ["adapters", "environments", "recipes", "stages", "workflows"]


def adapters(service: Service, request: ListAdapters) -> AdapterList:
    """Adapters of one port or of all."""
    ports = [group_of(request.port)] if request.port is not None else list(PORTS.values())
    items = [
        AdapterItem(
            port=port.port,
            name=plugin.name,
            summary=plugin.summary(),
            package=plugin.package,
            version=plugin.version,
            problem=_problem(port.port, plugin.name) if request.check else None,
        )
        for port in ports
        for plugin in discover(port.group)
    ]
    return AdapterList(adapters=tuple(items))


def _problem(port: str, name: str) -> str | None:
    try:
        load_adapter(port, name)
    except AdapterError as error:
        return str(error)
    return None


def _item(plugin: Plugin, details: dict[str, Any] | None = None) -> CatalogItem:
    return CatalogItem(
        name=plugin.name,
        summary=plugin.summary(),
        package=plugin.package,
        version=plugin.version,
        details=details,
    )


def _catalog(group: str, name: str | None) -> Catalog:
    if name is None:
        return Catalog(group=group, items=tuple(_item(plugin) for plugin in discover(group)))
    plugin = find(group, name)
    return Catalog(group=group, items=(_item(plugin, _details(group, load(plugin))),))


def _details(group: str, value: Any) -> dict[str, Any]:
    if group == STAGES:
        description: dict[str, Any] = value.describe()
        return description
    if group == ENVIRONMENTS:
        return {"needs_rows": value.needs_rows, "options": value.options_model.model_json_schema()}
    if group == RECIPES:
        return {"config": value.config_model.model_json_schema()}
    return _workflow_details(value)


def _workflow_details(workflow: Callable[..., Any]) -> dict[str, Any]:
    """JSON Schema of a workflow's options, and its nodes where these may all be left at their defaults."""
    hints = [hint for name, hint in get_type_hints(workflow).items() if name != "return"]
    if len(hints) != 1 or not (isinstance(hints[0], type) and issubclass(hints[0], Contract)):
        return {}
    options = hints[0]
    details: dict[str, Any] = {"options": options.model_json_schema()}
    if not any(field.is_required() for field in options.model_fields.values()):
        nodes = workflow(options())
        details["nodes"] = [node.model_dump(mode="json", exclude_defaults=True) for node in nodes]
    return details


def recipes(service: Service, request: ListNames) -> Catalog:
    """Recipes; one by name with the JSON Schema of its settings."""
    return _catalog(RECIPES, request.name)


def workflows(service: Service, request: ListNames) -> Catalog:
    """Workflows; one by name with the JSON Schema of its options and its nodes in order."""
    return _catalog(WORKFLOWS, request.name)


def stages(service: Service, request: ListNames) -> Catalog:
    """Stages; one by name with its keys, ports and the JSON Schema of its options."""
    return _catalog(STAGES, request.name)


def environments(service: Service, request: ListNames) -> Catalog:
    """Environments; one by name with the JSON Schema of its options."""
    return _catalog(ENVIRONMENTS, request.name)
