"""The real Tinker SDK against our server: what its documentation shows, and what goes wrong."""

import concurrent.futures
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# In the environment of the cookbook: the SDK leaves sockets open in a thread of its own, which the ordinary run would
# count as errors of other tests.
pytestmark = [pytest.mark.sdk("tinker_cookbook"), pytest.mark.filterwarnings("ignore")]

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79]


def datum(tokens: list[int] = TOKENS, weight: float = 1.0) -> Any:
    import tinker

    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [weight] * (len(tokens) - 1)},
    )


@pytest.fixture
def service(live: Any) -> Any:
    import tinker

    return tinker.ServiceClient(user_metadata={"suite": "sdk"}, display_name="tests of the server")


@pytest.fixture
def training(service: Any, models: dict[str, Path]) -> Any:
    return service.create_lora_training_client(base_model=str(models["student"]), rank=4, seed=3).result()


def stepped(training: Any, data: list[Any], rate: float = 1e-2) -> tuple[float, float]:
    import tinker

    done = training.forward_backward(data, "cross_entropy")
    step = training.optim_step(tinker.AdamParams(learning_rate=rate))
    return done.result().metrics["loss:sum"], step.result().metrics["unclipped_grad_l2:mean"]


def test_training_lowers_the_loss_and_the_numbers_are_the_engines(
    training: Any, models: dict[str, Path]
) -> None:
    import asyncio

    from crucible_torch import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData

    found = [stepped(training, [datum(), datum(TOKENS[::-1])]) for _ in range(5)]

    async def direct(folder: Path) -> list[tuple[float, float]]:
        backend = LocalBackend(device="cpu", dtype="float32", logprobs_at="all")
        spec = TrainingSpec(
            base_model=str(models["student"]), lora=LoraConfig(rank=4, seed=3), seed=3, checkpoint_dir=folder
        )
        client = await backend.create_training_client(spec)
        data = [
            Datum(
                ModelInput.from_ints(row[:-1]),
                {"target_tokens": TensorData.of(row[1:]), "weights": TensorData.of([1.0] * (len(row) - 1))},
            )
            for row in (TOKENS, TOKENS[::-1])
        ]
        losses = []
        for _ in range(5):
            output = await client.forward_backward(data)
            step = await client.optim_step(AdamParams(learning_rate=1e-2, eps=1e-12))
            losses.append((output.metrics["loss:sum"], step.metrics["unclipped_grad_l2:mean"]))
        await backend.close()
        return losses

    assert found == asyncio.run(direct(models["student"].parent / "direct"))
    assert found[-1][0] < found[0][0]


@pytest.mark.parametrize(
    ("loss", "config"),
    [
        ("importance_sampling", None),
        ("ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
        ("cispo", {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
        ("dro", {"beta": 0.05}),
        ("gspo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
    ],
)
def test_every_loss_with_a_public_formula_is_served(training: Any, loss: str, config: Any) -> None:
    import tinker

    size = len(TOKENS) - 1
    inputs = {
        "target_tokens": TOKENS[1:],
        "logprobs": [-6.0] * size,
        "advantages": [1.0, -1.0] * 3 + [0.5],
    }
    if loss == "gspo":
        inputs["sequence_ratio_mask"] = [1.0] * size
    data = [tinker.Datum(model_input=tinker.ModelInput.from_ints(TOKENS[:-1]), loss_fn_inputs=inputs)]
    output = training.forward_backward(data, loss, config).result()
    assert np.isfinite(output.metrics["loss:sum"])
    assert len(output.loss_fn_outputs[0]["logprobs"].data) == size
    assert training.optim_step(tinker.AdamParams()).result().metrics["unclipped_grad_l2:mean"] > 0


def test_a_custom_loss_has_the_gradient_of_its_formula(service: Any, models: dict[str, Path]) -> None:
    import tinker
    import torch

    def squared(data: list[Any], logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
        loss = sum((row**2).sum() for row in logprobs)
        return loss, {"rows:sum": float(len(logprobs))}

    first, second = (
        service.create_lora_training_client(base_model=str(models["student"]), rank=4, seed=5).result()
        for _ in range(2)
    )
    output = first.forward_backward_custom([datum()], squared).result()
    norm = first.optim_step(tinker.AdamParams()).result().metrics["unclipped_grad_l2:mean"]
    logprobs = torch.tensor(
        second.forward([datum()], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data
    )
    assert output.metrics["loss:sum"] == pytest.approx(float((logprobs**2).sum()), rel=1e-5)
    assert output.metrics["rows:sum"] == 1.0
    weights = (-2 * logprobs).tolist()
    by_hand = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(TOKENS[:-1]),
        loss_fn_inputs={"target_tokens": TOKENS[1:], "weights": weights},
    )
    second.forward_backward([by_hand], "cross_entropy").result()
    wanted = second.optim_step(tinker.AdamParams()).result().metrics["unclipped_grad_l2:mean"]
    assert norm == pytest.approx(wanted, rel=1e-6)


def test_a_batch_that_is_sent_in_parts_is_one_batch(service: Any, models: dict[str, Path], live: Any) -> None:
    whole, parted = (
        service.create_lora_training_client(base_model=str(models["student"]), rank=4, seed=5).result()
        for _ in range(2)
    )
    data = [datum([*TOKENS, 5 + number]) for number in range(9)]
    wanted = stepped(whole, data)
    parted.holder._client_config = parted.holder._client_config.model_copy(update={"fwdbwd_max_chunk_len": 2})
    before = len(live.noted.asked)
    found = stepped(parted, data)
    assert [path for _, path, _ in live.noted.asked[before:]].count("forward_backward") == 5
    assert found == pytest.approx(wanted, rel=1e-5)


def test_targets_of_two_axes_come_back_in_their_shape(training: Any) -> None:
    import tinker
    import torch

    targets = torch.tensor([[4, 0, 0], [5, 6, 0], [7, 8, 9]])
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    data = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([1, 2, 3]),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_torch_sparse(targets),
            "weights": tinker.TensorData.from_torch_sparse(weights),
        },
    )
    output = training.forward([data], "cross_entropy").result()
    logprobs = output.loss_fn_outputs[0]["logprobs"].to_torch()
    assert logprobs.shape == (3, 3)
    assert output.metrics["loss:sum"] == pytest.approx(float(-(weights * logprobs).sum()), rel=1e-5)


def test_sampling_is_seeded_and_scored_as_training_scores_it(training: Any) -> None:
    import tinker

    stepped(training, [datum()])
    sampler = training.save_weights_and_get_sampling_client().result()
    prompt = tinker.ModelInput.from_ints(TOKENS[:3])
    params = tinker.SamplingParams(max_tokens=8, seed=1, temperature=1.0)
    first, second = (sampler.sample(prompt, 2, params).result() for _ in range(2))
    assert [list(s.tokens) for s in first.sequences] == [list(s.tokens) for s in second.sequences]
    sequence = first.sequences[0]
    row = TOKENS[:3] + list(sequence.tokens)
    output = training.forward([datum(row)], "cross_entropy").result()
    scored = output.loss_fn_outputs[0]["logprobs"].data[2:]
    np.testing.assert_allclose(sequence.logprobs, scored, atol=1e-5)
    logprobs = sampler.compute_logprobs(tinker.ModelInput.from_ints(row)).result()
    assert logprobs[0] is None
    np.testing.assert_allclose(logprobs[3:], scored, atol=1e-5)


def test_a_sampler_can_be_given_to_another_process(training: Any) -> None:
    import tinker

    sampler = training.save_weights_and_get_sampling_client().result()
    params = tinker.SamplingParams(max_tokens=4, seed=2)
    prompt = tinker.ModelInput.from_ints(TOKENS)
    wanted = list(sampler.sample(prompt, 1, params).result().sequences[0].tokens)
    clone = pickle.loads(pickle.dumps(sampler))
    assert list(clone.sample(prompt, 1, params).result().sequences[0].tokens) == wanted
    again = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle())
    assert list(again.sample(prompt, 1, params).result().sequences[0].tokens) == wanted


def test_many_samples_at_once_are_all_told_apart(training: Any) -> None:
    import tinker

    sampler = training.save_weights_and_get_sampling_client().result()
    params = tinker.SamplingParams(max_tokens=3)
    futures = [sampler.sample(tinker.ModelInput.from_ints(TOKENS), 2, params).future() for _ in range(64)]
    done = [future.result(60) for future in concurrent.futures.as_completed(futures)]
    ids = [sequence.sequence_id for response in done for sequence in response.sequences]
    assert len(set(ids)) == 128


def test_state_is_saved_listed_resumed_exported_and_deleted(service: Any, training: Any, live: Any) -> None:
    import tinker

    rest = tinker.RestClient(base_url=live.url)
    stepped(training, [datum()])
    path = training.save_state("one", ttl_seconds=7200, user_metadata={"k": "v"}).result().path
    with pytest.raises(tinker.RequestFailedError, match="there already"):
        training.save_state("one").result()
    same = service.create_training_client_from_state_with_optimizer(path).result()
    assert same.forward([datum()], "cross_entropy").result().metrics == (
        training.forward([datum()], "cross_entropy").result().metrics
    )
    assert stepped(same, [datum()]) == stepped(training, [datum()])
    fresh = service.create_training_client_from_state(path).result()
    assert fresh.get_info().lora_rank == 4
    (listed,) = rest.list_checkpoints(training.model_id).result().checkpoints
    assert (listed.tinker_path, listed.user_metadata) == (path, {"k": "v"})
    assert listed.expires_at > listed.time
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert (info.is_lora, info.lora_rank) == (True, 4)
    external = training.save_weights_external("e").result().path
    urls = rest.get_external_weights_urls(external).result().urls
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(urls)
    assert all(urllib.request.urlopen(url).read() for url in urls.values())
    rest.delete_checkpoint_from_tinker_path(path).result()
    left = [c.tinker_path for c in rest.list_user_checkpoints().result().checkpoints]
    assert left == [external]


def test_what_was_exported_is_loaded_by_peft(
    training: Any, live: Any, models: dict[str, Path], tmp_path: Path
) -> None:
    import tinker
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    stepped(training, [datum()], rate=0.05)
    urls = tinker.RestClient(base_url=live.url).get_external_weights_urls(
        training.save_weights_external("e").result().path
    )
    for name, url in urls.result().urls.items():
        (tmp_path / name).write_bytes(urllib.request.urlopen(url).read())
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(models["student"]), tmp_path
    ).eval()
    with torch.no_grad():
        table = model(torch.tensor([TOKENS[:-1]])).logits[0].float().log_softmax(-1)
    wanted = table[range(len(TOKENS) - 1), TOKENS[1:]]
    found = training.forward([datum()], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].to_torch()
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


def test_runs_and_sessions_can_be_asked_about(
    service: Any, training: Any, live: Any, models: dict[str, Path]
) -> None:
    import tinker

    rest = tinker.RestClient(base_url=live.url)
    supported = rest.get_server_capabilities().result().supported_models
    assert [model.model_name for model in supported] == [str(path) for path in models.values()]
    assert all(model.max_context_length == 2048 and model.trainable for model in supported)
    session = training.model_id.split(":")[0]
    assert rest.get_session(session).result().training_run_ids == [training.model_id]
    assert rest.list_sessions().result().sessions == [session]
    runs = rest.list_training_runs().result()
    assert [run.training_run_id for run in runs.training_runs] == [training.model_id]
    found = rest.search_sessions(tinker.types.SessionSearchRequest(display_name="SERVER")).result()
    assert [item.session_id for item in found.sessions] == [session]
    service.close("success").result()
    ended = rest.search_sessions(tinker.types.SessionSearchRequest(session_id=session)).result()
    assert ended.sessions[0].status.type == "client_finished"


def test_the_tokenizer_is_found(training: Any) -> None:
    tokenizer = training.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Hello there")) == "Hello there"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda c: c.forward_backward([datum()], "cross_entropi"), "did you mean 'cross_entropy'"),
        (lambda c: c.forward_backward([datum()], "stable_reinforce"), "no public formula"),
        (lambda c: c.forward_backward([datum([1, 2, 100_000])], "cross_entropy"), "100000"),
        (lambda c: c.save_state("a/b"), "cannot name a checkpoint"),
    ],
)
def test_the_users_mistakes_are_told_as_such(training: Any, wrong: Any, said: str) -> None:
    import tinker

    with pytest.raises(tinker.RequestFailedError, match=said) as caught:
        wrong(training).result()
    assert caught.value.category is tinker.types.RequestErrorCategory.User


def test_a_model_that_is_not_served_is_told_with_the_nearest(service: Any, models: dict[str, Path]) -> None:
    import tinker

    with pytest.raises(tinker.RequestFailedError, match="did you mean"):
        service.create_lora_training_client(base_model=f"{models['student']}x", rank=4).result()


def test_clients_of_several_sessions_train_at_once_without_touching_each_other(
    live: Any, models: dict[str, Path]
) -> None:
    import tinker

    def run(_: int) -> list[tuple[float, float]]:
        client = tinker.ServiceClient()
        made = client.create_lora_training_client(base_model=str(models["student"]), rank=4, seed=9).result()
        return [stepped(made, [datum()]) for _ in range(4)]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = list(pool.map(run, range(6)))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("live", ["tml-the-right-key"], indirect=True)
def test_only_the_right_key_is_admitted(live: Any) -> None:
    import tinker

    rest = tinker.RestClient(base_url=live.url, api_key="tml-the-right-key")
    assert rest.get_server_capabilities().result().supported_models
    with pytest.raises(tinker.AuthenticationError):
        tinker.RestClient(base_url=live.url, api_key="tml-the-wrong-key").get_server_capabilities().result()
