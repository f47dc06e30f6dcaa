"""From trajectories to datums: turns joined where one goes on from the other, advantages on sampled tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crucible_ir.errors import DataError
from crucible_train.rl.trajectory import Trajectory, TrajectoryGroup
from crucible_train.types import Chunk, Datum, EncodedTextChunk, ImageChunk, ModelInput, TensorData

__all__ = ["Origin", "assemble_training_data", "inputs_for_loss", "trajectory_to_data"]

Piece = int | ImageChunk
"""A token, or a whole image."""


class Origin(NamedTuple):
    """Which trajectory of which group a datum comes from."""

    group: int
    trajectory: int


@dataclass(slots=True)
class _Sequence:
    """Everything read and sampled so far, with one entry per position."""

    pieces: list[Piece] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    mask: list[float] = field(default_factory=list)

    def read(self, pieces: Sequence[Piece]) -> None:
        positions = sum(_width(piece) for piece in pieces)
        self._extend(pieces, [0.0] * positions, 0.0, 0.0)

    def sampled(
        self, tokens: Sequence[int], logprobs: Sequence[float], advantage: float, mask: float
    ) -> None:
        self._extend(tokens, logprobs, advantage * mask, mask)

    def _extend(
        self, pieces: Sequence[Piece], logprobs: Sequence[float], advantage: float, mask: float
    ) -> None:
        self.pieces.extend(pieces)
        self.logprobs.extend(logprobs)
        self.advantages.extend([advantage] * len(logprobs))
        self.mask.extend([mask] * len(logprobs))

    def datum(self) -> Datum:
        pieces = list(self.pieces)
        while pieces and isinstance(pieces[-1], ImageChunk):
            pieces.pop()  # nothing is predicted after it
        tokens = ModelInput(_chunks(pieces)).all_tokens(image_id=0)
        if len(tokens) < 2:
            raise DataError(
                what=f"a trajectory of {len(tokens)} tokens",
                where="trajectory_to_data",
                remedy="two are needed for an input and a target: leave the trajectory out",
            )
        kept = slice(1, len(tokens))
        return Datum(
            ModelInput(_chunks(pieces[:-1])),
            {
                "target_tokens": TensorData(np.array(tokens[1:], dtype=np.int64)),
                "logprobs": TensorData(np.array(self.logprobs[kept], dtype=np.float32)),
                "advantages": TensorData(np.array(self.advantages[kept], dtype=np.float32)),
                "mask": TensorData(np.array(self.mask[kept], dtype=np.float32)),
            },
        )


def trajectory_to_data(trajectory: Trajectory, advantage: float) -> list[Datum]:
    """A trajectory as datums, as few as its observations allow.

    A turn whose observation begins with everything read and sampled before goes on in the same datum; any
    other begins a new one. Each datum has ``target_tokens`` and, for every target, ``logprobs`` (of the sampler; 0
    where nothing was sampled), ``advantages`` (the one given, on sampled tokens) and ``mask`` (1 on sampled
    tokens, 0 on the rest and on masked turns). Image positions have target 0.

    Raises:
        ServiceError: the sampler returned no log-probabilities.
        DataError: a datum would have fewer than two tokens.
    """
    data: list[Datum] = []
    whole = _Sequence()
    for turn in trajectory.transitions:
        observed = _pieces(turn.observation.chunks)
        if whole.pieces and observed[: len(whole.pieces)] == whole.pieces:
            whole.read(observed[len(whole.pieces) :])
        else:
            if whole.pieces:
                data.append(whole.datum())
            whole = _Sequence()
            whole.read(observed)
        action = turn.action
        whole.sampled(action.tokens, action.require_logprobs(), advantage, 0.0 if turn.masked else 1.0)
    if whole.pieces:
        data.append(whole.datum())
    return data


def assemble_training_data(
    groups_P: Sequence[TrajectoryGroup], advantages_P: Sequence[ArrayLike]
) -> tuple[list[Datum], list[Origin]]:
    """The datums of all trajectories in order, and where each comes from.

    Raises:
        DataError: as ``trajectory_to_data``, or not one advantage per trajectory.
    """
    data: list[Datum] = []
    origins: list[Origin] = []
    if len(groups_P) != len(advantages_P):
        raise _mismatch(len(advantages_P), len(groups_P))
    for p, (group, given) in enumerate(zip(groups_P, advantages_P, strict=True)):
        advantages_G: NDArray[np.float64] = np.asarray(given, dtype=np.float64)
        if advantages_G.shape != (len(group.trajectories),):
            raise _mismatch(advantages_G.size, len(group.trajectories))
        for g, (trajectory, advantage) in enumerate(zip(group.trajectories, advantages_G, strict=True)):
            found = trajectory_to_data(trajectory, float(advantage))
            data += found
            origins += [Origin(p, g)] * len(found)
    return data, origins


def inputs_for_loss(datum: Datum, loss_fn: str) -> Datum:
    """The datum with the inputs that a loss reads and no others.

    ``mask`` goes, except that ``gspo`` gets it as ``sequence_ratio_mask`` and ``dro`` keeps it.
    """
    inputs = dict(datum.loss_fn_inputs)
    mask = inputs.pop("mask", None)
    if mask is not None and loss_fn == "gspo":
        inputs["sequence_ratio_mask"] = mask
    elif mask is not None and loss_fn == "dro":
        inputs["mask"] = mask
    return Datum(datum.model_input, inputs)


def _mismatch(advantages: int, of: int) -> DataError:
    return DataError(
        what=f"{advantages} advantages for {of}",
        where="assemble_training_data.advantages_P",
        remedy="give an array (G,) per group, with an entry per trajectory",
    )


def _width(piece: Piece) -> int:
    return 1 if isinstance(piece, int) else piece.length


def _pieces(chunks: Iterable[Chunk]) -> list[Piece]:
    found: list[Piece] = []
    for chunk in chunks:
        if isinstance(chunk, EncodedTextChunk):
            found.extend(chunk.tokens)
        else:
            found.append(chunk)
    return found


def _chunks(pieces: Iterable[Piece]) -> tuple[Chunk, ...]:
    chunks: list[Chunk] = []
    text: list[int] = []
    for piece in pieces:
        if isinstance(piece, int):
            text.append(piece)
            continue
        chunks += [EncodedTextChunk(tuple(text))] if text else []
        chunks.append(piece)
        text = []
    return (*chunks, EncodedTextChunk(tuple(text))) if text else tuple(chunks)
