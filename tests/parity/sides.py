"""Renderers of both sides, and values of one side as values of the other, in a form that can be compared."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tinker
import torch
from tinker_cookbook import renderers as upstream
from tinker_cookbook.completers import TokensWithLogprobs
from tinker_cookbook.rl import types as upstream_rl
from transformers import PreTrainedTokenizerFast

from crucible_testing.tokenizers import FileTokenizer
from crucible_train.renderers import RendererOptions, get_renderer
from crucible_train.rl import Trajectory, TrajectoryGroup, Transition
from crucible_train.types import (
    Datum,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    SampledSequence,
    TensorData,
)

__all__ = [
    "Both",
    "Group",
    "Rows",
    "Scorer",
    "Turn",
    "both",
    "chunks_of",
    "close",
    "our_group",
    "our_input",
    "our_trajectory",
    "tensors_of",
    "their_datum",
    "their_group",
    "their_input",
    "their_messages",
    "their_trajectory",
]

DATE = "2025-01-01"
OPTIONS = RendererOptions(current_date=DATE)
Rows = list[dict[str, Any]]
"""A conversation in the JSON form that both sides read."""
Chunks = list[list[int] | int]
"""A text chunk as its tokens, an image as the number of positions it takes."""


def our_input(chunks: Chunks) -> ModelInput:
    return ModelInput(
        tuple(
            EncodedTextChunk(tuple(chunk))
            if isinstance(chunk, list)
            else ImageChunk(data=b"image", format="png", expected_tokens=chunk)
            for chunk in chunks
        )
    )


def their_input(chunks: Chunks) -> tinker.ModelInput:
    return tinker.ModelInput(
        chunks=[
            tinker.EncodedTextChunk(tokens=list(chunk))
            if isinstance(chunk, list)
            else tinker.types.ImageChunk(data=b"image", format="png", expected_tokens=chunk)
            for chunk in chunks
        ]
    )


def chunks_of(model_input: Any) -> Chunks:
    """The chunks of either side's input."""
    return [
        list(chunk.tokens) if hasattr(chunk, "tokens") else int(chunk.length) for chunk in model_input.chunks
    ]


def tensors_of(datum: Any) -> dict[str, tuple[str, list[int], Any]]:
    """Dtype, shape and values of every loss input of either side's datum."""
    found = {}
    for name, tensor in datum.loss_fn_inputs.items():
        if isinstance(tensor, TensorData):
            found[name] = (tensor.dtype, list(tensor.shape), tensor.array)
        else:
            array = tensor.to_torch().numpy()
            found[name] = (tensor.dtype, list(array.shape), array)
    return found


def close(ours: Any, theirs: Any, *, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether both have one shape and equal numbers, to a tolerance; NaN equals NaN."""
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True))


def their_datum(datum: Datum) -> tinker.Datum:
    """Our text datum as theirs."""
    return tinker.Datum(
        model_input=their_input(chunks_of(datum.model_input)),
        loss_fn_inputs={
            name: tinker.TensorData.from_torch(torch.tensor(np.array(tensor.array)))
            for name, tensor in datum.loss_fn_inputs.items()
        },
    )


Turn = dict[str, Any]
"""``observed`` chunks, ``sampled`` tokens, ``logprobs``, ``reward``, ``masked``, ``metrics``, ``cached``."""


def our_trajectory(turns: list[Turn]) -> Trajectory:
    return Trajectory(
        transitions=tuple(
            Transition(
                observation=our_input(turn["observed"]),
                action=SampledSequence(
                    tokens=tuple(turn["sampled"]), logprobs=tuple(turn["logprobs"]), stop_reason="stop"
                ),
                reward=turn["reward"],
                masked=turn["masked"],
                cached_tokens=turn["cached"],
                metrics=turn["metrics"],
            )
            for turn in turns
        )
    )


def their_trajectory(turns: list[Turn]) -> upstream_rl.Trajectory:
    masked = {upstream_rl.PARSE_ERROR_MASKED_METRIC_KEY: 1.0}
    return upstream_rl.Trajectory(
        transitions=[
            upstream_rl.Transition(
                ob=their_input(turn["observed"]),
                ac=TokensWithLogprobs(
                    tokens=list(turn["sampled"]),
                    maybe_logprobs=list(turn["logprobs"]),
                    prompt_cache_hit_tokens=turn["cached"],
                ),
                reward=turn["reward"],
                episode_done=turn is turns[-1],
                metrics={**turn["metrics"], **(masked if turn["masked"] else {})},
            )
            for turn in turns
        ],
        final_ob=tinker.ModelInput.empty(),
    )


Group = dict[str, Any]
"""``trajectories``, ``rewards`` of the group, ``metrics`` of each, ``tags``."""


def our_group(group: Group) -> TrajectoryGroup:
    return TrajectoryGroup(
        trajectories=tuple(our_trajectory(turns) for turns in group["trajectories"]),
        final_rewards=tuple(group["rewards"]),
        metrics=tuple(group["metrics"]),
        tags=tuple(group["tags"]),
    )


def their_group(group: Group) -> upstream_rl.TrajectoryGroup:
    return upstream_rl.TrajectoryGroup(
        [their_trajectory(turns) for turns in group["trajectories"]],
        list(group["rewards"]),
        [dict(metrics) for metrics in group["metrics"]],
    )


class Scorer:
    """A sampling client that knows the log-probabilities of the prompts it is asked to score, in order."""

    def __init__(self, prompts: list[list[float | None]]) -> None:
        self.prompts = prompts
        self.asked: list[list[int]] = []

    def sample(self, prompt: tinker.ModelInput, **_: Any) -> Any:
        return _Later(self, prompt, whole=True)

    def compute_logprobs(self, prompt: tinker.ModelInput) -> Any:
        return _Later(self, prompt, whole=False)


class _Later:
    def __init__(self, scorer: Scorer, prompt: tinker.ModelInput, *, whole: bool) -> None:
        self.scorer, self.whole = scorer, whole
        self.place = len(scorer.asked)
        scorer.asked.append(prompt.to_ints())

    async def coroutine(self) -> Any:
        found = self.scorer.prompts[self.place]
        assert len(found) == len(self.scorer.asked[self.place])
        return _Response(found) if self.whole else found


class _Response:
    prompt_cache_hit_tokens = 0
    sequences: tuple[()] = ()

    def __init__(self, prompt_logprobs: list[float | None]) -> None:
        self.prompt_logprobs = prompt_logprobs


# --- renderers ---


class ParsingTokenizer(FileTokenizer):
    """As upstream encodes content in some renderers: special tokens in text become special tokens."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        return super().encode(text, allow_special=True)


class Both:
    """One renderer on both sides, over one vocabulary."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.tokenizer = FileTokenizer(folder)
        self.ours = get_renderer(name, self.tokenizer, OPTIONS)
        self.theirs = upstream.get_renderer(name, _fast(folder), None, model_name="none")
        if name.startswith("gpt_oss"):
            self.theirs.current_date = DATE

    @cached_property
    def parsing(self) -> Any:
        """Ours, over a tokenizer that reads marks in text."""
        return get_renderer(self.name, ParsingTokenizer(self.folder), OPTIONS)


_TOKENIZERS: dict[Path, Any] = {}
_BOTH: dict[tuple[str, Path], Both] = {}


def _fast(folder: Path) -> Any:
    if folder not in _TOKENIZERS:
        _TOKENIZERS[folder] = PreTrainedTokenizerFast.from_pretrained(str(folder))
    return _TOKENIZERS[folder]


def both(name: str, folder: Path) -> Both:
    if (name, folder) not in _BOTH:
        _BOTH[name, folder] = Both(name, folder)
    return _BOTH[name, folder]


def their_messages(rows: Rows) -> list[Any]:
    found: list[Any] = copy.deepcopy(rows)
    for row in found:
        if "tool_calls" in row:
            row["tool_calls"] = [upstream.ToolCall.model_validate(call) for call in row["tool_calls"]]
    return found
