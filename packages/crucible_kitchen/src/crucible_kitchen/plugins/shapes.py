"""Whether an adapter has the shape of its port: every method there, each taking the port's arguments."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["mismatches"]

_EMPTY = inspect.Parameter.empty


def _members(protocol: type) -> dict[str, Any]:
    """Public members that ``protocol`` and its bases declare."""
    found: dict[str, Any] = {}
    for base in reversed(protocol.__mro__):
        if base is object or base.__module__ == "typing":
            continue
        found.update({name: value for name, value in vars(base).items() if not name.startswith("_")})
        found.update(
            {name: None for name in vars(base).get("__annotations__", {}) if not name.startswith("_")}
        )
    return found


def _call(port_method: Any) -> tuple[list[object], dict[str, object]]:
    """Arguments of a full call as the port allows it; the first stands for ``self``."""
    positional: list[object] = []
    keywords: dict[str, object] = {}
    for parameter in inspect.signature(port_method).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[parameter.name] = _EMPTY
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional.append(_EMPTY)
    return positional, keywords


def _method_mismatch(name: str, given: Any, wanted: Any, *, bound: bool) -> str | None:
    if not callable(given):
        return f"{name} is not a method"
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):
        return None
    positional, keywords = _call(wanted)
    try:
        signature.bind(*(positional[1:] if bound else positional), **keywords)
    except TypeError:
        return f"{name}{signature} should be {name}{inspect.signature(wanted)}"
    if inspect.iscoroutinefunction(wanted) != inspect.iscoroutinefunction(inspect.unwrap(given)):
        return f"{name} should {'' if inspect.iscoroutinefunction(wanted) else 'not '}be async"
    return None


def mismatches(adapter: object, protocol: type) -> list[str]:
    """What keeps ``adapter`` (a class or an object) from fitting ``protocol``, one phrase each.

    Attributes that a class sets only in ``__init__`` are not looked for on the class.
    """
    is_class = isinstance(adapter, type)
    missing: list[str] = []
    wrong: list[str] = []
    for name, wanted in _members(protocol).items():
        plain = wanted is None or isinstance(wanted, property)
        if not hasattr(adapter, name):
            if not (plain and is_class):
                missing.append(name)
            continue
        if plain or not callable(wanted):
            continue
        static = inspect.getattr_static(adapter, name, None)
        bound = not is_class or isinstance(static, classmethod | staticmethod)
        phrase = _method_mismatch(name, getattr(adapter, name), wanted, bound=bound)
        if phrase:
            wrong.append(phrase)
    return ([f"missing {', '.join(missing)}"] if missing else []) + wrong
