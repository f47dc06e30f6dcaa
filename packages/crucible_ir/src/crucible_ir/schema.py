"""JSON Schema of every contract: in Python, and on the command line as ``python -m crucible_ir.schema [NAME]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import crucible_ir
from crucible_ir.contract import Contract, Measured
from crucible_ir.errors import CrucibleError, NotFoundError, nearest

__all__ = ["all_schemas", "contract_named", "contract_names", "json_schema", "main"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _contracts() -> dict[str, type[Contract]]:
    exported = {name: getattr(crucible_ir, name) for name in crucible_ir.__all__}
    return {
        name: value
        for name, value in sorted(exported.items())
        if isinstance(value, type) and issubclass(value, Contract) and value not in (Contract, Measured)
    }


def contract_names() -> tuple[str, ...]:
    """Names of all contracts, in alphabetical order."""
    return tuple(_contracts())


def contract_named(name: str) -> type[Contract]:
    """The contract of that name.

    Raises:
        NotFoundError: there is none.
    """
    contracts = _contracts()
    if name not in contracts:
        near = nearest(name, contracts)
        raise NotFoundError(
            what=f"no contract is called {name!r}",
            where="crucible_ir.schema",
            remedy=f"did you mean {near!r}?" if near else f"known: {', '.join(contracts)}",
        )
    return contracts[name]


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what the contract ``name`` accepts.

    Raises:
        NotFoundError: there is no contract of that name.
    """
    return {"$schema": _DIALECT, **contract_named(name).model_json_schema(mode="validation")}


def all_schemas() -> dict[str, dict[str, Any]]:
    """Contract name → JSON Schema."""
    return {name: json_schema(name) for name in contract_names()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one schema, or an object of all, to standard output; returns the exit code."""
    names = sys.argv[1:] if arguments is None else list(arguments)
    if len(names) > 1 or any(name.startswith("-") for name in names):
        sys.stdout.write("usage: python -m crucible_ir.schema [NAME]\n")
        return 0 if names in (["-h"], ["--help"]) else 2
    try:
        schema: Any = json_schema(names[0]) if names else all_schemas()
    except CrucibleError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write(json.dumps(schema, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
