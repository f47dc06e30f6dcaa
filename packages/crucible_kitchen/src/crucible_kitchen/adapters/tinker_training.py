"""The training port over the SDK: work goes out in the order of the calls, before earlier work is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from crucible_ir import CheckpointRef
from crucible_ir.errors import ConfigError, ConflictError
from crucible_kitchen.adapters.tinker_checkpoints import Pointer, checked_name, locate, write_pointer
from crucible_kitchen.adapters.tinker_cost import Tokens
from crucible_kitchen.adapters.tinker_custom import CustomCall
from crucible_kitchen.adapters.tinker_errors import explained
from crucible_kitchen.adapters.tinker_sampling import TinkerSampler
from crucible_kitchen.adapters.tinker_service import Service, retry_settings
from crucible_kitchen.adapters.tinker_types import sdk_adam, sdk_datums, to_output, to_step
from crucible_train.ports import CustomLossFn, Handle, SamplingClient, TrainingSpec
from crucible_train.types import AdamParams, Datum, ForwardBackwardOutput, LossConfig, OptimStepOutput

if TYPE_CHECKING:
    import tinker

__all__ = ["TinkerTraining"]

T = TypeVar("T")
Submit = Callable[[Any], Any]
"""Takes the SDK's client and returns its future at once."""


class TinkerTraining:
    """One adapter on the service.

    A pass or a step is never sent again by this client: the service would count its gradients twice. (The SDK itself
    repeats a request that did not arrive, under the same number, which the service does once.)
    """

    def __init__(self, sdk: tinker.TrainingClient, spec: TrainingSpec, service: Service) -> None:
        self._sdk = sdk
        self._spec = spec
        self._service = service
        self._longest = service.limits().model(spec.base_model).max_length
        self._turn = asyncio.Lock()
        self._steps = 0
        self._closed = False
        self._under_way: set[Future[Any]] = set()

    def forward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Loss and log-probabilities only; leaves gradients as they are.

        Raises:
            ConfigError, DataError: as ``forward_backward``.
        """
        config = self._checked(data, loss_fn, loss_config)
        return self._pass("forward", data, loss_fn, config, Tokens(scored=_length(data)))

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str = "cross_entropy", loss_config: LossConfig | None = None
    ) -> Handle[ForwardBackwardOutput]:
        """Loss, log-probabilities, and gradients added to those that wait for ``optim_step``.

        Raises:
            ConfigError: a loss or settings that the service does not have, an image, or the spending cap.
            DataError: data that do not fit the loss or the model. Nothing is submitted in either case.
        Raises (from the handle):
            ServiceError: it failed; go on from a checkpoint.
        """
        config = self._checked(data, loss_fn, loss_config)
        return self._pass("forward_backward", data, loss_fn, config, Tokens(trained=_length(data)))

    def forward_backward_custom(
        self, data: Sequence[Datum], loss: CustomLossFn
    ) -> Handle[ForwardBackwardOutput]:
        """As ``forward_backward`` with a loss of the caller's, which the SDK runs on a thread of its own.

        The service does two passes: one for the log-probabilities, one for the gradients that the loss asks for.
        """
        limits = self._service.limits()
        if not limits.capabilities().custom_loss:
            raise ConfigError(
                what="the service has no custom losses", where="loss", remedy="take a built-in one"
            )
        self._open()
        limits.check_data(data, self._longest)
        tokens = Tokens(trained=_length(data), scored=_length(data))
        call = CustomCall(data=tuple(data), loss=loss)
        return self._charged("forward_backward_custom", tokens, call.submit, call.output)

    def optim_step(self, params: AdamParams) -> Handle[OptimStepOutput]:
        """One AdamW step with the accumulated gradients. Its metrics also hold what the service was used for so far."""
        self._open()

        used: dict[str, float] = {}

        def submit(sdk: Any) -> Any:
            self._steps += 1
            used.update(self._service.ledger.metrics())
            return sdk.optim_step(sdk_adam(params))

        return self._send("optim_step", submit, lambda result: to_step(result, used))

    def save_state(self, name: str) -> Handle[CheckpointRef]:
        """Weights and optimiser state, kept by the service under ``name``; a folder here says where.

        Raises:
            ConfigError: ``name`` cannot name a checkpoint.
        """
        ttl = self._service.checkpoint_ttl_s
        return self._save(name, "state", lambda sdk: sdk.save_state(name, ttl_seconds=ttl))

    def save_weights_for_sampler(self, name: str) -> Handle[CheckpointRef]:
        """Weights alone, for ``create_sampling_client``."""
        return self._save(name, "sampler", lambda sdk: sdk.save_weights_for_sampler(name))

    def load_state(self, ref: CheckpointRef, *, with_optimizer: bool = True) -> Handle[None]:
        """Put a saved state in place of the present one: a new adapter on the service takes over.

        Raises (from the handle):
            NotFoundError: there is no such checkpoint, here or on the service.
            IntegrityError: the folder that stands for it does not hold what was written.
            ConfigError: it belongs to another base model.
        """
        self._open()

        async def work() -> None:
            async with self._turn:
                await self._load(ref, with_optimizer=with_optimizer)

        return Handle(self._followed(self._service.connection.follow(work())))

    def sampling_client(self) -> Handle[SamplingClient]:
        """A sampler over the weights as they are once all submitted work is done.

        Raises:
            ConfigError: the service does not sample the model.
        """
        self._open()
        self._service.limits().check_sampled(self._spec.base_model)
        return self._send(
            "sampling_client",
            lambda sdk: sdk.save_weights_and_get_sampling_client(retry_config=retry_settings()),
            lambda sampler: TinkerSampler(sampler, self._spec.base_model, self._service),
        )

    async def close(self) -> None:
        """Wait for submitted work; the adapter stays with the service until its session ends."""
        self._closed = True
        waiting = [asyncio.wrap_future(future) for future in tuple(self._under_way)]
        if waiting:
            await asyncio.gather(*waiting, return_exceptions=True)

    def _open(self) -> None:
        if self._closed:
            raise ConflictError(what="the client is closed", where="tinker training", remedy="open another")

    def _checked(self, data: Sequence[Datum], loss_fn: str, config: LossConfig | None) -> Mapping[str, float]:
        self._open()
        return self._service.limits().check_pass(data, loss_fn, config, self._longest)

    def _pass(
        self,
        call: Literal["forward", "forward_backward"],
        data: Sequence[Datum],
        loss_fn: str,
        config: Mapping[str, float],
        tokens: Tokens,
    ) -> Handle[ForwardBackwardOutput]:
        def submit(sdk: Any) -> Any:
            return getattr(sdk, call)(sdk_datums(data, loss_fn), loss_fn, dict(config) or None)

        return self._charged(call, tokens, submit, lambda result: to_output(result, data))

    def _charged(self, where: str, tokens: Tokens, submit: Submit, finish: Callable[[Any], T]) -> Handle[T]:
        """As ``_send`` for work that is paid for: it counts from when it is sent, whatever becomes of it."""
        model, ledger = self._spec.base_model, self._service.ledger
        reserved = ledger.reserve(model, tokens)

        def counted(sdk: Any) -> Any:
            ledger.settle(model, reserved, tokens)
            return submit(sdk)

        return self._send(where, counted, finish)

    def _send(self, where: str, submit: Submit, finish: Callable[[Any], T]) -> Handle[T]:
        return Handle(self._followed(self._service.connection.follow(self._done(where, submit, finish))))

    async def _done(self, where: str, submit: Submit, finish: Callable[[Any], T]) -> T:
        """Submit in turn, wait out of turn."""
        try:
            async with self._turn:
                future = submit(self._sdk).future()
            result = await asyncio.wrap_future(future)
        except Exception as error:
            raise explained(error, where=where, idempotent=False) from error
        return finish(result)

    def _followed(self, future: Future[T]) -> Future[T]:
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _save(self, name: str, content: Literal["state", "sampler"], submit: Submit) -> Handle[CheckpointRef]:
        self._open()
        checked_name(name)
        where = "save_state" if content == "state" else "save_weights_for_sampler"

        async def work() -> CheckpointRef:
            steps = 0

            def noted(sdk: Any) -> Any:
                nonlocal steps
                steps = self._steps
                return submit(sdk)

            path = str((await self._done(where, noted, lambda result: result)).path)
            pointer = Pointer(
                path=path,
                base_model=self._spec.base_model,
                content=content,
                step=steps,
                spent=self._service.ledger.saved(path),
            )
            return await asyncio.to_thread(write_pointer, self._spec.checkpoint_dir, name, pointer)

        return Handle(self._followed(self._service.connection.follow(work())))

    async def _load(self, ref: CheckpointRef, *, with_optimizer: bool) -> None:
        found = await asyncio.to_thread(locate, ref)
        if found.pointer is not None and found.pointer.base_model != self._spec.base_model:
            raise ConfigError(
                what=f"the checkpoint is of {found.pointer.base_model}, not of {self._spec.base_model}",
                where="load_state",
                remedy="take a checkpoint of the same base model",
            )

        def begin(service: tinker.ServiceClient) -> Any:
            create = (
                service.create_training_client_from_state_with_optimizer
                if with_optimizer
                else service.create_training_client_from_state
            )
            return create(found.path)

        self._sdk = await self._service.connection.ask(begin, where="load_state", idempotent=False)
        self._steps = found.step
        own = found.folder is not None and found.folder.parent == self._spec.checkpoint_dir
        if own and found.pointer is not None:
            spent = {model: Tokens(**counts) for model, counts in found.pointer.spent.items()}
            self._service.ledger.take_over(found.path, spent)


def _length(data: Sequence[Datum]) -> int:
    return sum(datum.model_input.length for datum in data)
