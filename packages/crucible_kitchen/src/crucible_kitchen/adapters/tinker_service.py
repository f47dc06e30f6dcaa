"""What the clients of one backend share: the connection, what the service can do, retries, and what was used."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crucible_kitchen.adapters.tinker_connection import Connection
from crucible_kitchen.adapters.tinker_cost import Ledger
from crucible_kitchen.adapters.tinker_limits import Limits, ServedModel
from crucible_kitchen.adapters.tinker_retries import Retries

if TYPE_CHECKING:
    import tinker

__all__ = ["Service", "retry_settings"]


@dataclass(slots=True, kw_only=True)
class Service:
    """The service as this backend sees it; what it can do is asked once, when it is first needed."""

    connection: Connection
    ledger: Ledger
    retries: Retries
    lacks: frozenset[str] = frozenset()
    images: bool = False
    checkpoint_ttl_s: int | None = None
    """Seconds after which the service may delete a saved state; None keeps it."""
    tokenizer_ids: dict[str, str] = field(default_factory=dict)
    """What the service said of the tokenizer of each model that was opened."""
    _limits: Limits | None = None
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def limits(self) -> Limits:
        """What the service can do; one request the first time.

        Raises:
            ServiceError: it cannot be reached.
            ConfigError: it refused the key.
        """
        with self._asking:
            if self._limits is None:
                told = self.connection.rest(
                    lambda client: client.get_server_capabilities(), where="tinker service"
                )
                models = tuple(_served(model) for model in told.supported_models)
                self._limits = Limits(models=models, lacks=self.lacks, images=self.images)
            return self._limits

    def note(self, base_model: str, sdk: tinker.TrainingClient) -> None:
        """Keep what the service told of a model that was opened."""
        tokenizer_id = sdk.get_info().model_data.tokenizer_id
        if tokenizer_id:
            self.tokenizer_ids[base_model] = tokenizer_id


def retry_settings() -> Any:
    """The SDK's own retries of samples off: it would try for hours, and ours end."""
    from tinker.lib.retry_handler import RetryConfig

    return RetryConfig(enable_retry_logic=False)


def _served(model: Any) -> ServedModel:
    return ServedModel(
        name=str(model.model_name),
        max_length=model.max_context_length,
        trainable=model.trainable is not False,
        sampleable=model.sampleable is not False,
    )
