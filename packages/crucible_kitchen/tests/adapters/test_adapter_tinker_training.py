"""Training through the SDK: order without waiting, the same numbers as without the service, nothing sent twice."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from numpy.typing import NDArray

from crucible_ir import (
    AdapterError,
    ConfigError,
    ConflictError,
    DataError,
    IntegrityError,
    NotFoundError,
    ServiceError,
)
from crucible_kitchen.adapters.tinker_backend import TinkerBackend
from crucible_kitchen.adapters.tinker_checkpoints import Pointer, write_pointer
from crucible_kitchen.adapters.tinker_cost import Tokens
from crucible_kitchen.adapters.tinker_export import download
from crucible_testing.backend import BigramBackend
from crucible_testing.contracts.training import make_datum
from crucible_testing.gateway import MODEL
from crucible_train.losses import LOSSES, cross_entropy
from crucible_train.ports import CustomLoss, TrainingClient, TrainingSpec
from crucible_train.types import (
    AdamParams,
    Datum,
    ImageChunk,
    LoraConfig,
    ModelInput,
    SamplingParams,
    TensorData,
)

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's own

STEP = AdamParams(learning_rate=0.1)
Connect = Callable[..., TinkerBackend]
Serve = Callable[..., Any]
DATA = [make_datum([3, 4, 5, 6, 7]), make_datum([9, 8, 7])]


def spec_of(folder: Path, base_model: str = MODEL, **more: Any) -> TrainingSpec:
    given: dict[str, Any] = {
        "lora": LoraConfig(rank=4),
        "seed": 7,
        "checkpoint_dir": folder / "state",
        **more,
    }
    return TrainingSpec(base_model=base_model, **given)


def opened(backend: Any, folder: Path, base_model: str = MODEL) -> TrainingClient:
    return asyncio.run(backend.create_training_client(spec_of(folder, base_model)))


def losses(client: TrainingClient, steps: int, data: Sequence[Datum] = DATA) -> list[float]:
    handles = []
    for _ in range(steps):
        handles.append(client.forward_backward(data))
        client.optim_step(STEP)
    return [handle.result().metrics["loss:sum"] for handle in handles]


def policy_datum() -> Datum:
    """A datum with all that any loss reads."""
    plain = make_datum([3, 4, 5, 6, 7, 8])
    column = {
        "logprobs": [0.0, -5.0, -6.0, -5.5, -5.2],
        "advantages": [0.0, 1.0, -0.5, 0.25, 2.0],
        "sequence_ratio_mask": [0.0, 1.0, 1.0, 1.0, 1.0],
    }
    inputs = {name: TensorData.of(values, dtype="float32") for name, values in column.items()}
    return Datum(plain.model_input, {**plain.loss_fn_inputs, **inputs})


# --- the same numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_gives_the_numbers_of_the_engine_itself(
    served: Any, connect: Connect, tmp_path: Path, loss: str
) -> None:
    engine, config = BigramBackend(), {"beta": 0.05} if loss == "dro" else {}
    source = served.settings.models[0].source
    found = []
    for client in (opened(connect(served), tmp_path), opened(engine, tmp_path, source)):
        output = client.forward_backward([policy_datum(), policy_datum()], loss, config).result()
        norm = client.optim_step(STEP).result().metrics["unclipped_grad_l2:mean"]
        after = client.forward([policy_datum()], loss, config).result()
        found.append((output.metrics["loss:sum"], norm, after.metrics["loss:sum"], after.logprobs[0]))
    np.testing.assert_allclose(found[0][:3], found[1][:3], rtol=1e-6)
    np.testing.assert_allclose(found[0][3], found[1][3], rtol=1e-6)


def test_a_custom_loss_over_several_targets_gives_the_engines_gradients(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    """Most of the gradient is zero, so that the SDK sends it as sparse rows."""
    width = 20
    rng = np.random.Generator(np.random.PCG64(3))
    targets = TensorData.of(rng.integers(0, 60, (5, width)))
    weights = np.zeros((5, width), dtype=np.float32)
    weights[3, 4] = weights[4, 9] = 1.0
    inputs = {"target_tokens": targets, "weights": TensorData.of(weights)}
    datum = Datum(ModelInput.from_ints([1, 2, 3, 4, 5]), inputs)

    def loss(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        squared = [lp.astype(np.float64) ** 2 * d.weights for d, lp in zip(data, logprobs, strict=True)]
        gradients = [2 * lp.astype(np.float64) * d.weights for d, lp in zip(data, logprobs, strict=True)]
        value = float(sum(part.sum() for part in squared))
        return CustomLoss(loss=value, gradients=gradients, metrics={"mine": 5.0})

    found = []
    source = served.settings.models[0].source
    for client in (opened(connect(served), tmp_path), opened(BigramBackend(), tmp_path, source)):
        output = client.forward_backward_custom([datum], loss).result()
        norm = client.optim_step(STEP).result().metrics["unclipped_grad_l2:mean"]
        found.append((output.metrics["loss:sum"], output.metrics["mine"], norm))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


# --- order -----------------------------------------------------------------------------------------------------


def test_work_is_taken_while_a_custom_loss_is_computed_and_done_after_it(
    serve_anywhere: Serve, connect: Connect, tmp_path: Path
) -> None:
    engine = BigramBackend()
    client = opened(connect(serve_anywhere(engine)), tmp_path)
    reached, go_on = threading.Event(), threading.Event()

    def held(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        reached.set()
        assert go_on.wait(60)
        values = [cross_entropy(lp, d.weights) for d, lp in zip(data, logprobs, strict=True)]
        return CustomLoss(loss=1.0, gradients=[value.gradient for value in values], metrics={})

    async def submit() -> list[Any]:
        handles = [client.forward_backward_custom(DATA, held), client.optim_step(STEP)]
        handles += [client.forward_backward(DATA), client.optim_step(STEP)]
        await asyncio.to_thread(reached.wait, 60)
        assert not any(handle.done() for handle in handles)
        assert [line for line in engine.journal if "optim_step" in line] == []
        go_on.set()
        return [await handle for handle in handles]

    results = asyncio.run(submit())
    assert len(results) == 4
    assert [line for line in engine.journal if line.startswith("submit")] == [
        "submit forward 0",
        "submit forward_backward 0",
        "submit optim_step 0",
        "submit forward_backward 1",
        "submit optim_step 1",
    ]


def test_a_pass_that_failed_is_not_sent_again(
    serve_anywhere: Serve, connect: Connect, tmp_path: Path
) -> None:
    engine = BigramBackend(fail={"forward_backward": 0})
    client = opened(connect(serve_anywhere(engine)), tmp_path)
    with pytest.raises(ServiceError) as caught:
        client.forward_backward(DATA).result()
    assert not caught.value.retryable
    assert sum("submit forward_backward" in line for line in engine.journal) == 1
    with pytest.raises(ConfigError, match="gradients are missing"):
        client.optim_step(STEP).result()


def test_a_custom_loss_that_raises_fails_its_own_handle_and_what_was_sent_after_it(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    client = opened(connect(served), tmp_path)

    def broken(_: Sequence[Datum], __: Sequence[NDArray[np.float32]]) -> CustomLoss:
        raise DataError(what="no such pair", where="pair 3", remedy="look at it")

    first, second = client.forward_backward_custom(DATA, broken), client.optim_step(STEP)
    with pytest.raises(DataError, match="no such pair"):
        first.result()
    with pytest.raises((DataError, ServiceError)):
        second.result()


# --- refused before anything is sent ---------------------------------------------------------------------------


def test_what_the_service_cannot_do_is_refused_before_it_is_sent(
    serve_anywhere: Serve, connect: Connect, tmp_path: Path
) -> None:
    engine = BigramBackend()
    client = opened(connect(serve_anywhere(engine), lacks=["dro", "custom_loss"]), tmp_path)
    image = ModelInput((ImageChunk(data=b"x", format="png", expected_tokens=4),))
    long = make_datum([1] * 66)
    with pytest.raises(ConfigError, match="stable_reinforce has no public formula"):
        client.forward_backward(DATA, "stable_reinforce")
    with pytest.raises(ConfigError, match="no loss 'dro'"):
        client.forward_backward([policy_datum()], "dro", {"beta": 0.05})
    with pytest.raises(ConfigError, match="clip"):
        client.forward_backward([policy_datum()], "ppo", {"clip": 3.0})
    with pytest.raises(ConfigError, match="custom losses"):
        client.forward_backward_custom(DATA, lambda *_: CustomLoss(loss=0, gradients=[], metrics={}))
    with pytest.raises(ConfigError, match="image"):
        client.forward([Datum(image, make_datum([1, 2, 3, 4, 5]).loss_fn_inputs)])
    with pytest.raises(DataError, match="65 positions, but the model on the service reads 64"):
        client.forward_backward([long])
    with pytest.raises(DataError, match="importance_sampling needs 'logprobs'"):
        client.forward_backward(DATA, "importance_sampling")
    with pytest.raises(DataError, match="no data"):
        client.forward_backward([])
    assert engine.journal == []


def test_every_obstacle_of_a_spec_is_named_at_once(served: Any, connect: Connect, tmp_path: Path) -> None:
    backend = connect(served)
    with pytest.raises(NotFoundError, match="did you mean 'Big/gram'"):
        backend.check(spec_of(tmp_path, "Big/gramm"))
    with pytest.raises(ConfigError) as caught:
        backend.check(spec_of(tmp_path, lora=LoraConfig(rank=4, alpha=8.0), dtype="float32"))
    assert {problem.path for problem in caught.value.problems} == {"training.lora.alpha", "training.dtype"}
    with pytest.raises(ConfigError, match="adapters alone"):
        backend.check(spec_of(tmp_path, lora=None))


def test_capabilities_are_asked_once_and_leave_out_what_the_manifest_says_is_lacking(
    served: Any, connect: Connect
) -> None:
    whole = connect(served).capabilities()
    assert whole.losses == frozenset(LOSSES)
    assert (whole.max_length, whole.images, whole.full_finetuning) == (64, False, False)
    less = connect(served, lacks=["gspo", "sampling"]).capabilities()
    assert less.losses == frozenset(LOSSES) - {"gspo"}
    assert {less.sampling, less.prompt_logprobs, less.topk_prompt_logprobs} == {False}
    with pytest.raises(ConfigError, match="did you mean 'gspo'"):
        connect(served, lacks=["gsop"])


@pytest.mark.parametrize("key", [None, "", "sk-not-one"])
def test_a_key_that_the_sdk_would_not_send_is_refused_without_being_shown(key: str | None) -> None:
    with pytest.raises(ConfigError, match="api_key") as caught:
        TinkerBackend(api_key=key, base_url="http://127.0.0.1:9")
    assert "not-one" not in str(caught.value)


def test_a_key_that_the_server_does_not_know_is_a_setting_of_the_users(served: Any, connect: Connect) -> None:
    with pytest.raises(ConfigError, match="refused the key") as caught:
        connect(served, api_key="tml-some-other-key").capabilities()
    assert "some-other" not in str(caught.value)


# --- what it costs ---------------------------------------------------------------------------------------------


def test_nothing_is_sent_that_may_go_beyond_the_cap(
    serve_anywhere: Serve, connect: Connect, tmp_path: Path
) -> None:
    engine = BigramBackend()
    prices = {MODEL: {"train": 1e6, "prefill": 1e6, "sample": 1e6}}
    backend = connect(serve_anywhere(engine), prices=prices, spending_cap_usd=15.0)
    client = opened(backend, tmp_path)
    client.forward_backward(DATA).result()
    used = client.optim_step(STEP).result().metrics
    assert (used["service/trained_tokens"], used["service/usd"]) == (6.0, 6.0)
    sampler = client.sampling_client().result()
    with pytest.raises(ConfigError, match="spending_cap_usd"):
        sampler.sample(ModelInput.from_ints([1, 2]), SamplingParams(max_tokens=8))
    sampler.sample(ModelInput.from_ints([1, 2]), SamplingParams(max_tokens=3, stop=[])).result()
    with pytest.raises(ConfigError, match="CRUCIBLE_SPENDING_CAP_USD"):
        client.forward_backward(DATA)
    assert backend.used() == Tokens(trained=6, prefilled=2, sampled=3)
    assert backend.used_usd() == 11.0
    assert sum("submit forward_backward" in line for line in engine.journal) == 1
    assert sum("submit sample " in line for line in engine.journal) == 1


def test_a_custom_loss_counts_both_of_its_passes(served: Any, connect: Connect, tmp_path: Path) -> None:
    backend = connect(served)

    def loss(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        return CustomLoss(loss=0.0, gradients=[np.zeros_like(lp) for lp in logprobs], metrics={})

    opened(backend, tmp_path).forward_backward_custom(DATA, loss).result()
    assert backend.used() == Tokens(trained=6, scored=6)
    assert backend.price_of(MODEL, trained=6) is None


# --- checkpoints -----------------------------------------------------------------------------------------------


def test_another_process_goes_on_from_a_saved_state_exactly(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    first = connect(served)
    client = opened(first, tmp_path)
    losses(client, 3)
    ref = client.save_state("step_3").result()
    assert ref.path.startswith("tinker://")
    assert ref.path.endswith("/weights/step_3")
    straight = losses(client, 3)
    asyncio.run(first.close())
    second = connect(served)
    assert second.list_checkpoints(tmp_path / "state") == [ref]
    resumed = opened(second, tmp_path)
    folder = ref.model_copy(update={"path": str(tmp_path / "state" / "step_3")})
    resumed.load_state(folder)
    assert losses(resumed, 3) == straight
    again = resumed.save_state("step_6").result()
    assert again.step == 6
    assert second.used().trained == 3 * 6 + 3 * 6
    fresh = opened(second, tmp_path)
    fresh.load_state(ref, with_optimizer=False)
    assert losses(fresh, 2) != straight[:2]


def test_a_checkpoint_folder_that_was_changed_is_refused(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    client = opened(connect(served), tmp_path)
    ref = client.save_state("one").result()
    folder = tmp_path / "state" / "one"
    here = ref.model_copy(update={"path": str(folder)})
    (folder / "tinker.json").write_text((folder / "tinker.json").read_text().replace('"step":0', '"step":9'))
    with pytest.raises(IntegrityError, match=r"tinker\.json"):
        client.load_state(here).result()
    assert losses(client, 1)[0] > 0


def test_a_checkpoint_that_the_service_does_not_have_is_not_found(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    client = opened(connect(served), tmp_path)
    ref = client.save_state("one").result()
    gone = ref.model_copy(update={"path": ref.path.replace("/one", "/two"), "digest": None})
    with pytest.raises(NotFoundError, match="two"):
        client.load_state(gone).result()


def test_a_checkpoint_of_another_model_is_refused(served: Any, connect: Connect, tmp_path: Path) -> None:
    pointer = Pointer(path="tinker://r/weights/x", base_model="Other/model", content="state", step=4)
    write_pointer(tmp_path / "elsewhere", "x", pointer)
    (ref,) = connect(served).list_checkpoints(tmp_path / "elsewhere")
    assert (ref.step, ref.path) == (4, "tinker://r/weights/x")
    here = ref.model_copy(update={"path": str(tmp_path / "elsewhere" / "x")})
    with pytest.raises(ConfigError, match=f"of Other/model, not of {MODEL}"):
        opened(connect(served), tmp_path).load_state(here).result()


def test_a_name_that_is_taken_is_refused_and_the_first_checkpoint_stays(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    client = opened(connect(served), tmp_path)
    first = client.save_state("one").result()
    losses(client, 1)
    with pytest.raises((ConfigError, ConflictError)):
        client.save_state("one").result()
    assert connect(served).list_checkpoints(tmp_path / "state") == [first]
    pointer = Pointer(path=first.path, base_model=MODEL, content="state", step=9)
    with pytest.raises(ConflictError, match="one exists with other content"):
        write_pointer(tmp_path / "state", "one", pointer)


def test_gradients_of_another_shape_are_refused(served: Any, connect: Connect, tmp_path: Path) -> None:
    client = opened(connect(served), tmp_path)

    def wrong(data: Sequence[Datum], logprobs: Sequence[NDArray[np.float32]]) -> CustomLoss:
        return CustomLoss(loss=0.0, gradients=[np.zeros(1) for _ in logprobs], metrics={})

    with pytest.raises(DataError, match=r"gradient of shape \(1,\)"):
        client.forward_backward_custom(DATA, wrong).result()


@pytest.mark.parametrize("name", ["a/b", "", ".hidden", "x y"])
def test_a_name_that_no_checkpoint_can_have_is_refused_at_once(
    served: Any, connect: Connect, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="checkpoint name"):
        opened(connect(served), tmp_path).save_state(name)


def test_what_the_service_does_not_hand_out_is_not_exported(
    served: Any, connect: Connect, tmp_path: Path
) -> None:
    backend = connect(served)
    client = opened(backend, tmp_path)
    weights, state = client.save_weights_for_sampler("final").result(), client.save_state("one").result()
    with pytest.raises(ConfigError, match="adapters, not whole models"):
        backend.export(state, tmp_path / "out", merge=True)
    with pytest.raises(ConfigError, match="sampler weights"):
        backend.export(weights, tmp_path / "out", merge=False)
    with pytest.raises(ConflictError, match="not empty"):
        backend.export(state, tmp_path, merge=False)


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/../../x", "a\\b"])
def test_a_file_that_leads_out_of_the_export_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="names a file"):
        download({name: "http://127.0.0.1:9/"}, tmp_path / "out")


def test_an_address_of_this_machines_own_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(IntegrityError, match="'file' address"):
        download({"a": (tmp_path / "secret").as_uri()}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_ends_too_early_leaves_no_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ServiceError, match="40 of 100 bytes came") as caught:
            download({"a": f"http://127.0.0.1:{listening.getsockname()[1]}/a"}, tmp_path / "out")
        thread.join()
    assert caught.value.retryable
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_fetched_leaves_no_folder(served: Any, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="could not be fetched"):
        download({"a": f"{served.url}/nothing"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_closing_finishes_training_and_gives_up_on_samples(
    serve_anywhere: Serve, connect: Connect, tmp_path: Path
) -> None:
    engine = BigramBackend()
    backend = connect(serve_anywhere(engine))
    client = opened(backend, tmp_path)
    sampler = asyncio.run(backend.create_sampling_client(MODEL))
    handles = [client.forward_backward(DATA), client.optim_step(STEP)]
    sample = sampler.sample(ModelInput.from_ints([1]), SamplingParams(max_tokens=2))
    asyncio.run(backend.close())
    assert all(handle.done() for handle in handles)
    assert handles[1].result().metrics["service/trained_tokens"] == 6
    assert sample.done()


# --- sampling, tokenizer, the SDK ------------------------------------------------------------------------------


def test_a_sample_that_failed_in_passing_is_asked_for_again(serve_anywhere: Serve, connect: Connect) -> None:
    engine = BigramBackend(fail={"sample": 0, "compute_logprobs": 0})
    server = serve_anywhere(engine)
    prompt, params = ModelInput.from_ints([1, 2, 3]), SamplingParams(max_tokens=4, seed=3, stop=[])
    sampler = asyncio.run(connect(server, first_wait_s=0.0).create_sampling_client(MODEL))
    assert len(sampler.sample(prompt, params).result().sequences[0].tokens) == 4
    assert len(sampler.compute_logprobs(prompt).result()) == 3


def test_tries_come_to_an_end(serve_anywhere: Serve, connect: Connect) -> None:
    engine = BigramBackend(fail={"sample": 0})
    backend = connect(serve_anywhere(engine), attempts=1)
    sampler = asyncio.run(backend.create_sampling_client(MODEL))
    with pytest.raises(ServiceError) as caught:
        sampler.sample(ModelInput.from_ints([1]), SamplingParams(max_tokens=1)).result()
    assert caught.value.retryable


def test_a_tokenizer_that_the_manifest_names_costs_no_adapter(
    serve_anywhere: Serve, connect: Connect
) -> None:
    server = serve_anywhere()
    location = server.settings.models[0].tokenizer_id
    asyncio.run(connect(server, tokenizer=location).load_tokenizer(MODEL))
    assert server.backend.clients == []
    asyncio.run(connect(server).load_tokenizer(MODEL))
    assert len(server.backend.clients) == 1


def test_the_sdk_reports_nothing_unless_it_is_allowed_to(
    served: Any, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_TELEMETRY", "1")
    backend = connect(served)
    client = opened(backend, tmp_path)
    assert client._sdk.get_telemetry() is None  # type: ignore[attr-defined]
    assert os.environ["TINKER_TELEMETRY"] == "1"


def test_a_closed_backend_takes_no_more_work(served: Any, connect: Connect, tmp_path: Path) -> None:
    backend = connect(served)
    client = opened(backend, tmp_path)
    asyncio.run(backend.close())
    with pytest.raises(ConflictError):
        client.forward(DATA)
    with pytest.raises(ConflictError, match="connection is closed"):
        opened(backend, tmp_path)
    with pytest.raises(ConflictError, match="connection is closed"):
        asyncio.run(backend.create_sampling_client(MODEL))


def test_another_version_of_the_sdk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinker, "__version__", "0.39.0")
    with pytest.raises(AdapterError, match=r"tinker 0\.39\.0 is installed; the adapter is tested with 0\.38"):
        TinkerBackend(api_key="tml-some-key")


def test_the_sdk_is_imported_when_the_adapter_is_built_and_not_before() -> None:
    code = "import sys, crucible_kitchen.adapters.tinker_backend; sys.exit('tinker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
