"""Conversations with a model of the Tinker service, whatever a manifest trains on."""

from __future__ import annotations

from typing import Any

from crucible_kitchen.adapters.backend_completer import BackendCompleter
from crucible_kitchen.adapters.tinker_backend import TinkerBackend

__all__ = ["TinkerCompleter"]


class TinkerCompleter(BackendCompleter):
    """Answer with a model of the Tinker service, or of any server that speaks its API.

    Args:
        model: base model, as the service names it.
        renderer: chat format; None takes the one that is recommended for the model.
        weights: the ``tinker://`` path of sampler weights on it.
        service: options of ``TinkerBackend``: ``api_key``, ``base_url``, ``prices``, ``spending_cap_usd`` …

    Raises:
        ConfigError: a key, price, cap or renderer that cannot be used.
        AdapterError: the installed SDK is of another version than those tested.
    """

    required_modules = TinkerBackend.required_modules

    def __init__(
        self, *, model: str, renderer: str | None = None, weights: str | None = None, **service: Any
    ) -> None:
        self._service = TinkerBackend(**service)
        super().__init__(model=model, training_backend=self._service, renderer=renderer, weights=weights)

    async def close(self) -> None:
        """Close the sampler and end the session; closing twice is harmless."""
        await super().close()
        await self._service.close()
