"""What is kept of a model from its first request on, and what of it the engine is told."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from crucible_gateway.tinker.bodies import LoraBody
from crucible_gateway.tinker.settings import ServedModel
from crucible_ir import ConfigError
from crucible_train.types import LoraConfig

__all__ = ["lora_of", "new_record", "require_adam"]


def new_record(
    served: ServedModel,
    lora: Mapping[str, Any] | None,
    told: Mapping[str, Any],
    *,
    user_metadata: Mapping[str, Any] | None,
    created: str,
) -> dict[str, Any]:
    """The record of a model that is being made; ``told`` is what its client is told then, with its ``model_id``.

    A model whose client gives no seed has one drawn, which is kept.
    """
    seed = lora.get("seed") if lora else None
    return {
        "session_id": str(told["model_id"]).partition(":")[0],
        "base_model": served.name,
        "lora": dict(lora) if lora else None,
        "seed": secrets.randbelow(2**31) if seed is None else seed,
        "user_metadata": user_metadata,
        "created": created,
        "last_request": created,
        "status": "creating",
        "snapshot": None,
        "covered": 0,
        "told": dict(told),
    }


def lora_of(record: Mapping[str, Any]) -> LoraConfig | None:
    """The adapter of a model; None where the whole of it is trained."""
    if record["lora"] is None:
        return None
    body = LoraBody.model_validate(dict(record["lora"]))
    return LoraConfig(**{**body.model_dump(), "seed": int(record["seed"])})


def require_adam(kind: str) -> None:
    """Refuse another optimiser with a ConfigError."""
    if kind not in ("adamw", "adam"):
        raise ConfigError(
            what=f"the optimiser {kind!r} is not served",
            where="optimizer_config",
            remedy="take AdamOptimizerConfig",
        )
