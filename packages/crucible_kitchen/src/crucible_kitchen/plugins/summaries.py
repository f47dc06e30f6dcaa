"""Help lines of plugins, read from their source without importing it."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import ModuleSpec
from typing import cast

__all__ = ["summary_of"]


def _spec_of(module: str) -> ModuleSpec | None:
    """The spec of ``module``, found by the import system's finders; no parent package is imported."""
    path: list[str] | None = None
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path) if find else None
            if spec is not None:
                break
        if spec is None:
            return None
        locations = spec.submodule_search_locations
        path = list(locations) if locations is not None else []
    return spec


def _source_of(module: str) -> str | None:
    try:
        spec = _spec_of(module)
        get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
        return cast("str | None", get_source(module)) if get_source else None
    except (ImportError, OSError, ValueError):
        return None


def _docstring_of(source: str, attribute: str) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, kinds) and node.name == attribute:
            return ast.get_docstring(node) or ast.get_docstring(tree) or ""
    return ast.get_docstring(tree) or ""


def summary_of(target: str) -> str:
    """First docstring line of the object that ``target`` (``module:attribute``) names.

    The module's docstring stands in where the object has none or is made elsewhere. Nothing is executed;
    the empty string means that there is no source or no docstring.
    """
    module, _, attribute = target.partition(":")
    source = _source_of(module.strip())
    if source is None:
        return ""
    text = _docstring_of(source, attribute.strip().split(".")[0])
    return text.strip().partition("\n")[0].strip()
