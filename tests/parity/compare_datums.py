"""Datums of conversations, truncation, reduction, likelihoods."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import tinker
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import EQUAL, REFUSED, Ledger
from sides import both, chunks_of, close, our_input, tensors_of, their_input, their_messages
from strategies import conversations
from tinker_cookbook.renderers import TrainOnWhat as TheirTrainOnWhat
from tinker_cookbook.supervised import common
from tinker_cookbook.supervised.data import conversation_to_datum as their_conversation_to_datum

from crucible_ir.errors import CrucibleError
from crucible_train.renderers import TrainOnWhat, messages_from_dicts
from crucible_train.supervised import (
    compute_bpb,
    compute_mean_nll,
    conversation_to_datum,
    datum_from_model_input_weights,
)

# These encode content as text on both sides, so that nothing but the datum can differ.
LITERAL = ("qwen3", "qwen3_disable_thinking", "qwen3_instruct")
lengths = st.none() | st.integers(0, 80) | st.integers(4, 30)
reductions = st.sampled_from(("none", "mean"))
# eighths: sums are exact in float32 in any order, so that no rounding stands between the sides
numbers = st.sampled_from((0.0, 1.0)) | st.integers(-16, 40).map(lambda n: n / 8)


def without_half_blocks(content: Any) -> Any:
    """Without a closing mark alone, on which the renderers differ for a reason that has its own kind."""
    if isinstance(content, str) and "<think>" not in content:
        return content.replace("</think>", "")
    return content


def judge(ours: Any, theirs: Any) -> str:
    if ours is None or theirs is None:
        return REFUSED if ours is theirs else f"only one refuses: {ours} and {theirs}"
    if chunks_of(ours.model_input) != chunks_of(theirs.model_input):
        return f"{chunks_of(ours.model_input)} and not {chunks_of(theirs.model_input)}"
    one, other = tensors_of(ours), tensors_of(theirs)
    same = one.keys() == other.keys() and all(
        one[name][:2] == other[name][:2] and close(one[name][2], other[name][2], rtol=1e-7) for name in one
    )
    return EQUAL if same else f"{one} and not {other}"


def test_a_conversation_becomes_the_datum_of_upstream(ledger: Ledger, mini_folder: Path) -> None:
    modes = st.sampled_from([what.value for what in TrainOnWhat if what is not TrainOnWhat.CUSTOMIZED])

    @settings(max_examples=800)
    @given(st.sampled_from(LITERAL), conversations(), lengths, modes, reductions)
    def check(name: str, rows: list[dict[str, Any]], length: int | None, mode: str, reduction: Any) -> None:
        side = both(name, mini_folder)
        rows = [{**row, "content": without_half_blocks(row["content"])} for row in rows]
        try:
            ours = conversation_to_datum(
                messages_from_dicts(rows), side.ours, length, TrainOnWhat(mode), reduction
            )
        except CrucibleError:
            ours = None
        try:
            theirs = their_conversation_to_datum(
                their_messages(rows), side.theirs, length, TheirTrainOnWhat(mode), reduction
            )
        except Exception:  # noqa: BLE001 - whatever its class, it is a refusal
            theirs = None
        ledger.note("datums of conversations", judge(ours, theirs), (name, rows, length, mode, reduction))

    check()


def test_chunks_are_cut_shifted_and_reduced_as_upstream_does(ledger: Ledger) -> None:
    chunk = st.lists(st.integers(0, 500), max_size=6) | st.integers(1, 9)

    @settings(max_examples=1500)
    @given(st.lists(chunk, min_size=1, max_size=6), lengths, reductions, st.data())
    def check(chunks: list[Any], length: int | None, reduction: Any, data: st.DataObject) -> None:
        size = our_input(chunks).length
        weights = data.draw(st.lists(numbers, min_size=size, max_size=size))
        try:
            ours = datum_from_model_input_weights(our_input(chunks), weights, length, reduction)
        except CrucibleError:
            ours = None
        try:
            theirs = common.datum_from_model_input_weights(
                their_input(chunks), torch.tensor(weights, dtype=torch.float32), length, reduction
            )
        except Exception:  # noqa: BLE001 - whatever its class, it is a refusal
            theirs = None
        ledger.note("truncation, shift, reduction", judge(ours, theirs), (chunks, weights, length, reduction))

    check()


def test_likelihoods_are_those_of_upstream(ledger: Ledger, mini_folder: Path) -> None:
    side = both("qwen3", mini_folder)
    tokenizer = side.theirs.tokenizer
    row = st.lists(
        st.tuples(st.floats(-9, 0, width=32), st.sampled_from((0.0, 1.0, 0.25)), st.integers(0, 510)),
        max_size=8,
    )

    @settings(max_examples=800)
    @given(st.lists(row, max_size=4))
    def check(rows: list[list[tuple[float, float, int]]]) -> None:
        columns = [
            [np.array([entry[i] for entry in one], dtype=kind) for one in rows]
            for i, kind in enumerate((np.float32, np.float32, np.int64))
        ]
        logprobs, weights, targets = columns
        tensors = [[tinker.TensorData.from_torch(torch.tensor(a)) for a in column] for column in columns]
        nll = compute_mean_nll(logprobs, weights), common.compute_mean_nll(tensors[0], tensors[1])
        bpb = (
            compute_bpb(logprobs, weights, targets, side.tokenizer),
            common.compute_bpb(*tensors, tokenizer),
        )
        for area, (ours, theirs) in (("mean NLL", nll), ("bits per byte", bpb)):
            same = close(ours, theirs, rtol=3e-6, atol=1e-7) or (math.isnan(ours) and math.isnan(theirs))
            ledger.note(area, EQUAL if same else f"{ours} and not {theirs}", rows)

    check()
