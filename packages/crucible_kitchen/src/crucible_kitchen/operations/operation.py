"""One operation: its name, its types, what it does to the world, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from crucible_ir import Contract
from crucible_kitchen.operations.service import Service

__all__ = ["Effect", "Operation"]

Effect = Literal["read", "write", "run"]
"""``read`` changes nothing, ``write`` changes what is stored, ``run`` spends compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A row of the table. ``input_model`` and ``output_model`` are all that an interface has to know."""

    name: str
    summary: str
    input_model: type[Contract]
    output_model: type[Contract]
    effect: Effect
    handler: Callable[[Service, Any], Contract]
    """Takes the service and an ``input_model``; gives an ``output_model``."""
    needs_approval: bool = False
    """Whether an agent has to ask a person first."""

    def describe(self) -> dict[str, Any]:
        """Everything but the handler, with JSON Schemas."""
        return {
            "name": self.name,
            "summary": self.summary,
            "effect": self.effect,
            "needs_approval": self.needs_approval,
            "input": self.input_model.model_json_schema(),
            "output": self.output_model.model_json_schema(mode="serialization"),
        }
