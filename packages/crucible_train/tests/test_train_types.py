"""Values of the training interface refuse what is wrong and say what to do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir.errors import ConfigError, DataError, ServiceError
from crucible_train.types import (
    AdamParams,
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageChunk,
    LoraConfig,
    ModelInput,
    SampledSequence,
    SamplingParams,
    TensorData,
)

IMAGE = ImageChunk(data=b"pixels", format="png", expected_tokens=3)


def test_integers_become_int64_and_floats_float32() -> None:
    assert TensorData.of([1, 2]).dtype == "int64"
    assert TensorData.of([True]).dtype == "int64"
    assert TensorData.of([1.0, 2]).dtype == "float32"
    assert TensorData.of([1, 2], "float32").tolist() == [1.0, 2.0]


def test_a_tensor_of_another_dtype_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"TensorData.array: tensor of dtype float64; give int64 or float32"):
        TensorData(np.zeros(2))
    with pytest.raises(DataError, match=r"TensorData.of: values of kind 'str"):
        TensorData.of(["a"])


def test_a_tensor_cannot_be_changed_and_does_not_share_its_source() -> None:
    source = np.array([1, 2], dtype=np.int64)
    tensor = TensorData.of(source)
    source[0] = 9
    assert tensor.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        tensor.array[0] = 9


def test_tensors_compare_by_dtype_shape_and_value_and_can_be_keys() -> None:
    nan = TensorData.of([float("nan"), 1.0])
    assert nan == TensorData.of([float("nan"), 1.0])
    assert TensorData.of([1]) != TensorData.of([1.0])
    assert TensorData.of([1]) != [1]
    assert hash(TensorData.of([1, 2])) == hash(TensorData.of([1, 2]))
    assert (len(TensorData.of([[1, 2]])), TensorData.of([[1, 2]]).shape) == (1, (1, 2))


def test_an_image_of_no_positions_is_refused() -> None:
    with pytest.raises(DataError, match="image with expected_tokens=0"):
        ImageChunk(data=b"", format="png", expected_tokens=0)


def test_the_bytes_of_an_image_are_not_printed() -> None:
    assert "pixels" not in repr(IMAGE)


def test_an_input_counts_images_by_their_positions() -> None:
    model_input = ModelInput.from_ints([1, 2]).append(IMAGE).append_int(4).append_int(5)
    assert model_input.length == 7
    assert model_input.all_tokens(image_id=0) == [1, 2, 0, 0, 0, 4, 5]
    assert model_input.chunks[-1] == EncodedTextChunk((4, 5))
    with pytest.raises(DataError, match="an image chunk has no token ids"):
        model_input.to_ints()


@given(st.lists(st.integers(0, 1000)), st.integers(0, 1000))
def test_appending_a_token_adds_it_at_the_end_and_leaves_the_input_as_it_was(
    tokens: list[int], token: int
) -> None:
    before = ModelInput.from_ints(tokens)
    assert before.append_int(token).to_ints() == [*tokens, token]
    assert before.to_ints() == tokens
    assert ModelInput.empty().append_int(token).to_ints() == [token]


def test_a_datum_needs_one_loss_input_per_position() -> None:
    with pytest.raises(
        DataError, match=r"Datum.loss_fn_inputs.weights: weights of shape \(2,\) for an input of 3"
    ):
        Datum(ModelInput.from_ints([1, 2, 3]), {"weights": TensorData.of([1.0, 1.0])})


def test_a_datum_gives_targets_and_weights_and_names_what_it_lacks() -> None:
    datum = Datum(
        ModelInput.from_ints([1, 2]),
        {"target_tokens": TensorData.of([2, 3]), "weights": TensorData.of([0.0, 0.5])},
    )
    assert datum.target_tokens.tolist() == [2, 3]
    assert datum.num_loss_tokens == 0.5
    with pytest.raises(TypeError):
        datum.loss_fn_inputs["weights"] = TensorData.of([1.0, 1.0])  # type: ignore[index]
    empty = Datum(ModelInput.from_ints([1]), {})
    with pytest.raises(DataError, match=r"datum has no 'weights'; it has \[\]; build the datum with"):
        _ = empty.weights


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (AdamParams, "learning_rate", -1e-4),
        (AdamParams, "beta1", 1.0),
        (AdamParams, "beta2", -0.1),
        (AdamParams, "eps", 0.0),
        (AdamParams, "weight_decay", -1.0),
        (AdamParams, "grad_clip_norm", -1.0),
        (LoraConfig, "rank", 0),
        (LoraConfig, "alpha", 0.0),
        (SamplingParams, "max_tokens", 0),
        (SamplingParams, "temperature", -0.5),
        (SamplingParams, "top_k", 0),
        (SamplingParams, "top_p", 0.0),
    ],
)
def test_a_setting_out_of_range_names_its_field_and_value(
    kind: type[AdamParams | LoraConfig | SamplingParams], field: str, value: float
) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}: {field} = {value}; "):
        kind(**{field: value})


def test_an_adapter_must_train_something() -> None:
    with pytest.raises(ConfigError, match="train at least one kind of layer"):
        LoraConfig(train_mlp=False, train_attn=False, train_unembed=False)


def test_defaults_are_those_of_the_upstream_recipes() -> None:
    adam = AdamParams()
    assert (adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.grad_clip_norm) == (
        0.9,
        0.95,
        1e-8,
        0.0,
        0.0,
    )
    assert (SamplingParams().temperature, SamplingParams().top_k, SamplingParams().top_p) == (1.0, -1, 1.0)


def test_log_probabilities_that_were_not_returned_are_missed_with_the_remedy() -> None:
    sequence = SampledSequence(tokens=(1,), stop_reason="stop")
    with pytest.raises(ServiceError, match="use a backend whose capabilities name sample_logprobs"):
        sequence.require_logprobs()
    known = SampledSequence(tokens=(1,), logprobs=(-0.5,), stop_reason="stop")
    assert known.require_logprobs() == (-0.5,)


def test_outputs_give_log_probabilities_in_the_order_of_the_data() -> None:
    output = ForwardBackwardOutput(
        loss_fn_outputs=({"logprobs": TensorData.of([-1.0])}, {"logprobs": TensorData.of([-2.0, -3.0])}),
        metrics={"loss:sum": 6.0},
    )
    assert [row.tolist() for row in output.logprobs] == [[-1.0], [-2.0, -3.0]]
