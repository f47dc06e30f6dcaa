"""``crucible config``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from crucible_ir import ConfigError, nearest
from crucible_kitchen.catalog import recipe as installed_recipe
from crucible_kitchen.cli.options import AsJson
from crucible_kitchen.cli.output import print_json, print_table
from crucible_kitchen.overrides import parse_overrides

__all__ = ["config", "explained"]

_ACTIONS = ("explain", "schema", "experiment")


def config(
    action: Annotated[str, typer.Argument(help="explain, schema, or experiment.")],
    recipe: Annotated[str, typer.Argument(help="A recipe.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value …")] = None,
    as_json: AsJson = False,
) -> int:
    """Explain a recipe's settings: value, default, type, meaning; or print its schema or experiment."""
    if action not in _ACTIONS:
        near = nearest(action, _ACTIONS)
        remedy = f"did you mean {near!r}?" if near else f"one of {', '.join(_ACTIONS)}"
        raise ConfigError(what=f"unknown action {action!r}", where="config", remedy=remedy)
    found = installed_recipe(recipe)
    if action == "schema":
        print_json(found.config_model.model_json_schema())
        return 0
    chosen = parse_overrides(settings or [])
    value = found.config_model.parse(chosen)
    if action == "experiment":
        print_json(found.experiment(value).model_dump(mode="json"))
        return 0
    rows = list(explained(value))
    if as_json:
        print_json(rows)
        return 0
    print_table(
        ("setting", "value", "from", "type", "meaning"),
        ((row["setting"], row["value"], row["from"], row["type"], row["meaning"]) for row in rows),
        empty="no settings",
    )
    return 0


def explained(
    value: BaseModel, prefix: str = "", default: BaseModel | None = None
) -> Iterator[dict[str, Any]]:
    """Every setting with its value, whether it was given, its type and meaning; nested ones dotted.

    ``default`` is what a recipe puts in the place of ``value`` when nothing is given.
    """
    for name, field in type(value).model_fields.items():
        held = getattr(value, name)
        usual = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(held, BaseModel):
            yield from explained(held, f"{prefix}{name}.", usual if isinstance(usual, type(held)) else None)
            continue
        given = usual is PydanticUndefined or held != usual
        if default is not None:
            given = given and held != getattr(default, name)
        yield {
            "setting": f"{prefix}{name}",
            "value": str(held),
            "from": "given" if given else "default",
            "type": _type_name(field.annotation),
            "meaning": " ".join(_meaning(type(value), name).split()),
        }


def _meaning(model: type[BaseModel], name: str) -> str:
    """The setting's description; a class that only changes its default says what the one below says."""
    fields = (base.__dict__.get("__pydantic_fields__", {}).get(name) for base in model.__mro__)
    return next((field.description for field in fields if field is not None and field.description), "")


def _type_name(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("NoneType", "None")
