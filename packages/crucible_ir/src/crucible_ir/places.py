"""Where an error stands: from pydantic's location to the path a person would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["Location", "Place", "dotted", "place_of"]

Location = tuple[int | str, ...]
"""Pydantic's location: keys and indexes, with the names of union members and ``[key]`` among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in the data."""

    keys: Location
    """Keys and indexes that stand in the data, none of pydantic's own."""
    fields: tuple[str, ...]
    """Names of the fields of the model that holds the last key; empty when a model does not hold it."""
    union: Location | None
    """Where a choice without discriminator was made on the way, if there was one."""
    kinds: tuple[str, ...] = ()
    """What the discriminator of the value here may be; empty when there is none."""


def dotted(where: str, keys: Location) -> str:
    """``where.pipeline[0].name``."""
    path = where
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def _bare(annotation: Any, discriminator: Any = None) -> tuple[Any, Any]:
    """The type without ``Annotated`` and aliases, and the discriminator found on the way."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *marks = get_args(annotation)
            for mark in marks:
                if isinstance(mark, FieldInfo) and mark.discriminator is not None:
                    discriminator = mark.discriminator
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation, discriminator


def _members(annotation: Any, discriminator: Any) -> tuple[list[Any], Any]:
    """What the type chooses between (itself alone when it is no choice), None left out, and the discriminator."""
    while True:
        annotation, discriminator = _bare(annotation, discriminator)
        if get_origin(annotation) not in (Union, UnionType):
            return [annotation], discriminator
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) != 1:
            return members, discriminator
        annotation = members[0]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(member: Any, discriminator: Any) -> tuple[Any, ...]:
    member, _ = _bare(member)
    field = member.model_fields.get(discriminator) if _is_model(member) else None
    if field is None:
        return ()
    kind, _ = _bare(field.annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _named(member: Any, label: str) -> bool:
    """Whether pydantic calls ``member`` so: a model by its name, a container ``tuple[…]``."""
    member, _ = _bare(member)
    if _is_model(member):
        return bool(member.__name__ == label)
    origin = get_origin(member) or member
    return label.startswith(f"{getattr(origin, '__name__', '?')}[")


def _item(annotation: Any, part: int | str) -> Any:
    """Type of the item ``part`` of a container; None when it is not one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not arguments:
        return None
    if issubclass(origin, Mapping):
        return arguments[1]
    if issubclass(origin, tuple) and arguments[-1] is not Ellipsis:
        return arguments[part] if isinstance(part, int) and part < len(arguments) else None
    return arguments[0] if issubclass(origin, Sequence | Set) else None


def place_of(model: type[BaseModel], loc: Location) -> Place:
    """Follow ``loc`` through the types of ``model``, leaving out what is not in the data."""
    current: Any = model
    discriminator: Any = None
    keys: list[int | str] = []
    fields: tuple[str, ...] = ()
    union: Location | None = None
    for part in loc:
        if part == "[key]":
            continue
        members, discriminator = _members(current, discriminator)
        if len(members) > 1:
            if discriminator is None:
                union = tuple(keys)
                current = next((m for m in members if _named(m, str(part))), None)
            else:
                current = next((m for m in members if part in _tags(m, discriminator)), None)
            discriminator = None
            continue
        bare = members[0]
        keys.append(part)
        fields = tuple(bare.model_fields) if _is_model(bare) else ()
        field = bare.model_fields.get(str(part)) if _is_model(bare) else None
        discriminator = field.discriminator if field is not None else None
        current = field.annotation if field is not None else _item(bare, part)
    members, discriminator = _members(current, discriminator)
    kinds = [str(tag) for member in members for tag in _tags(member, discriminator)]
    return Place(keys=tuple(keys), fields=fields, union=union, kinds=tuple(kinds))
