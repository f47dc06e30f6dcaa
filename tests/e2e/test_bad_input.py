"""A4: each wrong input is one clear sentence and a documented exit code, before anything heavy starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ExitCode


def write_rows(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def chat(question: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
    return json.dumps({"messages": messages})


def test_a_misspelt_key_is_named_with_the_nearest_one(crucible: Any) -> None:
    code, _, err = crucible("run", "sl_basic", "learning_rat=1e-3", "data.limt=3")
    assert code == ExitCode.USAGE
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in err
    assert "data.limt" in err
    assert "did you mean 'limit'?" in err


def test_a_batch_larger_than_the_data_names_both_numbers(crucible: Any, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "few.jsonl", [chat(f"Is {n} a number?") for n in range(5)])
    code, _, err = crucible(
        "run", "sl_basic", "model=tiny", f"data.path={data}", "data.eval_split=none", "batch_size=8"
    )
    assert code == ExitCode.USAGE
    assert "batch of 8 is larger than the 5 rows" in err
    assert "batch_size ≤ 5" in err
    assert not crucible.run_dirs()


def test_a_missing_model_is_named(crucible: Any) -> None:
    code, _, err = crucible("run", "sl_basic", "model=./no/such/folder", "data.path=tiny", "batch_size=8")
    assert code == ExitCode.NOT_FOUND
    assert "no/such/folder" in err
    assert len(err.strip().splitlines()) == 1


def test_a_server_looks_at_its_models_before_it_says_that_it_serves(crucible: Any, tmp_path: Path) -> None:
    code, out, err = crucible("serve", "tinker", "--model", f"Some/name={tmp_path}", "--port", "0")
    assert code == ExitCode.NOT_FOUND
    assert "holds no config.json" in err
    assert out == ""


def test_a_missing_dataset_is_named(crucible: Any) -> None:
    code, _, err = crucible("run", "sl_basic", "model=tiny", "data.path=./absent.jsonl", "batch_size=8")
    assert code == ExitCode.NOT_FOUND
    assert "absent.jsonl" in err


def test_an_unreadable_line_is_named_by_its_number(crucible: Any, tmp_path: Path) -> None:
    lines = [chat(f"Is {n} a number?") for n in range(9)]
    lines[6] = '{"messages": [{"role": "user", '
    data = write_rows(tmp_path / "broken.jsonl", lines)
    code, _, err = crucible(
        "run", "sl_basic", "model=tiny", f"data.path={data}", "data.eval_split=none", "batch_size=4"
    )
    assert code == ExitCode.DATA
    assert "broken.jsonl" in err
    assert "7" in err


def test_an_unknown_adapter_is_named_with_the_nearest_one(crucible: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "mine.toml"
    manifest.write_text('profile = "mine"\nextends = "offline"\n[ports.metrics_store]\nadapter = "sqlit"\n')
    code, _, err = crucible(
        "run", "sl_basic", "model=tiny", "data.path=tiny", "batch_size=8", "-m", str(manifest)
    )
    assert code == ExitCode.ADAPTER
    assert "'sqlit'" in err
    assert "did you mean 'sqlite'" in err


def test_an_unknown_recipe_verb_and_renderer_are_named(crucible: Any) -> None:
    code, _, err = crucible("run", "sl_basik")
    assert code == ExitCode.ADAPTER
    assert "did you mean 'sl_basic'" in err
    code, _, err = crucible("rum")
    assert code == ExitCode.USAGE
    assert "did you mean 'run'" in err
    code, _, err = crucible(
        "run", "sl_basic", "model=tiny", "data.path=tiny", "batch_size=8", "renderer=role_colom"
    )
    assert code == ExitCode.USAGE
    assert "did you mean 'role_colon'" in err


def test_errors_are_json_when_json_is_asked_for(crucible: Any) -> None:
    code, out, err = crucible("run", "sl_basic", "batch_size=0", "--json")
    assert code == ExitCode.USAGE
    assert out == ""
    body = json.loads(err)["error"]
    assert body["exit_code"] == ExitCode.USAGE
    assert [problem["path"] for problem in body["problems"]] == ["batch_size"]


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_named_and_an_older_one_goes_on(
    crucible: Any, small: tuple[str, ...]
) -> None:
    code, _, err = crucible("run", "sl_basic", *small, "save_every=4", "-q")
    assert code == 0, err
    (run_dir,) = crucible.run_dirs()
    log = run_dir / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    cut = max(n for n, line in enumerate(lines) if '"checkpoint.saved"' in line and "step_000008" in line)
    log.write_text("".join(lines[: cut + 1]))  # the process died right after its second checkpoint
    spoiled = next(path for path in (run_dir / "checkpoints" / "step_000008").glob("*.safetensors"))
    data = bytearray(spoiled.read_bytes())
    data[len(data) // 2] ^= 1
    spoiled.write_bytes(data)
    code, _, err = crucible("resume", run_dir.name, "-q")
    assert code == ExitCode.INTEGRITY
    assert spoiled.name in err
    assert "step_000004" in err
    code, _, err = crucible("resume", run_dir.name, "--checkpoint", "step_000004", "-q")
    assert code == 0, err


@pytest.mark.slow
def test_a_disk_that_refuses_a_checkpoint_fails_the_run_and_resume_finishes_it(
    crucible: Any, small: tuple[str, ...]
) -> None:
    process = crucible.start("run", "sl_basic", *small, "save_every=4", "-q", largest_file=200_000)
    _, err = process.communicate()
    assert process.returncode == ExitCode.STORAGE, err
    (run_dir,) = crucible.run_dirs()
    assert "step_000004" in err
    assert not [path for path in (run_dir / "checkpoints").iterdir() if not path.name.startswith(".")]
    shown = crucible.json("show", run_dir.name)["run"]
    assert shown["state"] == "failed"
    code, _, err = crucible("resume", run_dir.name, "-q")
    assert code == 0, err
    assert crucible.json("show", run_dir.name)["run"]["step"] == 12


def test_an_sdk_that_is_not_installed_is_named_with_the_remedy(crucible: Any, tmp_path: Path) -> None:
    hidden = tmp_path / "hide"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'datasets':\n"
        "            raise ModuleNotFoundError(\"No module named 'datasets'\", name='datasets')\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    words = ("run", "sl_basic", "model=tiny", "data.path=some/dataset", "batch_size=8", "-m", "dev")
    process = crucible.start(*words, path=hidden)
    _, err = process.communicate()
    assert process.returncode == ExitCode.ADAPTER, err
    assert "'huggingface' of crucible-kitchen" in err
    assert "datasets" in err
    assert "pip install 'crucible-kitchen[datasets]'" in err
    assert len(err.strip().splitlines()) == 1
