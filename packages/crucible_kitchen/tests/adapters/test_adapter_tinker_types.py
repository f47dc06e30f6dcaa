"""What goes to the SDK has its names, shapes and dtypes, and what comes back has ours."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tinker import TensorData as SdkTensor

from crucible_kitchen.adapters.tinker_tokenizer import tokenizer_location
from crucible_kitchen.adapters.tinker_types import (
    sdk_adam,
    sdk_custom_datums,
    sdk_datums,
    sdk_input,
    sdk_sampling,
    to_output,
    to_response,
)
from crucible_train.losses import LOSSES
from crucible_train.types import (
    AdamParams,
    Datum,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    SamplingParams,
    TensorData,
)

EVERYTHING = {
    "target_tokens": TensorData.of([4, 5, 6]),
    "weights": TensorData.of([0.0, 0.5, -1.0], dtype="float32"),
    "logprobs": TensorData.of([0.0, -1.5, -2.0], dtype="float32"),
    "advantages": TensorData.of([0, 1, 1]),
    "mask": TensorData.of([0.0, 1.0, 1.0], dtype="float32"),
    "sequence_ratio_mask": TensorData.of([0.0, 1.0, 1.0], dtype="float32"),
}
DATUM = Datum(ModelInput.from_ints([3, 4, 5]), EVERYTHING)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_loss_gets_the_inputs_that_it_has_on_the_service_and_never_a_mask(loss: str) -> None:
    sent = sdk_datums([DATUM], loss)[0].loss_fn_inputs
    policy = {"target_tokens", "logprobs", "advantages"}
    expected = {
        "cross_entropy": {"target_tokens", "weights"},
        "gspo": policy | {"sequence_ratio_mask"},
    }.get(loss, policy)
    assert set(sent) == expected
    assert {name: tensor.dtype for name, tensor in sent.items()} == {
        name: "int64" if name == "target_tokens" else "float32" for name in expected
    }
    for name, tensor in sent.items():
        np.testing.assert_array_equal(tensor.to_numpy(), EVERYTHING[name].array)


def test_a_loss_of_the_callers_gets_targets_and_weights_alone() -> None:
    assert set(sdk_custom_datums([DATUM])[0].loss_fn_inputs) == {"target_tokens", "weights"}
    bare = Datum(ModelInput.from_ints([3]), {"target_tokens": TensorData.of([4])})
    assert set(sdk_custom_datums([bare])[0].loss_fn_inputs) == {"target_tokens"}


def test_several_targets_a_position_keep_their_shape() -> None:
    targets = TensorData.of([[1, 2], [3, 4], [5, 6]])
    weights = TensorData.of([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]], dtype="float32")
    datum = Datum(ModelInput.from_ints([7, 8, 9]), {"target_tokens": targets, "weights": weights})
    sent = sdk_datums([datum], "cross_entropy")[0].loss_fn_inputs
    assert sent["target_tokens"].shape == [3, 2]
    np.testing.assert_array_equal(sent["weights"].to_numpy(), weights.array)


def test_chunks_keep_their_order_and_an_image_its_bytes() -> None:
    image = ImageChunk(data=b"\x89PNG", format="png", expected_tokens=3)
    given = ModelInput((EncodedTextChunk((1, 2)), image, EncodedTextChunk((3,))))
    sent = sdk_input(given)
    assert [chunk.length for chunk in sent.chunks] == [2, 3, 1]
    assert sent.chunks[1].data == b"\x89PNG"
    assert sent.length == given.length


def test_every_setting_of_the_optimiser_is_sent_and_none_is_the_sdks_own() -> None:
    mine = AdamParams(learning_rate=0.5, beta1=0.1, beta2=0.2, eps=0.3, weight_decay=0.4, grad_clip_norm=0.6)
    sent = sdk_adam(mine)
    assert all(getattr(sent, name) == getattr(mine, name) for name in AdamParams.__dataclass_fields__)
    assert sdk_adam(AdamParams()).eps == 1e-8


@pytest.mark.parametrize("stop", [None, "\n\nUser:", ["a", "b"], [3, 4], []])
def test_every_setting_of_sampling_is_sent(stop: str | list[str] | list[int] | None) -> None:
    mine = SamplingParams(max_tokens=7, seed=3, stop=stop, temperature=0.5, top_k=9, top_p=0.25)
    sent = sdk_sampling(mine)
    assert all(getattr(sent, name) == getattr(mine, name) for name in SamplingParams.__dataclass_fields__)


def test_flat_log_probabilities_take_the_shape_of_the_targets() -> None:
    targets = {"target_tokens": TensorData.of([[1, 2], [3, 4]])}
    datum = Datum(ModelInput.from_ints([7, 8]), targets)
    flat = SdkTensor(data=[-1.0, -2.0, -3.0, -4.0], dtype="float32", shape=[4])
    result = SimpleNamespace(loss_fn_outputs=[{"logprobs": flat}], metrics={"loss:sum": 3})
    output = to_output(result, [datum])
    np.testing.assert_array_equal(output.logprobs[0], [[-1.0, -2.0], [-3.0, -4.0]])
    assert output.metrics == {"loss:sum": 3.0}


def test_the_likeliest_tokens_come_likeliest_first_and_equal_ones_by_id() -> None:
    rows = [None, [(9, -1.0), (3, -0.5), (2, -1.0)]]
    sequence = SimpleNamespace(tokens=[5], logprobs=None, stop_reason="length")
    result = SimpleNamespace(sequences=[sequence], prompt_logprobs=[None, -0.5], topk_prompt_logprobs=rows)
    response = to_response(result)
    assert response.topk_prompt_logprobs == (None, ((3, -0.5), (2, -1.0), (9, -1.0)))
    assert response.prompt_logprobs == (None, -0.5)
    assert response.sequences[0].logprobs is None


@pytest.mark.parametrize(
    ("model", "location"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B:128k", "Qwen/Qwen3-8B"),
        ("org/model/variant", "org/model"),
        ("/models/tiny", "/models/tiny"),
        ("meta-llama/Llama-3.1-8B", "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"),
    ],
)
def test_a_model_whose_tokenizer_is_not_told_has_the_one_of_its_name(model: str, location: str) -> None:
    assert tokenizer_location(model) == location
