"""init_session and init_tokenizer: the model, its adapter's seed, its tokenizer and the renderer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import ConfigError, ConflictError, IntegrityError, LoraSpec, ModelRef, NotFoundError
from crucible_kitchen.engine.scope import ResumePoint
from crucible_kitchen.stages.init_session import InitSession, training_spec
from crucible_kitchen.stages.init_tokenizer import InitTokenizer
from crucible_kitchen.stages.keys import PROVENANCE, RENDERER, SESSION, STEP, TOKENIZER
from crucible_testing.backend import BigramBackend
from crucible_testing.bench import StageBench, toy_experiment
from crucible_testing.contracts.training import make_datum
from crucible_train.seeds import generator
from crucible_train.types import AdamParams


def bench_of(folder: Path, update: dict[str, Any] | None = None, **settings: Any) -> StageBench:
    experiment = toy_experiment(folder, **settings).model_copy(update=update or {})
    bench = StageBench(folder / "run_1_00000000", experiment)
    bench[PROVENANCE] = {}
    return bench


# --- the session -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (problem,) = bench_of(tmp_path, loss="cross_entropi").check(InitSession)
    assert problem.startswith(
        "training.loss: no loss is called 'cross_entropi'; did you mean 'cross_entropy'?"
    )
    (problem,) = bench_of(tmp_path, loss="stable_reinforce").check(InitSession)
    assert problem.startswith("training.loss: stable_reinforce has no public formula")


@pytest.mark.parametrize(
    ("loss", "settings", "problem"),
    [
        ("dro", {}, "training.loss_config.beta: dro needs beta"),
        ("dro", {"beta": -1.0}, "training.loss_config.beta: beta = -1.0"),
        ("ppo", {"clip_low": 0.5}, "training.loss_config: ppo has no setting clip_low"),
        (
            "ppo",
            {"clip_low_threshold": 2.0},
            "training.loss_config.clip_low_threshold: ppo: clip_low_threshold = 2.0",
        ),
    ],
)
def test_settings_of_a_loss_are_checked_before_the_run(
    tmp_path: Path, loss: str, settings: dict[str, float], problem: str
) -> None:
    (found,) = bench_of(tmp_path, loss=loss, loss_config=settings).check(InitSession)
    assert found.startswith(problem)


def test_a_loss_that_only_another_backend_has_is_refused(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, loss="ppo")
    few = replace(bench.backend.capabilities(), losses=frozenset({"cross_entropy"}))
    bench.backend.capabilities = lambda: few  # type: ignore[method-assign]
    assert bench.check(InitSession) == ["training.loss: the backend has no loss 'ppo'; it has cross_entropy"]
    own = replace(few, losses=frozenset({"loss_of_its_own"}))
    bench = bench_of(tmp_path, loss="loss_of_its_own", loss_config={"anything": 1.0})
    bench.backend.capabilities = lambda: own  # type: ignore[method-assign]
    assert bench.check(InitSession) == []


@pytest.mark.parametrize("name", ["model", "training"])
def test_model_and_training_settings_must_be_there(tmp_path: Path, name: str) -> None:
    assert bench_of(tmp_path, {name: None}).check(InitSession) == [f"{name}: missing; give the {name}"]


def test_a_model_that_is_not_there_is_found_out_before_the_run(tmp_path: Path) -> None:
    gone = ModelRef(id="gone", uri=str(tmp_path / "gone-model"))
    with pytest.raises(NotFoundError, match="gone-model"):
        bench_of(tmp_path, {"model": gone}).check(InitSession)


def test_the_adapters_seed_follows_from_the_experiments_unless_given(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path, lora=LoraSpec(rank=4))
    spec = training_spec(experiment.model_copy(update={"seed": 5}), tmp_path)
    assert spec.lora is not None
    assert spec.lora.seed == int(generator(5, "lora", 0).integers(2**31))
    other = training_spec(experiment.model_copy(update={"seed": 6}), tmp_path)
    assert other.lora is not None
    assert other.lora.seed != spec.lora.seed
    given = training_spec(toy_experiment(tmp_path, lora=LoraSpec(rank=4, alpha=8.0, seed=0)), tmp_path)
    assert given.lora is not None
    assert (given.lora.rank, given.lora.alpha, given.lora.seed) == (4, 8.0, 0)


def test_without_an_adapter_all_weights_are_trained(tmp_path: Path) -> None:
    assert training_spec(toy_experiment(tmp_path, lora=None), tmp_path).lora is None


def test_a_spec_needs_model_and_training(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path).model_copy(update={"model": None})
    with pytest.raises(ValueError, match="no training spec"):
        training_spec(experiment, tmp_path)


def test_a_fresh_run_starts_at_step_zero_with_the_base_model(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.run(InitSession)
    digest = bench.backend.model_digest(str(tmp_path / "model"))
    assert bench[STEP] == 0
    assert bench[PROVENANCE]["model"] == {"id": str(tmp_path / "model"), "digest": digest}
    assert bench.of("model.loaded") == [
        {"model": str(tmp_path / "model"), "digest": digest, "backend": "bigram"}
    ]
    (client,) = bench.backend.clients
    assert client.spec.checkpoint_dir == tmp_path / "run_1_00000000" / "checkpoints"


def test_the_session_is_closed_when_the_run_ends(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    bench.run(InitSession)
    bench.close()
    with pytest.raises(ConflictError):
        bench[SESSION].forward([make_datum([1, 2, 3])])


def test_on_resume_the_saved_state_and_its_step_are_put_in_place(tmp_path: Path) -> None:
    experiment = toy_experiment(tmp_path)
    saving = BigramBackend()
    client = asyncio.run(saving.create_training_client(training_spec(experiment, tmp_path / "state")))
    datum = make_datum([5, 6, 7, 8])
    client.forward_backward([datum])
    client.optim_step(AdamParams(learning_rate=0.1))
    ref = client.save_state("step_000001").result()
    resume = ResumePoint(checkpoint=ref, cursor=(3,), state={}, metrics_position=0, step=1)
    bench = StageBench(tmp_path / "run_1_00000000", experiment, resume=resume)
    bench[PROVENANCE] = {"dataset": {}}
    bench.run(InitSession)
    assert bench[STEP] == 1
    np.testing.assert_array_equal(
        bench[SESSION].forward([datum]).result().logprobs[0], client.forward([datum]).result().logprobs[0]
    )
    assert set(bench[PROVENANCE]) == {"dataset", "model"}


# --- the tokenizer ---------------------------------------------------------------------------------------------


def test_an_unknown_renderer_is_named_with_the_nearest(tmp_path: Path) -> None:
    assert bench_of(tmp_path).check(InitTokenizer, renderer="role_colom") == [
        "pipeline[0].options.renderer: unknown renderer 'role_colom'; did you mean 'role_colon'?"
    ]
    (problem,) = bench_of(tmp_path).check(InitTokenizer, renderer="zzzzzz")
    assert "it is one of" in problem


def test_a_known_renderer_is_fine_for_any_model(tmp_path: Path) -> None:
    assert bench_of(tmp_path).check(InitTokenizer, renderer="role_colon") == []


def test_without_a_renderer_one_must_be_recommended_for_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bigram"):
        bench_of(tmp_path).check(InitTokenizer)
    known = ModelRef(id="Qwen/Qwen3-8B-Base", uri=str(tmp_path / "model"))
    assert bench_of(tmp_path, {"model": known}).check(InitTokenizer) == []


def test_tokenizer_and_renderer_are_part_of_the_provenance(tmp_path: Path) -> None:
    known = ModelRef(id="Qwen/Qwen3-8B-Base", uri=str(tmp_path / "model"))
    bench = bench_of(tmp_path, {"model": known})
    bench[PROVENANCE] = {"dataset": {}}
    bench.run(InitTokenizer)
    assert bench[RENDERER].name == "role_colon"
    assert bench[PROVENANCE] == {
        "dataset": {},
        "tokenizer": {"digest": bench[TOKENIZER].digest},
        "renderer": {"name": "role_colon", "digest": bench[RENDERER].digest},
    }
    (loaded,) = bench.of("tokenizer.loaded")
    assert loaded == {
        "digest": bench[TOKENIZER].digest,
        "renderer": "role_colon",
        "stop": ["\n\nUser:"],
    }


@pytest.mark.parametrize("part", ["tokenizer", "renderer"])
def test_a_run_does_not_go_on_with_another_tokenizer_or_renderer(tmp_path: Path, part: str) -> None:
    bench = bench_of(tmp_path)
    bench.run(InitTokenizer, renderer="role_colon")
    bench.run(InitTokenizer, renderer="role_colon")
    bench[PROVENANCE] = bench[PROVENANCE] | {part: {"digest": f"sha256:{'0' * 64}"}}
    with pytest.raises(IntegrityError, match=f"the {part} is not the one"):
        bench.run(InitTokenizer, renderer="role_colon")
