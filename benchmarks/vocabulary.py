"""LoRA training with a vocabulary of 151,936 at 4,096 tokens a step: tokens per second and peak memory.

    python -m benchmarks run vocabulary --rounds 1
    python -m benchmarks.vocabulary ours            one run of ours; `peer` is one of TRL, in its environment

The model is the yardstick's Qwen3 of 30 million parameters with the output layer of a real Qwen3 (78 million more). TRL
packs into rows of 512 with bfloat16 autocast and without checkpointing, its fastest setting. Ours also tells what the
output layer adds: peak memory of scoring as many positions as a step has, over what was resident before.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import neighbours, sft
from benchmarks.contest import Case, Contestant, Guard, Workload

__all__ = ["WORKLOAD", "cases", "main"]

SIZE, VOCABULARY = "30m152k", 151936
SHAPE = ("--size", SIZE, "--mode", "lora", "--batch", "24", "--steps", "3", "--warm", "1")
LABEL = "lora 152k"


def cases(labels: Sequence[str]) -> list[Case]:
    """The one case."""
    if set(labels) - {LABEL}:
        raise KeyError(next(iter(set(labels) - {LABEL})))
    python = neighbours.peer_python()
    peer = (str(python), "-m", "benchmarks.vocabulary", "peer", *SHAPE)
    peers = (
        ()
        if python is None
        else (
            Contestant(
                name="TRL",
                command=(*peer, "--batching", "pack", "--variant", "autocast"),
                folder=neighbours.ROOT,
            ),
        )
    )
    reference = neighbours.ours("benchmarks.vocabulary", *SHAPE, "--dtype", "float32", name="float32")
    return [
        Case(
            label=LABEL,
            contestants=(neighbours.ours("benchmarks.vocabulary", *SHAPE), *peers),
            guard=Guard(key="loss_last", band=sft.BAND, reference=reference),
        )
    ]


WORKLOAD = Workload(
    name="vocabulary",
    title="A large vocabulary",
    measure="tokens_per_cpu_s",
    unit="tokens per second of processor time",
    cases=cases,
    goals={"TRL": 1.5},
    also=("peak_rss_mb", "head_adds_mb"),
)


def _enlarge() -> None:
    """Give the yardstick a size with the large vocabulary; the scripts that import it see it too."""
    common = sft.yardstick()
    common.SIZES[SIZE] = {**common.SIZES["30m"], "vocab_size": VOCABULARY}


def head_adds(positions: int = 4096) -> float:
    """Mebibytes that scoring that many positions, with gradient, adds to what is resident."""
    import torch

    from crucible_torch.head import pieces_of, score
    from crucible_torch.location import locate
    from crucible_torch.model import load_model
    from crucible_torch.settings import EngineSettings

    files = locate(str(sft.model_folder(SIZE)))
    cpu = torch.device("cpu")
    model = load_model(files, digest="", device=cpu, dtype=torch.bfloat16, shared=True)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(positions, 512, generator=generator).bfloat16()
    targets = torch.randint(0, VOCABULARY, (positions, 1), generator=generator)
    pieces = pieces_of(positions, EngineSettings().rows_of_logits(VOCABULARY))
    score(
        model, states[:8], targets[:8], coefficients=lambda _, lp: -torch.ones_like(lp), pieces=[slice(0, 8)]
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmHWM")
    score(model, states, targets, coefficients=lambda _, lp: -torch.ones_like(lp), pieces=pieces)
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def _ours(options: argparse.Namespace) -> dict[str, Any]:
    figures = sft.run(options)
    return figures | {"head_adds_mb": head_adds()}


def main(arguments: Sequence[str]) -> int:
    """One run of ours or of the peer; its figures are the last line."""
    _enlarge()
    if arguments[0] == "peer":
        script = neighbours.floor_folder() / "peer_sft.py"
        sys.argv = [str(script), *arguments[1:]]
        runpy.run_path(str(script), run_name="__main__")
    else:
        sft.tell(_ours(sft.parsed(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
