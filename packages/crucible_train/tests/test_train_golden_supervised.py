"""Datums, likelihoods, order, schedules, rates and cross-entropy equal what was recorded upstream."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crucible_ir.errors import ConfigError, DataError
from crucible_testing.tokenizers import FileTokenizer
from crucible_train.hyperparameters import LORA_OVER_FULL, get_lora_param_count, get_lr, hidden_size
from crucible_train.losses import cross_entropy
from crucible_train.renderers import Message, TrainOnWhat, get_renderer
from crucible_train.schedules import lr_multiplier
from crucible_train.supervised import (
    batch_indices,
    compute_bpb,
    compute_mean_nll,
    conversation_to_datum,
    datum_from_model_input_weights,
)
from crucible_train.types import Datum, EncodedTextChunk, ImageChunk, ModelInput

Golden = Callable[[str], dict[str, Any]]


def assert_same(datum: Datum, recorded: dict[str, Any]) -> None:
    chunks = [
        {"text": list(chunk.tokens)}
        if isinstance(chunk, EncodedTextChunk)
        else {"image_length": chunk.expected_tokens}
        for chunk in datum.model_input.chunks
    ]
    assert chunks == recorded["input_chunks"]
    for name in ("weights", "target_tokens"):
        tensor = datum.loss_fn_inputs[name]
        assert tensor.dtype == recorded[name]["dtype"]
        assert list(tensor.shape) == recorded[name]["shape"]
    assert datum.target_tokens.tolist() == recorded["target_tokens"]["data"]
    np.testing.assert_array_equal(datum.weights, np.float32(recorded["weights"]["data"]))


def test_all_432_conversation_datums_are_equal(
    golden: Golden, mini: FileTokenizer, conversations: dict[str, list[Message]]
) -> None:
    cases = golden("datum")["conversation_cases"]
    refused = 0
    for case in cases:
        arguments = (
            conversations[case["conv"]],
            get_renderer(case["renderer"], mini),
            case["max_length"],
            TrainOnWhat(case["train_on_what"]),
            case["reduction"],
        )
        if "error" in case:
            refused += 1
            with pytest.raises(DataError):
                conversation_to_datum(*arguments)
        else:
            assert_same(conversation_to_datum(*arguments), case["datum"])
    assert (len(cases), refused) == (432, 132)


def chunks_of(definition: list[dict[str, Any]]) -> ModelInput:
    return ModelInput(
        tuple(
            EncodedTextChunk(tuple(chunk["text"]))
            if "text" in chunk
            else ImageChunk(data=b"i", format="png", expected_tokens=chunk["image_length"])
            for chunk in definition
        )
    )


def test_all_152_chunk_datums_are_equal(golden: Golden) -> None:
    recorded = golden("datum")
    refused = 0
    for case in recorded["chunk_cases"]:
        model_input = chunks_of(recorded["chunk_definitions"][case["chunks"]])
        arguments = (model_input, case["weights_in"], case["max_length"], case["reduction"])
        if "error" in case:
            refused += 1
            with pytest.raises(DataError, match="tokens are left"):
                datum_from_model_input_weights(*arguments)
        else:
            assert_same(datum_from_model_input_weights(*arguments), case["datum"])
    assert (len(recorded["chunk_cases"]), refused) == (152, 40)


def test_zero_negative_and_fractional_weights_reduce_as_recorded(golden: Golden) -> None:
    cases = golden("datum")["special_cases"]
    for case in cases:
        model_input = ModelInput.from_ints([1, 2, 3, 4])
        datum = datum_from_model_input_weights(model_input, case["weights_in"], reduction=case["reduction"])
        assert_same(datum, case["datum"])
    assert len(cases) == 6


def test_all_7_likelihoods_are_equal(golden: Golden, mini: FileTokenizer) -> None:
    recorded = golden("nll_bpb")
    assert list(mini.all_special_ids) == recorded["header"]["all_special_ids"]
    checked = 0
    for case in recorded["cases"]:
        if case.get("zero_weight"):
            zero = [np.zeros(2, np.float32)]
            assert math.isnan(compute_mean_nll(zero, zero))
            assert math.isnan(compute_bpb(zero, zero, [np.array([5, 6])], mini))
        else:
            logprobs = [np.float32(row) for row in case["logprobs"]]
            weights = [np.float32(row) for row in case["weights"]]
            targets = [np.array(row, dtype=np.int64) for row in case["targets"]]
            assert compute_mean_nll(logprobs, weights) == pytest.approx(case["mean_nll"], rel=2e-6)
            assert compute_bpb(logprobs, weights, targets, mini) == pytest.approx(case["bpb"], rel=2e-6)
        checked += 1
    assert checked == 7


def test_batches_of_every_epoch_take_the_recorded_rows(golden: Golden) -> None:
    recorded = golden("shuffle")
    checked = refused = 0
    for case in recorded["supervised"]:
        n, size = case["rows"], case["batch_size"]
        if case["len"] == 0:  # explained: upstream trains on nothing without saying so
            refused += 1
            with pytest.raises(ConfigError, match=f"a batch of {size} examples from {n} examples"):
                batch_indices(n, size, 0)
            continue
        seed = case["pre_shuffle_seed"]
        table = np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n)
        for epoch, batches in [(None, case["no_set_epoch"]), *case["epochs"].items()]:
            rows = batch_indices(n, size, None if epoch is None else int(epoch))
            assert [table[batch].tolist() for batch in rows] == batches
            assert len(rows) == case["len"]
        checked += 1
    assert (checked, refused) == (9, 3)


def test_the_order_of_an_epoch_is_the_recorded_permutation(golden: Golden) -> None:
    for case in golden("shuffle")["permutations"]:
        rows = batch_indices(case["n"], case["n"], case["seed"])
        assert rows[0].tolist() == case["perm"]


def test_all_18_schedules_have_the_recorded_multipliers(golden: Golden) -> None:
    recorded = golden("lr_schedule")
    for case in recorded["cases"]:
        for step, multiplier in case["mult"]:
            ours = lr_multiplier(case["schedule"], step, case["total_steps"])
            assert ours == pytest.approx(multiplier, rel=0, abs=1e-15)
    assert len(recorded["cases"]) == 18


def test_beyond_the_end_a_schedule_stays_at_zero_where_upstream_goes_on(golden: Golden) -> None:
    edge = golden("lr_schedule")["edge"]
    refused = [case for case in edge if "error" in case]
    beyond = [case for case in edge if "error" not in case]
    for case in refused:
        with pytest.raises(ConfigError):
            lr_multiplier(*case["args"])
    for case in beyond:
        assert case["value"] != 0
        assert lr_multiplier(*case["args"]) == 0
    assert (len(refused), len(beyond)) == (3, 2)


def test_rates_widths_and_adapter_sizes_of_all_48_models_are_equal(golden: Golden) -> None:
    recorded = golden("get_lr")
    assert recorded["header"]["lora_over_full"] == LORA_OVER_FULL

    def compare(ours: Callable[[], float], theirs: Any) -> None:
        if isinstance(theirs, dict):
            with pytest.raises(ConfigError):
                ours()
        else:
            assert ours() == pytest.approx(theirs, rel=1e-15)

    for row in recorded["models"]:
        model = row["model"]
        compare(lambda model=model: get_lr(model), row["get_lr_lora"])
        compare(lambda model=model: get_lr(model, is_lora=False), row["get_lr_full"])
        compare(lambda model=model: hidden_size(model), row["hidden_size"])
        compare(lambda model=model: get_lora_param_count(model), row["lora_params_r32"])
        compare(
            lambda model=model: get_lora_param_count(model, 8, train_mlp=False, train_unembed=False),
            row["lora_params_r8_attn_only"],
        )
    assert len(recorded["models"]) == 48


def test_cross_entropy_has_the_recorded_values_and_gradients(golden: Golden) -> None:
    cases = [case for case in golden("losses")["cases"] if case["loss_fn"] == "cross_entropy"]
    for case in cases:
        found = cross_entropy(np.array(case["target_logprobs"]), np.array(case["inputs"]["weights"]))
        assert found.loss == pytest.approx(case["loss_sum"], rel=1e-12)
        np.testing.assert_array_equal(found.gradient, np.array(case["grad_wrt_target_logprobs"]))
    assert {np.ndim(case["target_logprobs"]) for case in cases} == {1, 2}
