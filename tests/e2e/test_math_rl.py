"""math_rl as a user runs it: every named environment, real GSM8K, every mode twice, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_cookbook.data import PROBLEMS
from crucible_ir import ExitCode
from crucible_testing.hub import LocalHub
from crucible_testing.hub_problems import REPOSITORIES, repository_files

SMALL = (
    "model=tiny",
    "env=tiny",
    "groups_per_batch=4",
    "group_size=4",
    "max_tokens=6",
    "max_steps=3",
    "eval_limit=6",
    "eval_every=3",
    "save_every=2",
    "learning_rate=1e-3",
    "lora_rank=8",
    "dtype=float32",
)
"""Three iterations on the bundled sums."""


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        for repository in REPOSITORIES:
            hub.add(repository, repository_files(repository))
        yield hub


def run(hub: LocalHub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which takes this hub for the real one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "crucible_kitchen", "run", "math_rl", "-m", "dev", *words],
        capture_output=True,
        text=True,
        check=False,
        env=kept
        | {
            "CRUCIBLE_HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "hf"),
            "OMP_NUM_THREADS": "1",
        },
    )


# --- environments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["arithmetic", "tiny"])
def test_generated_and_bundled_sums_need_no_network(crucible: Any, env: str) -> None:
    plan = crucible.json("run", "math_rl", "model=tiny", f"env={env}", "--dry-run")
    assert "rollout" in plan["stages"]
    assert ("no_dataset" in plan["stages"]) is (env == "arithmetic")
    assert crucible.run_dirs() == []


@pytest.mark.slow
@pytest.mark.parametrize("env", PROBLEMS)
def test_every_named_environment_is_checked_against_its_dataset_before_a_run(
    crucible: Any, hub: LocalHub, env: str
) -> None:
    done = run(hub, crucible.home, "model=tiny", f"env={env}", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert ("evaluate_rollouts" in stages) is (env in ("gsm8k", "math"))


@pytest.mark.real
@pytest.mark.slow
def test_real_gsm8k_is_tried_and_judged_with_the_bundled_model(
    crucible: Any, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "datasets" / "gsm8k"
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n"
    card += "".join(f"  - split: {split}\n    path: main/{split}.jsonl\n" for split in ("train", "test"))
    files = {f"main/{split}.jsonl": (folder / f"{split}.jsonl").read_bytes() for split in ("train", "test")}
    with LocalHub() as hub:
        hub.add("openai/gsm8k", {"README.md": f"{card}---\n".encode(), **files})
        done = run(
            hub, crucible.home, "-q", "model=tiny", "env=gsm8k", "groups_per_batch=3", "group_size=2",
            "max_tokens=12", "max_steps=2", "eval_limit=4", "lora_rank=8", "dtype=float32",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run_dir,) = crucible.run_dirs()
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["metrics"]["env/all/total_episodes"] for row in rows[:2]] == [6, 6]
    assert {"test/env/all/correct", "test/env/all/format"} <= set(rows[0]["metrics"]) & set(
        rows[2]["metrics"]
    )
    (attempt, *_) = (run_dir / "rollouts" / "step_000000.jsonl").read_text().splitlines()
    (turn,) = json.loads(attempt)["turns"]
    real = {json.loads(line)["question"] for line in files["main/train.jsonl"].decode().splitlines()}
    suffix = " Write your answer in \\boxed{} format."
    assert turn["logs"]["question"].removesuffix(suffix) in real
    assert "How many r's are in strawberry?" in turn["observation"]
    assert turn["logs"]["verdict"] in ("correct", "incorrect", "cannot_judge")


# --- the same bytes in every mode ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        ("max_steps_off_policy=2", "loss=ppo"),
        ("stream_minibatches=2", "num_substeps=2", "kl_penalty_coef=0.1", "compute_post_kl=true"),
    ],
    ids=["ahead", "streamed"],
)
def test_every_mode_gives_the_same_bytes_twice(
    crucible: Any, rows: Callable[[Path], Any], weights: Callable[[Path], str], mode: tuple[str, ...]
) -> None:
    for _ in range(2):
        code, _, err = crucible("run", "math_rl", *SMALL, *mode, "-q")
        assert code == 0, err
    first, second = crucible.run_dirs()
    assert len(rows(first)) == 4
    assert rows(first) == rows(second)
    assert weights(first) == weights(second)
    for name in ("rollouts/step_000002.jsonl", "results/accuracy_000003.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.slow
def test_the_base_model_is_at_no_distance_from_itself_and_samples_as_it_trains(
    crucible: Any, rows: Callable[[Path], Any]
) -> None:
    code, _, err = crucible("run", "math_rl", *SMALL, "kl_penalty_coef=0.1", "compute_post_kl=true", "-q")
    assert code == 0, err
    (run_dir,) = crucible.run_dirs()
    first, second, _, _ = (row["metrics"] for row in rows(run_dir))
    assert first["kl_policy_base"] == pytest.approx(0, abs=1e-6)
    assert abs(second["kl_policy_base"]) > 1e-6
    assert first["kl_pre_post_v2"] > 1e-8
    for metrics in (first, second):
        assert metrics["optim/kl_sample_train_v2"] == pytest.approx(0, abs=1e-10)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_end(
    crucible: Any, rows: Callable[[Path], Any], weights: Callable[[Path], str]
) -> None:
    longer = (word for word in SMALL if not word.startswith(("max_steps", "save_every")))
    mode = ("stream_minibatches=2", "kl_penalty_coef=0.1")
    words = (*longer, "max_steps=6", "save_every=1", *mode, "-q")
    code, _, err = crucible("run", "math_rl", *words)
    assert code == 0, err
    (whole,) = crucible.run_dirs()
    process = crucible.start("run", "math_rl", *words)
    while process.poll() is None:
        killed = next((path for path in crucible.run_dirs() if path != whole), None)
        log = killed / "metrics.jsonl" if killed else None
        if log and log.exists() and log.read_bytes().count(b"\n") >= 2:
            process.kill()
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert killed is not None
    assert not (killed / "checkpoints" / "final").exists()
    code, _, err = crucible("resume", killed.name, "-q")
    assert code == 0, err
    assert rows(killed) == rows(whole)
    assert weights(killed) == weights(whole)
    for name in sorted(path.name for path in (whole / "rollouts").iterdir()):
        assert (killed / "rollouts" / name).read_bytes() == (whole / "rollouts" / name).read_bytes()


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("group_size=0",), ExitCode.USAGE, "group_size: should be greater than or equal to 1"),
        (("env=gsm8kk",), ExitCode.USAGE, "did you mean 'gsm8k'?"),
        (("env=sums",), ExitCode.USAGE, "names: arithmetic, tiny, gsm8k, math, deepmath, polaris"),
        (("env=./absent.jsonl",), ExitCode.NOT_FOUND, "absent.jsonl: no such file or folder"),
        (("env=absent.jsonl",), ExitCode.NOT_FOUND, "absent.jsonl"),
        (("loss=stable_reinforce",), ExitCode.USAGE, "stable_reinforce has no public formula"),
        (("loss=pp0",), ExitCode.USAGE, "did you mean 'ppo'?"),
        (("loss=dro",), ExitCode.USAGE, "dro needs beta"),
        (("stream_minibatches=2", "max_steps_off_policy=1"), ExitCode.USAGE, "exclude each other"),
        (("n_batches=5000",), ExitCode.USAGE, "held_out: training leaves fewer than 256 of the 10201 sums"),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_anything_runs(
    crucible: Any, words: tuple[str, ...], code: ExitCode, said: str
) -> None:
    found, out, err = crucible("run", "math_rl", "model=tiny", *words)
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert crucible.run_dirs() == []


def test_a_file_without_answers_is_told_which_column_it_lacks(crucible: Any, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "How much is 1 + 1?"}\n')
    code, _, err = crucible("run", "math_rl", "model=tiny", f"env={path}", "groups_per_batch=1")
    assert code == ExitCode.USAGE
    assert "mapping.fields.answer: schema 'problem' needs it" in err
    assert "there are: problem" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_file_of_problems_is_tried_without_held_out_ones(crucible: Any, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(
        "".join(f'{{"problem": "How much is {n} + 1?", "answer": "{n + 1}"}}\n' for n in range(4))
    )
    code, _, err = crucible(
        "run", "math_rl", "model=tiny", f"env={path}", "groups_per_batch=2", "group_size=2", "fewshot=false",
        "lora_rank=8", "dtype=float32", "-q",
    )  # fmt: skip
    assert code == 0, err
    shown = crucible.json("show", "last")["run"]
    assert (shown["state"], shown["step"]) == ("completed", 2)
    assert not [name for name in shown["metrics"] if name.startswith("test/")]


def test_without_the_judges_the_extra_that_brings_them_is_named(crucible: Any, tmp_path: Path) -> None:
    hidden = tmp_path / "hide"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'math_verify':\n"
        "            raise ModuleNotFoundError(\"No module named 'math_verify'\", name='math_verify')\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "How much is 1 + 1?", "answer": "2"}\n')
    process = crucible.start("run", "math_rl", "model=tiny", f"env={path}", "groups_per_batch=1", path=hidden)
    _, err = process.communicate()
    assert process.returncode == ExitCode.ADAPTER, err
    assert "'math' of crucible-kitchen" in err
    assert "pip install 'crucible-kitchen[math]'" in err
    assert len(err.strip().splitlines()) == 1
