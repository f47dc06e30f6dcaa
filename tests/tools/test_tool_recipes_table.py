"""tools/recipes_table.py: docs/parity.md says of upstream's recipes beside ours what the evidence says."""

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools")]

import recipes_table  # noqa: E402


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The page and the evidence, where they can be changed."""
    (tmp_path / recipes_table.EVIDENCE).mkdir(parents=True)
    shutil.copyfile(ROOT / recipes_table.PAGE, tmp_path / recipes_table.PAGE)
    for proof in recipes_table.PROOFS:
        name = recipes_table.EVIDENCE / f"{proof}.json"
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_page_says_what_the_evidence_says() -> None:
    now, wanted = recipes_table.page(ROOT)
    assert now == wanted, "run: make parity-table"


def test_every_recipe_took_fifty_steps_on_equal_batches() -> None:
    found = dict(recipes_table.flows(ROOT))
    recipes = {"sl_basic", "chat_sl", "preference", "math_rl", "distillation"}
    assert {figures["ours"][0] for figures in found.values()} == recipes
    assert len(found) == 9
    for name, figures in found.items():
        assert figures["optimiser_steps"] >= 50, name
        assert figures["equal_batches"] == figures["optimiser_steps"], name
        apart = figures["apart"] | figures["metrics"]["apart"]
        norms = [apart.pop(norm) for norm in ("gradient", "unclipped_grad_l2:mean") if norm in apart]
        assert max(norms) <= 1e-3, name
        assert max(apart.values()) <= 1e-4, name


def test_other_evidence_is_seen_and_written(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes_table.main(["check"], copy) == 0
    path = next((copy / recipes_table.EVIDENCE).glob("*.json"))
    evidence = json.loads(path.read_text(encoding="utf-8"))
    name, figures = next(iter(evidence["figures"]["flows"].items()))
    figures["datums"] = 987_654
    path.write_text(json.dumps(evidence), encoding="utf-8")
    assert recipes_table.main(["check"], copy) == 1
    assert "make parity-table" in capsys.readouterr().err
    assert recipes_table.main(["write"], copy) == 0
    assert "987654" in (copy / recipes_table.PAGE).read_text(encoding="utf-8")
    assert recipes_table.main(["check"], copy) == 0
    assert name
