"""``crucible conformance`` passes on the local engine, and sees each planted fault with the checks that name it alone.

``CRUCIBLE_CONFORMANCE=whole`` plants every fault and runs every check each time; otherwise checks that a fault cannot
reach are left out, and the faults are those that servers have had.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.conformance.bench import Bench, BenchSettings
from crucible_kitchen.conformance.suite import CHECKS, Result, run_checks, select
from crucible_testing.faults import FAULTS, Fault
from crucible_torch import LocalBackend
from crucible_train.ports import TrainingBackend

pytestmark = pytest.mark.slow

WHOLE = os.environ.get("CRUCIBLE_CONFORMANCE") == "whole"
OFTEN = (
    "seeds ignored",
    "adapter not applied by the sampler",
    "log-probabilities at the sampling temperature",
    "prompt log-probabilities one short",
    "forward accumulates gradients",
    "weights normalised away",
    "mask shifted by one",
    "no bias correction",
    "optimiser state not loaded",
    "one model leaks into another",
)
SAMPLERS = ("sampling", "scores", "models.learns", "adapter")
"""What samplers can be seen in; everything else never opens one."""
TRAINERS = tuple(sorted({check.family for check in CHECKS.values()} - {"sampling"}))
CONFIG = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen3 of one narrow layer with random weights, without a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **CONFIG))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    folder = tmp_path_factory.mktemp("micro")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalBackend]:
    backend = LocalBackend(device="cpu", num_threads=1, local_files_only=True)
    yield backend
    asyncio.run(backend.close())


def results_of(backend: Any, model: str, folder: Path, only: tuple[str, ...] = ()) -> list[Result]:
    typed: TrainingBackend = backend
    bench = Bench(typed, typed.capabilities(), BenchSettings(model=model, folder=folder))

    async def work() -> list[Result]:
        return await run_checks(bench, select(only), timeout_s=300, told=lambda _: None)

    return asyncio.run(work())


def test_the_local_engine_passes_every_check(engine: LocalBackend, micro: str, tmp_path: Path) -> None:
    results = results_of(engine, micro, tmp_path)
    assert [(one.check.id, one.found, one.reason) for one in results if one.status != "passed"] == []
    assert len(results) == len(CHECKS) > 50


@pytest.mark.parametrize("name", FAULTS if WHOLE else OFTEN)
def test_a_fault_is_seen_by_the_checks_that_name_it_and_by_no_other(
    engine: LocalBackend, micro: str, tmp_path: Path, name: str
) -> None:
    fault: Fault = FAULTS[name]
    only = () if WHOLE else SAMPLERS if fault.of_sampler else TRAINERS
    results = results_of(fault.backend(engine), micro, tmp_path, only)
    failed = {one.check.id: one for one in results if one.status == "failed"}
    assert set(failed) == fault.seen_by
    assert all(one.expected and one.found and one.diagnosis for one in failed.values())
    left_out = [one for one in results if one.status == "not_run"]
    assert all("which did not pass" in one.reason for one in left_out)


def test_the_command_prints_a_line_for_each_check_and_a_table(crucible: Any, micro: str) -> None:
    code, out, err = crucible(
        "conformance", "offline", "--model", micro, "--only", "gradients", "--only", "scores.prompt"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["ok", "scores.prompt"]
    assert "gradients  4       0       0" in lines
    assert lines[-1] == f"offline (local, {micro}): 5 passed, 0 failed, 0 not run"
