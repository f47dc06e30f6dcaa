"""The build script in a process of its own: the same command twice writes the same weights; importing needs no SDK."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[1] / "build" / "build.py"


def built_weights(folder: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, str(BUILD), "--steps", "2", "--out", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    weights = (folder / "model" / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), done.stdout


@pytest.mark.slow
def test_the_same_build_twice_writes_the_same_weights_and_says_its_loss(tmp_path: Path) -> None:
    first, said = built_weights(tmp_path / "one")
    second, _ = built_weights(tmp_path / "two")
    assert first == second
    assert "final loss" in said


def test_importing_the_package_brings_in_no_model_library() -> None:
    code = "import sys, crucible_tiny; print({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
