"""Recipes are thin: upstream's defaults, the right rows, every setting where it belongs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import crucible_cookbook
from crucible_cookbook.bundled import bundled_data, bundled_model
from crucible_cookbook.data import NO_ROBOTS, ConversationData, located
from crucible_cookbook.recipes.chat_sl import ChatSl, ChatSlConfig
from crucible_cookbook.recipes.distillation import Distillation
from crucible_cookbook.recipes.preference import Preference, PreferenceConfig
from crucible_cookbook.recipes.sl_basic import SlBasic, SlBasicConfig
from crucible_cookbook.settings import model_ref
from crucible_cookbook.supervised import SupervisedConfig
from crucible_ir import AdapterError, ConfigError, DatasetRef, Experiment, StageDef, TrainingConfig

GOLDEN = json.loads((Path(__file__).parent / "golden" / "supervised_defaults.json").read_text())
SOURCE = Path(crucible_cookbook.__file__).parent

SAME_MEANING = {
    "model_name": "model",
    "learning_rate": "learning_rate",
    "lr_schedule": "lr_schedule",
    "num_epochs": "epochs",
    "lora_rank": "lora_rank",
    "save_every": "save_every",
    "eval_every": "eval_every",
    "max_steps": "max_steps",
    "renderer_name": "renderer",
}
"""Upstream's field → ours, where both mean the same."""


def training_of(experiment: Experiment) -> TrainingConfig:
    assert experiment.training is not None
    return experiment.training


def dataset_of(experiment: Experiment) -> DatasetRef:
    assert experiment.dataset is not None
    return experiment.dataset


def options_of(experiment: Experiment, stage: str) -> dict[str, Any]:
    """Options of a stage of the top sequence."""
    return next(dict(node.options) for node in experiment.pipeline if getattr(node, "name", "") == stage)


# --- defaults --------------------------------------------------------------------------------------------------


def test_sl_basic_has_upstreams_defaults() -> None:
    ours, theirs = SlBasicConfig(), GOLDEN["sl_basic"]
    names = SAME_MEANING | {
        "submit_ahead": "submit_ahead",
        "adam_beta1": "adam_beta1",
        "adam_beta2": "adam_beta2",
        "adam_eps": "adam_eps",
    }
    assert {name: getattr(ours, mine) for name, mine in names.items()} == {n: theirs[n] for n in names}
    data = theirs["dataset_builder"]["common_config"]
    assert (ours.max_length, ours.batch_size, ours.renderer, ours.train_on_what.value) == (
        data["max_length"],
        data["batch_size"],
        data["renderer_name"],
        data["train_on_what"],
    )
    assert ours.data.path == NO_ROBOTS


def test_chat_sl_has_upstreams_defaults() -> None:
    ours, theirs = ChatSlConfig(), GOLDEN["chat_sl"]
    names = SAME_MEANING | {
        "dataset": "dataset",
        "max_length": "max_length",
        "batch_size": "batch_size",
        "train_on_what": "train_on_what",
    }
    assert {name: getattr(ours, mine) for name, mine in names.items()} == {n: theirs[n] for n in names}


# --- rows ------------------------------------------------------------------------------------------------------


def rows_of(experiment: Experiment) -> list[tuple[Any, ...] | None]:
    return [
        None if ref is None else (ref.id, ref.split, ref.shuffle_seed, ref.skip, ref.limit)
        for ref in (experiment.dataset, experiment.eval_dataset)
    ]


@pytest.mark.parametrize("settings", [{}, {"data": {"limit": 5, "eval_limit": 2}}])
def test_sl_basic_takes_no_robots_and_its_test_split(settings: dict[str, Any]) -> None:
    limits = (5, 2) if settings else (None, None)
    assert rows_of(SlBasic().parse(settings)) == [
        (NO_ROBOTS, "train", 0, 0, limits[0]),
        (NO_ROBOTS, "test", None, 0, limits[1]),
    ]


def test_chat_sl_takes_the_dataset_that_is_named(tmp_path: Path) -> None:
    assert rows_of(ChatSl().parse({"shuffle_seed": 3})) == [
        (NO_ROBOTS, "train", 3, 0, None),
        (NO_ROBOTS, "test", None, 0, None),
    ]
    tulu = "allenai/tulu-3-sft-mixture"
    assert rows_of(ChatSl().parse({"dataset": "tulu3", "limit": 9})) == [
        (tulu, "train", 0, 1024, 9),
        (tulu, "train", 0, 0, 1024),
    ]
    bundled = [str(bundled_data(f"chat_{role}.jsonl")) for role in ("train", "test")]
    assert rows_of(ChatSl().parse({"dataset": "tiny"})) == [
        (bundled[0], "train", 0, 0, None),
        (bundled[1], "train", None, 0, None),
    ]


@pytest.mark.parametrize(
    ("dataset", "trained"), [("no_robots", "all_assistant_messages"), ("tulu3", "last_assistant_message")]
)
def test_chat_sl_trains_on_what_the_dataset_is_for_unless_told(dataset: str, trained: str) -> None:
    experiment = ChatSl().parse({"dataset": dataset})
    assert options_of(experiment, "build_datums")["train_on_what"] == trained
    told = ChatSl().parse({"dataset": dataset, "train_on_what": "all_tokens"})
    assert options_of(told, "build_datums")["train_on_what"] == "all_tokens"


def test_held_out_rows_of_a_file_come_from_the_front_and_are_not_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("")
    expected = [(str(path), "train", 0, 50, None), (str(path), "train", 0, 0, 50)]
    assert rows_of(ChatSl().parse({"dataset": str(path), "test_size": 50})) == expected
    assert rows_of(SlBasic().parse({"data": {"path": str(path), "test_size": 50}})) == expected
    fewer = ConversationData(path=str(path), test_size=50, eval_limit=7).held_out()
    assert fewer is not None
    assert fewer.limit == 7


def test_held_out_rows_may_come_from_elsewhere(tmp_path: Path) -> None:
    data = ConversationData(path="a/b", eval_path="c/d", eval_limit=3)
    assert data.held_out() == DatasetRef(id="c/d", limit=3, mapping={"schema": "auto"})
    assert ConversationData(path="a/b").held_out() is None
    split = ConversationData(path="a/b", eval_split="validation", config="en", revision="v1").held_out()
    assert split is not None
    assert (split.id, split.split, split.config, split.revision) == ("a/b", "validation", "en", "v1")


def test_what_exists_here_gets_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chats.jsonl").write_text("")
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert located("chats.jsonl", "chat_train") == str(tmp_path / "chats.jsonl")
    assert located("org/dataset", "chat_train") == "org/dataset"
    assert (model_ref("model").id, model_ref("model").uri) == ("model", str(tmp_path / "model"))
    assert model_ref("Qwen/Qwen3-8B").uri is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("~/chats.jsonl", "chat_train") == str(tmp_path / "chats.jsonl")


def test_tiny_is_the_bundled_model_and_data() -> None:
    assert model_ref("tiny").uri == str(bundled_model())
    assert (bundled_model() / "config.json").is_file()
    assert Path(located("tiny", "chat_test")).name == "chat_test.jsonl"


@pytest.mark.parametrize("settings", [{"model": "tiny"}, {"data": {"path": "tiny"}}])
def test_without_crucible_tiny_there_is_no_tiny(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "crucible_tiny", None)
    with pytest.raises(AdapterError, match="crucible-tiny, which is not installed"):
        SlBasic().parse(settings)


# --- the experiment --------------------------------------------------------------------------------------------


def test_every_setting_reaches_the_experiment() -> None:
    experiment = SlBasic().parse(
        {
            "name": "mine",
            "model": "org/model",
            "max_length": 99,
            "batch_size": 8,
            "micro_batch_size": 4,
            "learning_rate": 0.5,
            "lr_schedule": "cosine",
            "warmup_steps": 3,
            "adam_beta1": 0.1,
            "adam_beta2": 0.2,
            "adam_eps": 0.3,
            "grad_clip_norm": 0.4,
            "epochs": 2,
            "max_steps": 11,
            "lora_rank": 5,
            "save_every": 6,
            "eval_every": 7,
            "submit_ahead": 2,
            "dtype": "bfloat16",
            "drop_last": False,
            "sample_prompts": 1,
            "sample_max_tokens": 12,
            "on_error": "drop",
            "seed": 13,
            "tags": ["x"],
            "baseline": "run_1_00000000",
        }
    )
    training = training_of(experiment)
    assert training.model_dump(
        include={"max_length", "batch_size", "micro_batch_size", "epochs", "max_steps"}
    ) == {
        "max_length": 99,
        "batch_size": 8,
        "micro_batch_size": 4,
        "epochs": 2,
        "max_steps": 11,
    }
    optimizer = training.optimizer
    assert (optimizer.learning_rate, optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.5, 0.1, 0.2, 0.3)
    assert optimizer.grad_clip_norm == 0.4
    assert (training.schedule.name, training.schedule.warmup_steps) == ("cosine", 3)
    assert training.lora is not None
    assert training.lora.rank == 5
    assert (training.save_every, training.eval_every, training.submit_ahead) == (6, 7, 2)
    assert (training.dtype, training.drop_last) == ("bfloat16", False)
    assert (experiment.id, experiment.recipe, experiment.workflow) == ("mine", "sl_basic", "supervised")
    assert (experiment.seed, experiment.tags, experiment.baseline) == (13, ("x",), "run_1_00000000")
    assert options_of(experiment, "build_datums")["on_error"] == "drop"
    assert options_of(experiment, "init_tokenizer") == {"renderer": "role_colon"}
    before = next(node for node in experiment.pipeline if getattr(node, "label", None) == "sample_before")
    assert before.options == {"prompts": 1, "max_tokens": 12}  # type: ignore[union-attr]
    assert experiment.settings["warmup_steps"] == 3


def test_the_bundled_model_has_its_own_chat_format_unless_one_is_named() -> None:
    assert options_of(ChatSl().parse({"model": "tiny", "dataset": "tiny"}), "init_tokenizer") == {
        "renderer": "qwen3_instruct"
    }
    named = ChatSl().parse({"model": "tiny", "dataset": "tiny", "renderer": "role_colon"})
    assert options_of(named, "init_tokenizer") == {"renderer": "role_colon"}
    assert options_of(ChatSl().parse({}), "init_tokenizer") == {"renderer": None}


def test_without_a_rank_all_weights_are_trained() -> None:
    assert training_of(SlBasic().parse({"lora_rank": None})).lora is None


def test_without_held_out_rows_nothing_is_evaluated(tmp_path: Path) -> None:
    experiment = ChatSl().parse({"dataset": "some/dataset"})
    assert experiment.eval_dataset is None
    assert training_of(experiment).eval_every == 0
    assert "evaluate_nll" not in experiment.model_dump_json()
    assert "sample_texts" not in experiment.model_dump_json()


@pytest.mark.parametrize("recipe", [SlBasic(), ChatSl()])
def test_every_wrong_setting_is_said_at_once(recipe: SlBasic | ChatSl) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe.parse({"lerning_rate": 1, "batch_size": 0, "lr_schedule": "linea"})
    assert {problem.path for problem in caught.value.problems} == {
        "lerning_rate",
        "batch_size",
        "lr_schedule",
    }
    assert "learning_rate" in str(caught.value)


def test_the_same_settings_make_the_same_experiment() -> None:
    assert SlBasic().parse({"seed": 1}).config_digest == SlBasic().parse({"seed": 1}).config_digest
    assert SlBasic().parse({"seed": 1}).config_digest != SlBasic().parse({"seed": 2}).config_digest


def test_each_default_is_one_that_the_training_settings_take() -> None:
    for config in (SupervisedConfig(), SlBasicConfig(), ChatSlConfig()):
        assert type(config).parse(config.model_dump(mode="json")) == config


# --- the package -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["sl_basic", "chat_sl"])
def test_a_recipe_is_a_module_that_runs(recipe: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"crucible_cookbook.recipes.{recipe}", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Run a recipe with settings" in done.stdout


def test_the_whole_cookbook_is_under_2000_lines() -> None:
    assert sum(len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")) < 2000


def test_preference_takes_upstreams_defaults_and_its_own_bundled_pairs() -> None:
    config = PreferenceConfig()
    assert (config.learning_rate, config.dpo_beta, config.batch_size, config.max_length) == (
        1e-5,
        0.1,
        256,
        8192,
    )
    assert (config.lora_rank, config.save_every, config.eval_every, config.lr_schedule) == (
        32,
        20,
        10,
        "linear",
    )
    experiment = Preference().parse({"model": "tiny", "data": {"path": "tiny"}, "batch_size": 8})
    assert experiment.dataset is not None
    assert experiment.eval_dataset is not None
    assert experiment.dataset.id.endswith("preference_train.jsonl")
    assert experiment.eval_dataset.id.endswith("preference_test.jsonl")
    assert experiment.workflow == "preference"


def test_distillation_names_its_teacher_and_trains_on_the_turn_it_wrote() -> None:
    experiment = Distillation().parse({"model": "tiny", "teacher": "tiny", "data": {"path": "tiny"}})
    stages = {node.name: node for node in experiment.pipeline if isinstance(node, StageDef)}
    assert stages["load_teachers"].options["teachers"][0]["model"].endswith("model")
    assert stages["build_source_datums"].options["train_on_what"] == "last_assistant_message"
    assert experiment.training is not None
    assert experiment.training.lora is not None
    assert experiment.training.lora.rank == 32


def test_sl_basic_takes_the_renderer_of_a_known_model_unless_one_is_named() -> None:
    def renderer(**given: str) -> dict[str, object]:
        return options_of(SlBasic().parse(given), "init_tokenizer")

    assert renderer() == {"renderer": "role_colon"}
    assert renderer(model="Qwen/Qwen3-4B-Instruct-2507") == {"renderer": "qwen3_instruct"}
    assert renderer(model="Qwen/Qwen3-8B-Base") == {"renderer": "role_colon"}
    assert renderer(model="Qwen/Qwen3-8B", renderer="llama3") == {"renderer": "llama3"}
    assert renderer(model="someone/else") == renderer(model="tiny") == {"renderer": "role_colon"}


def test_the_reduction_of_weights_reaches_the_datums() -> None:
    rows = SlBasic().parse({"model": "tiny", "data": {"path": "tiny"}, "reduction": "sum"})
    assert options_of(rows, "build_datums")["reduction"] == "none"
    given = {"model": "tiny", "teacher": "tiny", "dataset": "tiny", "reduction": "sum"}
    assert options_of(Distillation().parse(given), "build_source_datums")["reduction"] == "none"
    with pytest.raises(ConfigError, match="reduction: does nothing with mode=on_policy"):
        Distillation().parse({**given, "mode": "on_policy"})
