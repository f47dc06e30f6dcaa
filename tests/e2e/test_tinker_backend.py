"""Recipes on the Tinker SDK against ``crucible serve tinker``: the same batches and numbers as on the engine itself."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crucible_tiny

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

KEY = "tml-a-key-for-tests"
WITHIN = 1e-5
"""Difference of every metric of every step, relative where it is greater than 1. A custom loss is computed by the SDK
between two passes there, so that float32 sums come in another order."""
RECIPES = {
    "sl_basic": (
        "data.path=tiny",
        "data.limit=64",
        "data.eval_limit=16",
        "batch_size=8",
        "eval_every=3",
        "sample_prompts=1",
    ),
    "preference": ("data.path=tiny", "data.limit=24", "data.eval_limit=8", "batch_size=4", "eval_every=2"),
    "math_rl": (
        "env=tiny",
        "groups_per_batch=4",
        "group_size=4",
        "max_tokens=6",
        "eval_limit=6",
        "eval_every=2",
    ),
}
_DISTILLED = ("teacher={model}", "data.path=tiny", "data.limit=24", "data.eval_limit=8", "eval_every=2")
PAIRED = {
    **{name: (name, *settings) for name, settings in RECIPES.items()},
    "soft targets": ("distillation", *_DISTILLED, "answers=given", "batch_size=4", "n_teacher_targets=5"),
    "on policy": (
        "distillation",
        *_DISTILLED,
        *("mode=on_policy", "groups_per_batch=2", "group_size=2", "max_tokens=6", "lora_rank=8"),
    ),
}
"""Recipes that run on both sides, each with its settings."""
CONFORMS = (
    "scores",
    "gradients.forward",
    "loss.custom",
    "policy.ppo",
    "models",
    "optimizer.betas",
    "state.resumed",
    "errors",
)
"""Checks and families that the server is held against in every test run; in the proof it is all of them."""
SHARED = ("max_steps=6", "save_every=3", "learning_rate=1e-3", "renderer=role_colon")


def started(state: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """A server over the bundled model in a process of its own, and its address."""
    model = f"Tiny/tiny={crucible_tiny.model_path()}"
    options = ("--port", str(port), "--json", "--state", str(state), "--api-key-env", "SERVER_KEY")
    process = subprocess.Popen(
        [sys.executable, "-m", "crucible_kitchen", "serve", "tinker", "--model", model, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"SERVER_KEY": KEY, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    told = ""
    while not told.endswith("}\n"):
        line = process.stdout.readline()
        assert line, "the server ended"
        told += line
    return process, json.loads(told)["url"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server for all tests."""
    process, url = started(tmp_path_factory.mktemp("server"))
    yield url
    process.terminate()
    process.communicate(timeout=60)
    gc.collect()  # the SDK forgets a connection whenever it opens a session; its warnings belong to this module


@pytest.fixture
def manifest(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A manifest that names the SDK as the training backend."""
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    path = tmp_path / "service.toml"
    path.write_text(
        f"""profile = "service"
extends = "offline"
[ports.training_backend]
adapter = "tinker"
[ports.training_backend.options]
base_url = "{server}"
api_key = {{ env = "TINKER_API_KEY" }}
local_files_only = true
prices = {{ "Tiny/tiny" = {{ train = 2.0, prefill = 0.5, sample = 1.0 }} }}
spending_cap_usd = 100.0
"""
    )
    return str(path)


def without_service(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Metrics of the rows but those that only a service has."""
    kept: list[dict[str, float]] = []
    for row in rows:
        kept.append(
            {name: value for name, value in row["metrics"].items() if not name.startswith("service/")}
        )
    return kept


def events_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["data"] for event in map(json.loads, lines) if event["type"] == kind]


def wait_for_rows(home: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run of ``home`` has logged ``count`` rows; ``process`` is still under way then."""
    while process.poll() is None:
        found = list(home.glob("runs/run_*/metrics.jsonl"))
        if found and found[0].read_bytes().count(b"\n") >= count:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("name", PAIRED)
def test_a_recipe_learns_the_same_through_the_service_as_on_the_engine(
    crucible: Any, manifest: str, rows: Callable[[Path], Any], name: str
) -> None:
    for model, *where in (["tiny"], ["Tiny/tiny", "-m", manifest]):
        recipe, *settings = (word.format(model=model) for word in PAIRED[name])
        code, _, err = crucible("run", recipe, f"model={model}", *settings, *SHARED, *where, "-q")
        assert code == 0, err
    engine, service = crucible.run_dirs()
    assert events_of(engine, "cost.reconciled") == []
    (cost,) = events_of(service, "cost.reconciled")
    last = [row["metrics"] for row in rows(service) if "service/usd" in row["metrics"]][-1]
    assert cost["used"]["tokens"]["trained"] == last["service/trained_tokens"] > 0
    assert cost["used"]["usd"] >= last["service/usd"]  # what comes after the last step is in it too
    assert ("usd" in cost["difference"]) == (name in ("sl_basic", "preference", "soft targets"))
    here, there = (without_service(rows(folder)) for folder in (engine, service))
    assert len(there) == len(here) >= 6
    for one, other in zip(here, there, strict=True):
        assert other == pytest.approx(one, rel=WITHIN, abs=WITHIN)


def test_the_server_conforms(crucible: Any, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", KEY)
    whole = os.environ.get("CRUCIBLE_CONFORMANCE") == "whole"
    only = [] if whole else [word for name in CONFORMS for word in ("--only", name)]
    report = crucible.json("conformance", server, "--api-key-env", "OTHER_KEY", *only)
    assert [check for check in report["checks"] if check["status"] != "passed"] == []
    assert (report["backend"], report["model"]) == ("tinker", "Tiny/tiny")
    assert report["passed"] > (50 if whole else 10)


def test_what_was_trained_is_counted_and_was_foreseen(
    crucible: Any, manifest: str, rows: Callable[[Path], Any]
) -> None:
    settings = (*RECIPES["sl_basic"], "learning_rate=1e-3", "renderer=role_colon")
    code, _, err = crucible("run", "sl_basic", "model=Tiny/tiny", *settings, "-m", manifest, "-q")
    assert code == 0, err
    (run_dir,) = crucible.run_dirs()
    last = [row["metrics"] for row in rows(run_dir) if "train_mean_nll" in row["metrics"]][-1]
    trained = last["tokens/cumulative/trained"]
    assert last["service/trained_tokens"] == trained
    (estimate,) = events_of(run_dir, "cost.estimated")
    assert estimate["tokens"]["trained"] == trained
    assert estimate["usd"] == pytest.approx(trained * 2.0 / 1e6)
    (cost,) = events_of(run_dir, "cost.reconciled")
    assert cost["difference"]["trained"] == 0.0
    assert cost["by_model"]["Tiny/tiny"]["tokens"]["scored"] > 0
    report = (run_dir / "report.md").read_text(encoding="utf-8")
    assert "expected cost: 0.0" in report
    assert f"cost: {cost['used']['usd']:.2f} USD ({int(trained):,} tokens trained" in report


def test_a_run_that_meets_its_cap_stops_before_the_call_and_goes_on_when_it_is_raised(
    crucible: Any, manifest: str, rows: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(manifest)
    text = path.read_text(encoding="utf-8").replace("train = 2.0", "train = 2.0, score = 0.0")
    path.write_text(text.replace("spending_cap_usd = 100.0", "spending_cap_usd = 0.005"), encoding="utf-8")
    settings = ("data.path=tiny", "data.limit=64", "batch_size=8", "save_every=2", "sample_prompts=0")
    words = ("model=Tiny/tiny", *settings, "data.eval_limit=8", "renderer=role_colon", "-m", manifest, "-q")
    code, _, err = crucible("run", "sl_basic", *words)
    assert (code, "set $CRUCIBLE_SPENDING_CAP_USD to more" in err) == (2, True), err
    (run_dir,) = crucible.run_dirs()
    (estimate,) = events_of(run_dir, "cost.estimated")
    spent = [row["metrics"]["service/usd"] for row in rows(run_dir)]
    assert 0 < spent[-1] <= 0.005 < estimate["usd"]
    monkeypatch.setenv("CRUCIBLE_SPENDING_CAP_USD", "100")
    code, _, err = crucible("resume", run_dir.name, "-q")
    assert code == 0, err
    assert [row["step"] for row in rows(run_dir)] == list(range(9))
    (cost,) = events_of(run_dir, "cost.reconciled")
    assert cost["used"]["tokens"]["trained"] == estimate["tokens"]["trained"]
    assert events_of(run_dir, "run.resumed")[-1]["step"] == 4


def test_a_killed_run_goes_on_from_the_services_checkpoint(
    crucible: Any, manifest: str, rows: Callable[[Path], Any], tmp_path: Path
) -> None:
    settings = (
        "model=Tiny/tiny",
        *RECIPES["sl_basic"],
        "save_every=2",
        "renderer=role_colon",
        "-m",
        manifest,
    )
    code, _, err = crucible("run", "sl_basic", *settings, "-q")
    assert code == 0, err
    (whole,) = crucible.run_dirs()
    crucible.home = tmp_path / "killed"
    process = crucible.start("run", "sl_basic", *settings, "-q")
    wait_for_rows(crucible.home, 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (run_dir,) = crucible.run_dirs()
    assert events_of(run_dir, "checkpoint.saved")[0]["checkpoint"]["path"].startswith("tinker://")
    resumed = crucible.start("resume", run_dir.name, "-q")
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    for one, other in zip(without_service(rows(whole)), without_service(rows(run_dir)), strict=True):
        assert other == pytest.approx(one, rel=WITHIN, abs=WITHIN)


def test_a_run_outlives_the_death_of_its_server(
    crucible: Any, manifest: str, server: str, rows: Callable[[Path], Any], tmp_path: Path
) -> None:
    settings = (
        "model=Tiny/tiny",
        *RECIPES["sl_basic"],
        "epochs=2",
        "renderer=role_colon",
        "-m",
        manifest,
    )
    code, _, err = crucible("run", "sl_basic", *settings, "-q")
    assert code == 0, err
    (whole,) = crucible.run_dirs()

    mortal, url = started(tmp_path / "mortal")
    path = Path(manifest)
    path.write_text(path.read_text(encoding="utf-8").replace(server, url), encoding="utf-8")
    crucible.home = tmp_path / "second"
    process = crucible.start("run", "sl_basic", *settings, "-q")
    wait_for_rows(crucible.home, 4, process)
    mortal.kill()
    mortal.communicate()
    immortal, again = started(tmp_path / "mortal", port=int(url.rpartition(":")[2]))
    assert again == url
    _, err = process.communicate(timeout=300)
    immortal.terminate()
    immortal.communicate(timeout=60)
    assert process.returncode == 0, err
    (run_dir,) = crucible.run_dirs()
    assert without_service(rows(run_dir)) == without_service(rows(whole))


def test_a_loss_that_the_service_lacks_is_refused_before_anything_is_spent(
    crucible: Any, manifest: str
) -> None:
    text = Path(manifest).read_text(encoding="utf-8") + 'lacks = ["ppo"]\n'
    Path(manifest).write_text(text, encoding="utf-8")
    words = ("model=Tiny/tiny", *RECIPES["math_rl"], *SHARED, "loss=ppo", "-m", manifest, "--dry-run")
    code, _, err = crucible("run", "math_rl", *words)
    assert code == 2
    assert "the backend has no loss 'ppo'" in err
    code, _, err = crucible("run", "math_rl", *words[:-1], "lora_alpha=8")
    assert code == 2
    assert crucible.run_dirs() == []


def test_an_adapter_trained_on_the_service_comes_home_equal_to_the_engines_own(
    crucible: Any, manifest: str, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    settings = (*RECIPES["sl_basic"], *SHARED)
    for model, *where in (["tiny"], ["Tiny/tiny", "-m", manifest]):
        code, _, err = crucible("run", "sl_basic", f"model={model}", *settings, *where, "-q")
        assert code == 0, err
    found = []
    for run_dir in crucible.run_dirs():
        to = tmp_path / f"adapter-{run_dir.name}"
        code, _, err = crucible("export", run_dir.name, str(to), "--weights", "step_000006", "--adapter")
        assert code == 0, err
        assert (to / "adapter_config.json").is_file()
        found.append(load_file(to / "adapter_model.safetensors"))
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, atol=WITHIN)
    assert any(np.abs(values).max() > 100 * WITHIN for values in found[0].values())
