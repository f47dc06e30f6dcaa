"""From pydantic's errors to ours: dotted paths, every problem at once, the nearest valid name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from crucible_ir.errors import ConfigError, Problem, nearest

__all__ = ["problems_of"]


def _dotted(where: str, loc: tuple[int | str, ...]) -> str:
    path = where
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    return path


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model that holds the last part of ``loc``; empty if that is not a model."""
    current: Any = model
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if _is_model(current) else None
        if field is None:
            continue
        current = next((t for t in _types_in(field.annotation) if _is_model(t)), None)
        if current is None:
            return []
    return list(current.model_fields) if _is_model(current) else []


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _types_in(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(t for a in arguments for t in _types_in(a))]


def _remedy(error: Any, model: type[BaseModel]) -> tuple[str, str]:
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, loc)
        near = nearest(str(loc[-1]), known)
        hint = (
            f"did you mean {near!r}?"
            if near
            else f"valid: {', '.join(sorted(known))}"
            if known
            else "remove it"
        )
        return f"unknown key {loc[-1]!r}", hint
    if error["type"] == "missing":
        return "missing", "give a value"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = repr(given) if len(repr(given)) <= 80 else repr(given)[:77] + "..."
    if error["type"] in ("literal_error", "enum"):
        near = nearest(
            str(given), str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        )
        return f"{message} (given {shown})", f"did you mean {near!r}?" if near else ""
    return f"{message} (given {shown})", ""


def problems_of(error: ValidationError, model: type[BaseModel], *, where: str = "") -> ConfigError:
    """The ConfigError that names everything in ``error``; values of fields named like secrets are not shown."""
    problems = []
    for item in error.errors(include_url=False):
        message, remedy = _remedy(item, model)
        problems.append(Problem(path=_dotted(where, item["loc"]), message=message, remedy=remedy))
    return ConfigError(problems=problems)
