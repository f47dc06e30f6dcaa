"""The bytes of the Tinker wire, held against what the real SDK 0.38.0 writes and reads."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from crucible_gateway.tinker.codec import (
    call_from_json,
    call_from_proto,
    call_ids,
    output_to_json,
    output_to_proto,
    prompt_from_json,
    sample_to_json,
    sample_to_proto,
)
from crucible_gateway.tinker.schema import messages
from crucible_ir import DataError
from crucible_train.types import (
    ForwardBackwardOutput,
    SampledSequence,
    SampleResponse,
    TensorData,
)


def recorded_requests(recorded: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [item for item in recorded["forward_backward_requests"] if item["name"] == name]


def test_the_messages_have_every_field_that_the_sdk_sends(recorded: dict[str, Any]) -> None:
    assert len(recorded["forward_backward_requests"]) >= 7
    for item in recorded["forward_backward_requests"]:
        message = messages().ForwardBackwardRequest.FromString(bytes.fromhex(item["hex"]))
        assert text_format.MessageToString(message, as_one_line=True).strip() == item["text"].strip()


def test_the_messages_have_every_field_that_the_sdk_reads(recorded: dict[str, Any]) -> None:
    for item in recorded["responses"]:
        kind = getattr(messages(), item["type"])
        message = kind.FromString(bytes.fromhex(item["hex"]))
        assert message.SerializeToString(deterministic=True).hex() == item["hex"]
        assert not message.DiscardUnknownFields()
        assert message.SerializeToString(deterministic=True).hex() == item["hex"]


def test_a_cross_entropy_request_is_read_with_its_tensors(recorded: dict[str, Any]) -> None:
    train, forward = (
        call_from_proto(bytes.fromhex(item["hex"])) for item in recorded_requests(recorded, "ce_1d")
    )
    assert (train.model_id, train.seq_id, train.loss_fn) == ("sess1:train:0", 7, "cross_entropy")
    assert (train.forward_only, forward.forward_only) == (False, True)
    (datum,) = train.data
    assert datum.model_input.to_ints() == [1, 2, 3]
    assert datum.target_tokens.tolist() == [2, 3, 4]
    assert datum.weights.tolist() == [0.0, 0.5, 0.5]


def test_a_tensor_of_two_axes_keeps_them(recorded: dict[str, Any]) -> None:
    item = recorded_requests(recorded, "ce_2d_dense_or_csr")[0]
    (datum,) = call_from_proto(bytes.fromhex(item["hex"])).data
    assert datum.target_tokens.shape == datum.weights.shape == (4, 3)


def test_sparse_rows_are_filled_with_zeros() -> None:
    body = with_tensor(shape=[2, 3], sparse=([0.5, 2.0], [0, 1, 2], [2, 0]))
    (datum,) = call_from_proto(body).data
    assert datum.weights.tolist() == [[0.0, 0.0, 0.5], [2.0, 0.0, 0.0]]


def test_the_settings_of_a_loss_are_read(recorded: dict[str, Any]) -> None:
    call = call_from_proto(bytes.fromhex(recorded_requests(recorded, "rl_provenance")[0]["hex"]))
    assert call.loss_fn == "ppo"
    assert call.config == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}


def test_an_image_takes_the_positions_it_was_said_to(recorded: dict[str, Any]) -> None:
    call = call_from_proto(bytes.fromhex(recorded_requests(recorded, "ce_image")[0]["hex"]))
    assert call.tokens == 5
    assert call.data[0].model_input.chunks[1].length == 2


def test_outputs_are_written_as_the_sdk_reads_them(recorded: dict[str, Any]) -> None:
    (item,) = (i for i in recorded["responses"] if i["type"] == "ForwardBackwardOutput")
    wanted = item["decoded"]
    output = ForwardBackwardOutput(
        loss_fn_outputs=tuple(
            {"logprobs": TensorData.of(row["logprobs"])} for row in wanted["loss_fn_outputs"]
        ),
        metrics=wanted["metrics"],
    )
    made = messages().ForwardBackwardOutput.FromString(output_to_proto(output))
    theirs = messages().ForwardBackwardOutput.FromString(bytes.fromhex(item["hex"]))
    assert made.metrics == theirs.metrics
    ours, other = made.loss_fn_outputs[0].fields["logprobs"], theirs.loss_fn_outputs[0].fields["logprobs"]
    assert (ours.data, ours.offsets, ours.dtype) == (other.data, other.offsets, other.dtype)


def test_samples_are_written_as_the_sdk_reads_them(recorded: dict[str, Any]) -> None:
    (item,) = (i for i in recorded["responses"] if i["type"] == "SampleResponse")
    wanted = item["decoded"]
    response = SampleResponse(
        sequences=tuple(
            SampledSequence(
                tokens=tuple(s["tokens"]), logprobs=tuple(s["logprobs"]), stop_reason=s["stop_reason"]
            )
            for s in wanted["sequences"]
        ),
        prompt_logprobs=tuple(wanted["prompt_logprobs"]),
        topk_prompt_logprobs=tuple(
            None if row is None else tuple((int(token), float(logprob)) for token, logprob in row)
            for row in wanted["topk_prompt_logprobs"]
        ),
    )
    made = messages().SampleResponse.FromString(sample_to_proto(response))
    theirs = messages().SampleResponse.FromString(bytes.fromhex(item["hex"]))
    theirs.ClearField("prompt_cache_hit_tokens")
    assert made == theirs or made.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


def test_what_older_sdks_read_as_json_says_the_same() -> None:
    output = ForwardBackwardOutput(
        loss_fn_outputs=(
            {"logprobs": TensorData.of([-0.5, -0.25])},
            {"logprobs": TensorData.of(np.zeros((1, 3), dtype=np.float32))},
        ),
        metrics={"loss:sum": 1.5, "grad": 2.0},
    )
    read = output_to_json(output_to_proto(output))
    assert read["metrics"] == {"loss:sum": 1.5, "grad:mean": 2.0}
    assert read["loss_fn_outputs"][0]["logprobs"] == {
        "data": [-0.5, -0.25],
        "dtype": "float32",
        "shape": [2],
    }
    assert read["loss_fn_outputs"][1]["logprobs"]["shape"] == [1, 3]
    response = SampleResponse(
        sequences=(SampledSequence(tokens=(5, 6), logprobs=(-0.5, -1.0), stop_reason="stop"),),
        prompt_logprobs=(None, -2.0),
    )
    told = sample_to_json(sample_to_proto(response))
    assert told["prompt_logprobs"] == [None, -2.0]
    assert told["sequences"] == [{"tokens": [5, 6], "logprobs": [-0.5, -1.0], "stop_reason": "stop"}]
    assert told["topk_prompt_logprobs"] is None


def test_a_json_request_of_an_older_sdk_is_read_like_the_new_one() -> None:
    body = {
        "model_id": "s:train:0",
        "seq_id": 3,
        "forward_backward_input": {
            "loss_fn": "ppo",
            "loss_fn_config": {"clip_low_threshold": 0.9},
            "data": [
                {
                    "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
                    "loss_fn_inputs": {
                        "target_tokens": {"data": [2, 3], "dtype": "int64", "shape": [2]},
                        "weights": {"data": [0.0, 1.0], "dtype": "float32"},
                    },
                }
            ],
        },
    }
    call = call_from_json(body)
    assert (call.model_id, call.seq_id, call.loss_fn) == ("s:train:0", 3, "ppo")
    assert call.config == {"clip_low_threshold": 0.9}
    assert call.data[0].target_tokens.tolist() == [2, 3]
    assert call.data[0].weights.tolist() == [0.0, 1.0]


def with_tensor(**fields: Any) -> bytes:
    message = messages().ForwardBackwardRequest(model_id="m", seq_id=1, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.arange(2, dtype=np.int32).tobytes()
    tensor = datum.loss_fn_inputs["weights"]
    tensor.dtype = fields.pop("dtype", messages().DTYPE_FLOAT32)
    tensor.shape.extend(fields.pop("shape", [2]))
    if "sparse" in fields:
        values, rows, columns = fields.pop("sparse")
        tensor.sparse_csr.values = np.asarray(values, dtype=np.float32).tobytes()
        tensor.sparse_csr.crow_indices = np.asarray(rows, dtype=np.int64).tobytes()
        tensor.sparse_csr.col_indices = np.asarray(columns, dtype=np.int64).tobytes()
    else:
        tensor.dense = fields.pop("dense", np.zeros(2, dtype=np.float32).tobytes())
    return message.SerializeToString()


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff\xff",
        with_tensor(dense=b"abc"),
        with_tensor(dense=b"\0" * 12),
        with_tensor(shape=[-1]),
        with_tensor(dtype=0),
        with_tensor(shape=[2, 2], sparse=([1.0], [0, 1], [0])),
        with_tensor(shape=[2, 2], sparse=([1.0], [0, 1, 1], [7])),
        with_tensor(shape=[2, 2], sparse=([1.0], [0, 2, 1], [0])),
        with_tensor(shape=[2**20, 2**20], sparse=([1.0], [0, 1], [0])),
    ],
)
def test_bytes_that_do_not_fit_are_refused_by_place(body: bytes) -> None:
    with pytest.raises(DataError):
        call_from_proto(body)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(body: bytes) -> None:
    try:
        call_from_proto(body)
        call_ids(body)
    except DataError:
        pass


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.booleans(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["chunks", "type", "tokens", "data", "format"]), inner)
        ),
        max_leaves=8,
    )
)
def test_no_json_makes_the_reader_of_prompts_fail_otherwise(value: Any) -> None:
    with contextlib.suppress(DataError):
        prompt_from_json(value)


def test_a_position_without_a_logprob_is_nan_on_the_wire() -> None:
    body = sample_to_proto(SampleResponse(sequences=(), prompt_logprobs=(None, -1.0)))
    values = np.frombuffer(messages().SampleResponse.FromString(body).prompt_logprobs, dtype=np.float32)
    assert math.isnan(values[0])
    assert values[1] == -1.0


def test_the_schema_needs_no_generated_code() -> None:
    assert not list(Path(sys.modules["crucible_gateway"].__file__ or "").parent.rglob("*_pb2.py"))
