"""The other processes: they do what the leader says until it closes or is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crucible_torch.distributed.link import Link
from crucible_torch.distributed.messages import Message, data_of, told
from crucible_torch.distributed.trainer import Elsewhere, ShardTrainer
from crucible_torch.losses import find_loss
from crucible_torch.packing import Example, read_examples
from crucible_torch.trainer import Saved
from crucible_train.ports import CustomLoss
from crucible_train.types import AdamParams, Datum, ForwardBackwardOutput

__all__ = ["Follower"]

Open = Callable[[Mapping[str, Any]], ShardTrainer]
"""Makes this process's trainer of a client from what the leader says of it."""


class Follower:
    """Carries out commands, one after another.

    An error is answered, unless it left other processes waiting in the middle of something: that ends this one.
    """

    def __init__(self, link: Link, open_client: Open) -> None:
        self._link = link
        self._open_client = open_client
        self._clients: dict[int, ShardTrainer] = {}

    def run(self) -> None:
        """Until the leader closes.

        Raises:
            ProcessLost: the leader, or another process, is gone.
        """
        while True:
            command = self._link.listen()
            if command.values["op"] == "close":
                return
            try:
                answer = self._carried_out(command)
            except Exception as error:
                if self._link.broken:
                    self._link.last_words(error)
                    raise
                answer = Message(values={} if isinstance(error, Elsewhere) else {"error": told(error)})
            self._link.reply(answer)

    def _carried_out(self, command: Message) -> Message:
        values = command.values
        client, op = int(values["client"]), values["op"]
        if op == "create":
            self._clients[client] = self._open_client(values)
            return Message()
        if op == "drop":
            self._clients.pop(client, None)
            return Message()
        trainer = self._clients[client]
        match op:
            case "optim_step":
                trainer.optim_step(AdamParams(**values["params"]))
            case "values":
                trainer.values()
            case "moments":
                trainer.moments()
            case "restore":
                trainer.restore(_saved(values))
            case _:
                return self._pass(trainer, command)
        return Message()

    def _pass(self, trainer: ShardTrainer, command: Message) -> Message:
        values = command.values
        examples = self._examples(trainer, data_of(command))
        if values["op"] == "custom":
            return _output(trainer.custom(trainer.packed(examples, None), self._asked))
        loss, config = find_loss(values["loss"]), values["config"]
        if values["op"] == "forward":
            return _output(trainer.forward(trainer.packed(examples, None), loss, config))
        graded = trainer.packed(examples, loss.graded)
        return _output(trainer.forward_backward(graded, loss, config))

    def _asked(self, data: Any, logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        """The leader's custom loss: log-probabilities there, gradients back."""
        self._link.reply(Message(arrays={f"{n}": lp for n, lp in enumerate(logprobs)}))
        slopes = self._link.listen()
        if slopes.values["failed"]:
            raise Elsewhere(
                what="the custom loss failed", where="forward_backward_custom", remedy="see there"
            )
        return CustomLoss(
            loss=0.0, gradients=[slopes.arrays[f"{n}"] for n in range(len(logprobs))], metrics={}
        )

    def _examples(self, trainer: ShardTrainer, data: Sequence[tuple[int, Datum]]) -> list[Example]:
        if not data:
            return []
        model = trainer.model
        read = read_examples(
            [datum for _, datum in data], max_positions=model.max_positions, vocab_size=model.vocab_size
        )
        return [replace(example, index=place) for example, (place, _) in zip(read, data, strict=True)]


def _saved(values: Mapping[str, Any]) -> Saved:
    from crucible_torch.saving import saved_in

    return saved_in(Path(values["folder"]), moments=values["moments"], steps=values["steps"])


def _output(output: ForwardBackwardOutput) -> Message:
    arrays = {f"{n}": out["logprobs"].array for n, out in enumerate(output.loss_fn_outputs)}
    return Message(values={"metrics": dict(output.metrics)}, arrays=arrays)
