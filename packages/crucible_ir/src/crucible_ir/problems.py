"""From pydantic's errors to ours: dotted paths, every problem at once, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from crucible_ir.errors import ConfigError, Problem, nearest
from crucible_ir.places import Place, dotted, place_of

__all__ = ["complaint", "problems_of"]

_OWN = "crucible_problems"
_LONGEST = 80
_HIDDEN = "[redacted]"
_SMELLS = re.compile(r"(?:^|[^a-z])(?:token|keys?|auth)(?![a-z])", re.IGNORECASE)


def complaint(problems: Sequence[Problem]) -> PydanticCustomError:
    """What a validator raises to report several problems; their paths start at the value it was given."""
    text = "; ".join(str(problem) for problem in problems)
    return PydanticCustomError(_OWN, "{text}", {"text": text, "problems": tuple(problems)})


def _did_you_mean(name: Any, known: Sequence[str]) -> str:
    near = nearest(str(name), known)
    return f"did you mean {near!r}?" if near else f"valid: {', '.join(known)}" if known else ""


def _quoted(expected: Any) -> list[str]:
    return re.findall(r"'([^']*)'", str(expected))


def _shown(given: Any, place: Place) -> str:
    """The value that was given, cut to one line; nothing of it where the path smells of a secret."""
    from crucible_ir.redaction import is_secret_name, redact

    names = [key for key in place.keys if isinstance(key, str)]
    if any(is_secret_name(name) or _SMELLS.search(name) for name in names):
        return _HIDDEN
    text = repr(redact(given) if isinstance(given, str | dict | list | tuple) else given)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _said(error: Any, place: Place) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            name = place.keys[-1]
            return f"unknown key {name!r}", _did_you_mean(name, sorted(place.fields)) or "remove it"
        case "missing":
            return "missing", "give a value"
        case "union_tag_not_found":
            return "missing", f"valid: {', '.join(place.kinds)}"
        case "union_tag_invalid":
            tag = context["tag"]
            return f"unknown kind {tag!r}", _did_you_mean(tag, _quoted(context["expected_tags"]))
        case "too_short":
            least = context["min_length"]
            return f"should have at least {least} item{'s' * (least > 1)}, not {context['actual_length']}", ""
    text = str(error["msg"]).removeprefix("Value error, ")
    text = text.removeprefix("Input ")
    shown = _shown(error.get("input"), place)
    remedy = ""
    if error["type"] in ("literal_error", "enum"):
        remedy = _did_you_mean(error.get("input"), _quoted(context["expected"])) if shown != _HIDDEN else ""
        if remedy.startswith("valid"):
            remedy = ""  # the message lists them already
    return f"{text}, not {shown}" if text.startswith("should ") else f"{text} (given {shown})", remedy


def _is_echo(error: Any) -> bool:
    """Whether this stands only because other values failed, for reasons of their own that are listed."""
    given = error.get("input")
    return error["type"] == "default_factory_not_called" or (
        error["type"] == "too_short" and isinstance(given, Sized) and len(given) >= error["ctx"]["min_length"]
    )


def _keys_of(error: Any, model: type[BaseModel]) -> Place:
    place = place_of(model, error["loc"])
    if error["type"] not in ("union_tag_invalid", "union_tag_not_found"):
        return place
    names = _quoted(error["ctx"]["discriminator"])
    return replace(place, keys=(*place.keys, *names))


def problems_of(error: ValidationError, model: type[BaseModel], *, where: str = "") -> ConfigError:
    """The ConfigError that names everything in ``error``; values of fields named like secrets are not shown."""
    found = [(item, _keys_of(item, model)) for item in error.errors(include_url=False) if not _is_echo(item)]
    deeper = {place.union for _, place in found if place.union is not None and place.keys != place.union}
    problems: dict[tuple[str, str], Problem] = {}
    for item, place in found:
        if place.keys in deeper and place.keys == place.union:
            continue  # another member of the union was meant: its own problems are listed
        path = dotted(where, place.keys)
        if item["type"] == _OWN:
            for inner in item["ctx"]["problems"]:
                joint = "" if not (path and inner.path) or inner.path.startswith("[") else "."
                problem = Problem(
                    path=f"{path}{joint}{inner.path}", message=inner.message, remedy=inner.remedy
                )
                problems[problem.path, problem.message] = problem
            continue
        message, remedy = _said(item, place)
        problems[path, message] = Problem(path=path, message=message, remedy=remedy)
    return ConfigError(problems=list(problems.values()))
