"""A trained model leaves Crucible: plain transformers and peft load it and agree with the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings", "ignore:.is_gradient_checkpointing."),
]


def test_exported_weights_give_the_held_out_loss_of_the_run(
    crucible: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import crucible_tiny

    code, _, err = crucible("run", "sl_basic", *small, "max_steps=6", "-q")
    assert code == 0, err
    for words in (("whole",), ("adapter", "--adapter")):
        code, _, err = crucible("export", "last", str(tmp_path / words[0]), *words[1:])
        assert code == 0, err
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(crucible_tiny.model_path(), dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    ids = torch.tensor([tokenizer.encode("User: Where is the cup?\n\nAssistant: Hoot")])
    with torch.no_grad():
        first, second = whole(ids).logits, adapted(ids).logits
    untrained = AutoModelForCausalLM.from_pretrained(crucible_tiny.model_path(), dtype=torch.float32)
    with torch.no_grad():
        before = untrained(ids).logits
    assert torch.allclose(first, second, atol=1e-4)
    assert not torch.allclose(first, before, atol=1e-1)

    code, _, err = crucible("export", "last", str(tmp_path / "whole"))
    assert code == ExitCode.CONFLICT
    code, _, err = crucible("export", "last", str(tmp_path / "other"), "--weights", "finale", "--json")
    assert code == ExitCode.NOT_FOUND
    assert "it has final" in json.loads(err)["error"]["what"]
