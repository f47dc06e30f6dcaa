"""Training through ``crucible serve tinker`` and the Tinker SDK against the same engine in the caller's own process.

    python benchmarks/tinker_server.py --threads 1 --rounds 5
    python benchmarks/tinker_server.py --threads 2 --tokens 4096 --out figures.json

A Qwen3 of 30 million random parameters, LoRA of rank 32, batches of at least 2,000 tokens of which a third has a
weight, ``forward_backward`` and ``optim_step`` of the next batch submitted before the last one is awaited. Three
processes stand ready: the SDK's client (whose server is a fourth), the engine as the server uses it (log-probabilities
at every position) and the engine by its own defaults (only where a weight is). Each takes its block of steps in turn;
the order turns from round to round. A block's figures are tokens per wall second and tokens per second of processor
time, where that of the client and of its server count together. The ratios are of blocks of one round; their median is
told with the lowest and highest, and beside it the ratio of all rounds together. On a CPU losses must be the same bit
for bit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VOCABULARY, LENGTH, BATCHES = 8192, 160, 8
RANK, RATE, EPS, SEED = 32, 1e-4, 1e-8, 7
NAME = "Bench/qwen3-30m"
EVERYWHERE, DEFAULT = "engine, every position", "engine, by default"
FIRST = 2
"""Steps of every side that are not counted."""
Row = tuple[list[int], list[int], list[float]]
"""Tokens, targets and weights of one datum."""


class Block(NamedTuple):
    """Wall and processor seconds of one block of steps, and its losses."""

    wall_s: float
    processor_s: float
    losses: list[float]


def random_model(folder: Path, layers: int) -> Path:
    """The model: 3 million parameters in each layer, 4 million in the (tied) embedding."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def batches(tokens: int) -> list[list[Row]]:
    """Some batches of at least ``tokens`` tokens, of sequences that differ in length; two thirds have weight 0."""
    rng = np.random.Generator(np.random.PCG64(0))
    made = []
    for _ in range(BATCHES):
        rows: list[Row] = []
        while sum(len(row[0]) for row in rows) < tokens:
            ids = rng.integers(5, VOCABULARY, int(rng.integers(LENGTH // 2, 2 * LENGTH))).tolist()
            weights = (np.arange(len(ids) - 1) >= 2 * len(ids) // 3).astype(float).tolist()
            rows.append((ids[:-1], ids[1:], weights))
        made.append(rows)
    return made


def steps_in_turn(begin: Callable[[int], Callable[[], float]], first: int, count: int) -> list[float]:
    """Steps ``first`` and following, each begun before the one before it is awaited; their losses."""
    waiting: deque[Callable[[], float]] = deque()
    losses = []
    for number in range(first, first + count):
        waiting.append(begin(number))
        if len(waiting) > 1:
            losses.append(waiting.popleft()())
    return losses + [end() for end in waiting]


def through_the_sdk(url: str, data: list[list[Row]]) -> Callable[[int], Callable[[], float]]:
    """Begins a step with the real SDK."""
    import tinker

    client = tinker.ServiceClient(base_url=url, api_key="tml-for-the-benchmark")
    model = client.create_lora_training_client(NAME, rank=RANK, seed=SEED).result()
    kinds = tinker.types
    ready = [
        [
            kinds.Datum(
                model_input=kinds.ModelInput.from_ints(tokens),
                loss_fn_inputs={
                    "target_tokens": kinds.TensorData.from_numpy(np.asarray(targets)),
                    "weights": kinds.TensorData.from_numpy(np.asarray(weights, dtype=np.float32)),
                },
            )
            for tokens, targets, weights in rows
        ]
        for rows in data
    ]

    def begin(number: int) -> Callable[[], float]:
        passed = model.forward_backward(ready[number % len(ready)], "cross_entropy")
        stepped = model.optim_step(kinds.AdamParams(learning_rate=RATE, eps=EPS))

        def end() -> float:
            stepped.result()
            return float(passed.result().metrics["loss:sum"])

        return end

    return begin


def in_process(
    options: dict[str, Any], model: str, data: list[list[Row]]
) -> Callable[[int], Callable[[], float]]:
    """Begins a step with the engine itself."""
    from crucible_torch import LocalBackend
    from crucible_train.ports import TrainingSpec
    from crucible_train.types import AdamParams, Datum, LoraConfig, ModelInput, TensorData

    backend = LocalBackend(**options)
    lora = LoraConfig(rank=RANK, seed=SEED)
    spec = TrainingSpec(base_model=model, lora=lora, seed=SEED, checkpoint_dir=Path(model).parent / "unused")
    client = asyncio.run(backend.create_training_client(spec))
    ready = [
        [
            Datum(
                ModelInput.from_ints(tokens),
                {"target_tokens": TensorData.of(targets), "weights": TensorData.of(weights, dtype="float32")},
            )
            for tokens, targets, weights in rows
        ]
        for rows in data
    ]

    def begin(number: int) -> Callable[[], float]:
        passed = client.forward_backward(ready[number % len(ready)], "cross_entropy")
        stepped = client.optim_step(AdamParams(learning_rate=RATE, eps=EPS))

        def end() -> float:
            stepped.result()
            return float(passed.result().metrics["loss:sum"])

        return end

    return begin


def stand_ready(pipe: Connection, make: Callable[..., Any], words: tuple[Any, ...]) -> None:
    """A process of its own: does blocks of steps as it is told, until it is told nothing."""
    begin = make(*words)
    pipe.send("ready")
    first = 0
    while count := pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        losses = steps_in_turn(begin, first, count)
        pipe.send(Block(time.perf_counter() - wall, time.process_time() - processor, losses))
        first += count
    os._exit(0)  # the SDK's threads would keep the process for a while


class Side:
    """One way to train, in a process of its own; ``server`` is the process whose time counts too."""

    def __init__(self, make: Callable[..., Any], *words: Any, server: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._server = server
        self._process = context.Process(target=stand_ready, args=(theirs, make, words), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def block(self, count: int) -> Block:
        """``count`` more steps."""
        before = self._servers_s()
        self._pipe.send(count)
        block: Block = self._pipe.recv()
        return block._replace(processor_s=block.processor_s + self._servers_s() - before)

    def close(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self._process.join(30)

    def _servers_s(self) -> float:
        if self._server is None:
            return 0.0
        fields = Path(f"/proc/{self._server}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(model: Path, folder: Path, options: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The server as a user starts it; gives its address and process."""
    words = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
    port = '[ports.training_backend]\nadapter = "local"\n\n[ports.training_backend.options]\n'
    manifest = folder / "bench.toml"
    manifest.write_text(f'profile = "bench"\nextends = "offline"\n\n{port}{words}', encoding="utf-8")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "crucible_kitchen", "serve", "tinker", "--json", "--port", "0"),
            *("--model", f"{NAME}={model}", "--state", str(folder / "state"), "-m", str(manifest)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the server ended")
            told += line
        yield json.loads(told)["url"], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def figures(found: dict[str, list[Block]], tokens: list[int]) -> dict[str, Any]:
    """Rates of every side, and the server's against each of the others, round by round."""

    def rates(name: str, field: str) -> list[float]:
        return [total / getattr(block, field) for block, total in zip(found[name], tokens, strict=True)]

    told: dict[str, Any] = {}
    seconds = {name: [block._asdict() for block in blocks] for name, blocks in found.items()}
    for field, unit in (("wall_s", "tokens_per_second"), ("processor_s", "tokens_per_processor_second")):
        for name in found:
            told.setdefault(name, {})[unit] = spread(rates(name, field))
        for other in (EVERYWHERE, DEFAULT):
            pairs = zip(rates("server", field), rates(other, field), strict=True)
            ratios = spread([a / b for a, b in pairs])
            ratios["of_all_rounds"] = sum(b[field] for b in seconds[other]) / sum(
                b[field] for b in seconds["server"]
            )
            told.setdefault(f"server against {other}", {})[unit] = ratios
    return told


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of all rounds."""
    data = batches(options.tokens)
    engine = {"device": options.device, "num_threads": options.threads, "local_files_only": True}
    engine |= {"dtype": options.dtype} if options.dtype else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(folder / "model", options.layers)
        with served(model, folder, engine) as (url, server):
            sides = {
                "server": Side(through_the_sdk, url, data, server=server),
                EVERYWHERE: Side(in_process, {**engine, "logprobs_at": "all"}, str(model), data),
                DEFAULT: Side(in_process, engine, str(model), data),
            }
            for side in sides.values():
                side.block(FIRST)
            found = rounds(sides, options)
            for side in sides.values():
                side.close()
    sizes = [sum(len(row[0]) for row in rows) for rows in data]
    starts = [FIRST + turn * options.steps for turn in range(options.rounds)]
    tokens = [sum(sizes[step % BATCHES] for step in range(start, start + options.steps)) for start in starts]
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    return {
        "settings": {**settings, "tokens_of_a_request": [min(sizes), max(sizes)]},
        **figures(found, tokens),
    }


def rounds(sides: dict[str, Side], options: argparse.Namespace) -> dict[str, list[Block]]:
    """Blocks of every side, taken in turn; each round is told on standard error as it ends.

    Raises:
        SystemExit: the server's losses are not those of the engine.
    """
    found: dict[str, list[Block]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(sides[name].block(options.steps))
        last = {name: blocks[-1] for name, blocks in found.items()}
        took = {name: [round(block.wall_s, 2), round(block.processor_s, 2)] for name, block in last.items()}
        sys.stderr.write(f"round {turn + 1}, wall and processor seconds: {json.dumps(took)}\n")
        if options.device == "cpu" and any(block.losses != last["server"].losses for block in last.values()):
            raise SystemExit("the server's losses are not the engine's")
    return found


def main(arguments: list[str]) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="optimiser steps of a block")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a request, at least")
    parser.add_argument(
        "--layers", type=int, default=8, help="less than 8 make what is not the engine's plain"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--out", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "TINKER_TELEMETRY": "0"}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process of ours stays
    text = json.dumps(measured(options), indent=2)
    sys.stdout.write(text + "\n")
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
