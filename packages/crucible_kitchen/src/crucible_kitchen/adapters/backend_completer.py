"""A completer over whatever training backend a manifest names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from crucible_ir import CheckpointRef, ConflictError, CrucibleError
from crucible_kitchen.blocking import run_to_end
from crucible_train.ports import CompletionResponse, Handle, TrainingBackend
from crucible_train.rendered_completer import RenderedCompleter
from crucible_train.renderers import Message, ToolSpec, find_renderer, recommended_renderer
from crucible_train.types import SamplingParams

__all__ = ["BackendCompleter"]


class BackendCompleter:
    """Answer with a model of the manifest's training backend: the local engine, the Tinker service.

    The model is opened when the first conversation comes, on a thread of its own, so that nobody waits for it who does
    not need it.

    Args:
        model: base model, as the backend names it.
        renderer: chat format; None takes the one that is recommended for the model.
        weights: sampler weights on the base model: a checkpoint's folder, or its path with a service.
        training_backend: the engine; a manifest fills it in.

    Raises:
        ConfigError: no such renderer, or none is known for the model.
    """

    def __init__(
        self,
        *,
        model: str,
        training_backend: TrainingBackend,
        renderer: str | None = None,
        weights: str | None = None,
    ) -> None:
        self._model = model
        self._backend = training_backend
        self._renderer = find_renderer(renderer or recommended_renderer(model))
        self._weights = weights
        self._lock = threading.Lock()
        self._opened: Handle[RenderedCompleter] | None = None
        self._closed = False

    def complete(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        num_samples: int = 1,
        tools: Sequence[ToolSpec] = (),
    ) -> Handle[CompletionResponse]:
        """``num_samples`` answers; the first call opens the model.

        Raises:
            ConflictError: the completer is closed.
        Raises (from the handle):
            NotFoundError, ConfigError, ServiceError: it cannot be opened; the next call tries anew.
            CrucibleError: as the port says.
        """
        return self._ready().chain(
            lambda opened: opened.complete(messages, params, num_samples=num_samples, tools=tools)
        )

    async def close(self) -> None:
        """Close the sampler; the training backend is its owner's. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            completer = await opened
        except CrucibleError:
            return  # it was never open, as whoever asked for an answer has been told
        await completer.close()

    def _ready(self) -> Handle[RenderedCompleter]:
        with self._lock:
            if self._closed:
                raise ConflictError(
                    what="the completer is closed", where="completer", remedy="make another completer"
                )
            if self._opened is None:
                future: Future[RenderedCompleter] = Future()
                self._opened = Handle(future)
                threading.Thread(
                    target=self._open_into, args=(future,), name="crucible-completer", daemon=True
                ).start()
            return self._opened

    def _open_into(self, future: Future[RenderedCompleter]) -> None:
        try:
            opened = run_to_end(self._open)
        except BaseException as error:  # noqa: BLE001 - the thread ends here: who asked for an answer must get it
            with self._lock:
                self._opened = None
            future.set_exception(error)
        else:
            future.set_result(opened)

    async def _open(self) -> RenderedCompleter:
        weights = self._weights
        ref = None if weights is None else CheckpointRef(id=weights, path=weights, content="sampler")
        renderer = self._renderer(await self._backend.load_tokenizer(self._model), None)
        return RenderedCompleter(await self._backend.create_sampling_client(self._model, ref), renderer)
