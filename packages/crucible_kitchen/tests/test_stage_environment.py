"""The code and the packages of a run are noted, once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crucible_ir import BackendRef, ConfigError, OutputSpec, digest_bytes, digest_of
from crucible_kitchen.api import Crucible
from crucible_kitchen.stages.capture_environment import CaptureEnvironment, code_revision, installed_packages
from crucible_kitchen.stages.keys import PROVENANCE
from crucible_testing.bench import StageBench, plant_bigram, toy_experiment


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.py").write_text("print(1)\n")
    git(folder, "add", "train.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_checkout_has_a_revision_and_no_patch(checkout: Path) -> None:
    assert code_revision(checkout) == (git(checkout, "rev-parse", "HEAD").strip(), "")


def test_uncommitted_changes_are_the_patch(checkout: Path) -> None:
    (checkout / "train.py").write_text("print(2)\n")
    _, patch = code_revision(checkout)
    assert "+print(2)" in patch


def test_a_folder_outside_of_git_has_no_revision(tmp_path: Path) -> None:
    assert code_revision(tmp_path) == (None, "")


def test_the_list_of_packages_names_this_one_with_its_version() -> None:
    packages = installed_packages()
    assert packages == sorted(set(packages))
    assert any(line.startswith("crucible-kitchen==") for line in packages)


def test_the_provenance_holds_digests_of_what_is_kept_in_the_folder(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "train.py").write_text("print(3)\n")
    monkeypatch.chdir(checkout)
    bench = StageBench(tmp_path / "run_1_00000000", toy_experiment(tmp_path))
    bench[PROVENANCE] = {}
    bench.run(CaptureEnvironment)
    found = bench[PROVENANCE]
    lines = (tmp_path / "run_1_00000000" / "environment.txt").read_text().splitlines()
    assert found["environment"]["digest"] == digest_of(lines)
    assert found["environment"]["packages"] == len(lines)
    _, patch = code_revision(checkout)
    assert found["code"]["patch"] == digest_bytes(patch.encode())
    assert (tmp_path / "run_1_00000000" / "code.diff").read_text() == patch
    assert found["backend"]["name"]


def test_what_a_run_began_with_is_not_noted_again(tmp_path: Path) -> None:
    bench = StageBench(tmp_path / "run_1_00000000", toy_experiment(tmp_path))
    bench[PROVENANCE] = {"environment": {"digest": "known"}}
    bench.run(CaptureEnvironment)
    assert bench[PROVENANCE] == {"environment": {"digest": "known"}}
    assert not (tmp_path / "run_1_00000000" / "environment.txt").exists()


def test_settings_that_nothing_acts_on_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    asked = toy_experiment(tmp_path).model_copy(update={"outputs": (OutputSpec(name="page"),)})
    assert isinstance(asked.backend, BackendRef)
    with pytest.raises(ConfigError, match="outputs: nothing acts on it in this version"):
        Crucible(tmp_path / "home").plan(asked)


def test_a_loss_that_conversations_cannot_serve_is_refused_by_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    with pytest.raises(ConfigError, match=r"training\.loss: "):
        Crucible(tmp_path / "home").plan(toy_experiment(tmp_path, loss="ppo"))
