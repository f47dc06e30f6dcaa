"""The Tinker service, or any server that speaks its API, as a training backend."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crucible_ir import CheckpointRef, ConfigError, digest_of
from crucible_kitchen.adapters.tinker_checkpoints import list_pointers, locate
from crucible_kitchen.adapters.tinker_connection import Connection, require_sdk
from crucible_kitchen.adapters.tinker_cost import CAP, Ledger, Tokens, read_cap, read_prices
from crucible_kitchen.adapters.tinker_export import export_adapter
from crucible_kitchen.adapters.tinker_limits import read_lacks
from crucible_kitchen.adapters.tinker_retries import Retries
from crucible_kitchen.adapters.tinker_sampling import TinkerSampler
from crucible_kitchen.adapters.tinker_service import Service, retry_settings
from crucible_kitchen.adapters.tinker_tokenizer import load_served_tokenizer, tokenizer_location
from crucible_kitchen.adapters.tinker_training import TinkerTraining
from crucible_train.ports import BackendCapabilities, SamplingClient, Tokenizer, TrainingClient, TrainingSpec

__all__ = ["TinkerBackend"]


class TinkerBackend:
    """Train and sample on the Tinker service, or on any server that speaks its API (``crucible serve tinker``).

    Args:
        api_key: the key; a manifest names the variable that holds it: ``{ env = "TINKER_API_KEY" }``.
        base_url: where the service is; None leaves it to the SDK (``$TINKER_BASE_URL``, else the service itself).
        tokenizer: folder or hub id of the tokenizer; None asks the service.
        prices: model → US dollars per million tokens (``train``, ``prefill``, ``sample``, ``score``); ``*`` is any.
        spending_cap_usd: nothing is submitted that may go beyond; ``$CRUCIBLE_SPENDING_CAP_USD`` goes before it.
        lacks: losses and options that this server does not have, as its API does not say.
        images: whether the models take images.
        checkpoint_ttl_s: seconds after which the service may delete a saved state; None keeps it.
        attempts: how often a call that changes nothing is tried.
        first_wait_s: about how long it waits before the second try; twice as long before each further one.
        telemetry: whether the SDK may report to the service how it fares.

    Raises:
        ConfigError: a key, price or cap that cannot be used.
        AdapterError: the installed SDK is of another version than those tested.
    """

    required_modules = ("tinker", "crucible_torch")

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        project: str | None = None,
        tokenizer: str | None = None,
        prices: Mapping[str, Any] | None = None,
        spending_cap_usd: float | None = None,
        lacks: Sequence[str] = (),
        images: bool = False,
        checkpoint_ttl_s: int | None = None,
        attempts: int = 4,
        first_wait_s: float = 1.0,
        local_files_only: bool = False,
        telemetry: bool = False,
    ) -> None:
        require_sdk()
        self._service = Service(
            connection=Connection(api_key=api_key, base_url=base_url, project=project, telemetry=telemetry),
            ledger=Ledger(
                read_prices(prices or {}, where="training_backend.options.prices"),
                read_cap(spending_cap_usd, os.environ.get(CAP)),
            ),
            retries=Retries(attempts=attempts, first_s=first_wait_s),
            lacks=read_lacks(lacks),
            images=images,
            checkpoint_ttl_s=checkpoint_ttl_s,
        )
        self._tokenizer = tokenizer
        self._local_files_only = local_files_only
        self._tokenizers: dict[str, Tokenizer] = {}
        self._clients: list[TinkerTraining] = []

    def capabilities(self) -> BackendCapabilities:
        """What the service can promise; asks it once.

        Raises:
            ServiceError: it cannot be reached.
            ConfigError: it refused the key.
        """
        return self._service.limits().capabilities()

    def trainable_models(self) -> tuple[str, ...]:
        """Names of the models that the service trains, sorted."""
        return tuple(sorted(model.name for model in self._service.limits().models if model.trainable))

    def check(self, spec: TrainingSpec) -> None:
        """Look whether the service can train ``spec``; nothing is spent.

        Raises:
            NotFoundError: the model is not served.
            ConfigError: full fine-tuning, another alpha or dtype than the service's, no price under a cap.
        """
        self._service.limits().check_spec(spec)
        self._service.ledger.require_price(spec.base_model)

    def model_digest(self, base_model: str) -> str:
        """Digest of the model's name: the service tells nothing of the weights behind it."""
        return digest_of({"tinker": self._service.limits().model(base_model).name})

    def longest(self, base_model: str) -> int | None:
        """Positions that the model reads at most, where the service says so."""
        return self._service.limits().model(base_model).max_length

    def price_of(
        self, base_model: str, *, trained: int = 0, scored: int = 0, prefilled: int = 0, sampled: int = 0
    ) -> float | None:
        """US dollars for so many tokens; None where the manifest gives no price."""
        tokens = Tokens(trained=trained, scored=scored, prefilled=prefilled, sampled=sampled)
        return self._service.ledger.price_of(base_model, tokens)

    def used(self) -> Tokens:
        """Tokens that this backend's work took so far, by its own count."""
        return self._service.ledger.used()

    def used_by_model(self) -> dict[str, dict[str, int]]:
        """The same, by model and kind (``trained``, ``scored``, ``prefilled``, ``sampled``)."""
        return {model: tokens.counts() for model, tokens in self._service.ledger.used_by_model().items()}

    def used_usd(self) -> float | None:
        """What they cost; None where a price is missing."""
        return self._service.ledger.usd()

    async def load_tokenizer(self, base_model: str) -> Tokenizer:
        """The base model's own tokenizer.

        The service says where it lies once a model is open. If none is, an adapter is opened that is never trained;
        the option ``tokenizer`` spares that.

        Raises:
            NotFoundError: the model is not served, or has no tokenizer that can be loaded.
        """
        if base_model not in self._tokenizers:
            (await asyncio.to_thread(self._service.limits)).model(base_model)
            location = self._tokenizer or await self._told_tokenizer(base_model)
            self._tokenizers[base_model] = await asyncio.to_thread(
                load_served_tokenizer, location, local_files_only=self._local_files_only
            )
        return self._tokenizers[base_model]

    async def create_training_client(self, spec: TrainingSpec) -> TrainingClient:
        """A fresh adapter on the service.

        Raises:
            ConfigError, NotFoundError: as ``check``.
            ServiceError: it could not be made.
        """
        await asyncio.to_thread(self.check, spec)
        lora = spec.lora
        assert lora is not None
        sdk = await self._service.connection.ask(
            lambda service: service.create_lora_training_client(
                base_model=spec.base_model,
                rank=lora.rank,
                seed=spec.seed if lora.seed is None else lora.seed,
                train_mlp=lora.train_mlp,
                train_attn=lora.train_attn,
                train_unembed=lora.train_unembed,
            ),
            where="create_training_client",
            idempotent=False,
        )
        self._service.note(spec.base_model, sdk)
        self._clients.append(TinkerTraining(sdk, spec, self._service))
        return self._clients[-1]

    async def create_sampling_client(
        self, base_model: str, weights: CheckpointRef | None = None
    ) -> SamplingClient:
        """A sampler over the base model, or over weights that ``save_weights_for_sampler`` wrote.

        Raises:
            NotFoundError: no such model or checkpoint.
            ConfigError: the checkpoint is no sampler's, or the service does not sample the model.
        """
        limits = await asyncio.to_thread(self._service.limits)
        limits.check_sampled(base_model)
        self._service.ledger.require_price(base_model)
        path = None if weights is None else (await asyncio.to_thread(locate, weights)).path

        async def attempt() -> Any:
            return await self._service.connection.ask(
                lambda service: service.create_sampling_client(
                    base_model=base_model if path is None else None,
                    model_path=path,
                    retry_config=retry_settings(),
                ),
                where="create_sampling_client",
                idempotent=True,
            )

        return TinkerSampler(await self._service.retries.run(attempt), base_model, self._service)

    def list_checkpoints(self, checkpoint_dir: Path) -> list[CheckpointRef]:
        """Checkpoints of the service that folders under ``checkpoint_dir`` stand for, oldest first."""
        return list_pointers(checkpoint_dir)

    def export(self, weights: CheckpointRef, destination: Path, *, merge: bool) -> Path:
        """Write a saved state's adapter so that ``peft`` loads it.

        Raises:
            ConfigError: a whole model is asked for, or the adapter of sampler weights; the service has neither.
            ConflictError: ``destination`` exists and is not empty.
        """
        if merge:
            raise ConfigError(
                what="the service hands out adapters, not whole models",
                where="export",
                remedy="ask for the adapter (--adapter), and merge it with peft",
            )
        return export_adapter(self._service.connection, locate(weights), destination)

    async def close(self) -> None:
        """Finish training that was submitted, then end the session.

        Samples under way are given up, samplers without a name go, saved checkpoints stay. Closing twice is harmless.
        """
        for client in self._clients:
            await client.close()
        await self._service.connection.close()

    async def _told_tokenizer(self, base_model: str) -> str:
        if base_model not in self._service.tokenizer_ids:
            sdk = await self._service.connection.ask(
                lambda service: service.create_lora_training_client(base_model=base_model, rank=1),
                where="load_tokenizer",
                idempotent=False,
            )
            self._service.note(base_model, sdk)
        return self._service.tokenizer_ids.get(base_model) or tokenizer_location(base_model)
