"""Tools declared as TypeScript types, the notation that gpt-oss was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from crucible_train.renderers.message import ToolSpec

__all__ = ["declare_tool"]

_SIMPLE = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}


def declare_tool(tool: ToolSpec) -> str:
    """``type name = (_: {…}) => any;`` with the description as a comment before it."""
    comment = f"// {tool.description}\n" if tool.description else ""
    return f"{comment}type {tool.name} = {_parameters(tool.parameters)} => any;"


def _parameters(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties")
    if schema.get("type") != "object" or not properties:
        return "()"
    about = f" // {schema['description']}" if schema.get("description") else ""
    lines = [f"(_:{about}", "{"]
    for name, field in properties.items():
        lines += [f"// {comment}" for comment in _comments(field)]
        default = f" // default: {json.dumps(field['default'])}" if "default" in field else ""
        lines.append(f"{_key(name, schema)}: {_type(field)},{default}")
    return "\n".join([*lines, "})"])


def _key(name: str, schema: Mapping[str, Any]) -> str:
    return name if name in schema.get("required", ()) else f"{name}?"


def _comments(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema.get("title"):
        yield str(schema["title"])
        yield ""
    if schema.get("description"):
        yield str(schema["description"])
    if schema.get("examples"):
        yield "Examples:"
        yield from (f"- {json.dumps(example)}" for example in schema["examples"])


def _type(schema: Mapping[str, Any]) -> str:
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " | ".join(_type(one) for one in schema[several])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " | ".join(_type({"type": one}) for one in kind)
    if kind == "string" and "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    return _base_type(kind, schema) + (" | null" if schema.get("nullable") else "")


def _base_type(kind: str, schema: Mapping[str, Any]) -> str:
    if kind == "array":
        return f"{_type(schema.get('items', {}))}[]"
    if kind == "object":
        fields = [
            f"{_key(name, schema)}: {_type(field)}" for name, field in schema.get("properties", {}).items()
        ]
        return "{ " + ", ".join(fields) + " }"
    return _SIMPLE.get(kind, "any")
