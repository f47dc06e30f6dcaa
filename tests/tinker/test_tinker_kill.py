"""A server of its own that is killed while the real SDK trains: the client goes on and never learns of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.sdk("tinker_cookbook"), pytest.mark.filterwarnings("ignore")]

STEPS = 30


@contextmanager
def serving(model: Path, state: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`crucible serve tinker` in a process of its own, and where it is."""
    words = [
        *(str(Path(sys.executable).parent / "crucible"), "serve", "tinker", "--model", f"Mini/mini={model}"),
        *("--port", str(port), "--state", str(state), "--json"),
    ]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(state)}
    ) as server:
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            assert server.stdout is not None
            lines.append(server.stdout.readline())
            assert lines[-1], "the server ended"
        try:
            yield server, json.loads("".join(lines))["url"]
        finally:
            server.kill()


def batch(step: int) -> list[Any]:
    import tinker

    rows = [[3 + (7 * step + 5 * row + place) % 500 for place in range(20)] for row in range(4)]
    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(row[:-1]),
            loss_fn_inputs={"target_tokens": row[1:], "weights": [1.0] * 19},
        )
        for row in rows
    ]


def trained(url: str, kill_at: int | None, again: Any) -> tuple[list[tuple[float, float]], list[int]]:
    """Losses and norms with three steps in flight, and what a sampler of step 5 says at the end."""
    import tinker

    service = tinker.ServiceClient(base_url=url)
    training = service.create_lora_training_client(base_model="Mini/mini", rank=4, seed=3).result()
    waiting, found, sampler = [], [], None
    for step in range(STEPS):
        waiting.append(
            (
                training.forward_backward(batch(step), "cross_entropy"),
                training.optim_step(tinker.AdamParams(learning_rate=1e-2)),
            )
        )
        if step == 5:
            sampler = training.save_weights_and_get_sampling_client().result()
        if step == kill_at:
            again()
        while len(waiting) > 3 or (step == STEPS - 1 and waiting):
            done, stepped = waiting.pop(0)
            metrics = stepped.result().metrics
            found.append((done.result().metrics["loss:sum"], metrics["unclipped_grad_l2:mean"]))
    prompt, params = tinker.ModelInput.from_ints([3, 5]), tinker.SamplingParams(max_tokens=8, seed=3)
    tokens = [int(token) for token in sampler.sample(prompt, 1, params).result().sequences[0].tokens]
    service.close("success").result()
    return found, tokens


def test_a_run_goes_on_through_a_kill_bit_for_bit(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-local-tests")
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    with serving(models["student"], tmp_path / "whole") as (_, url):
        wanted = trained(url, None, None)
    state, second = tmp_path / "killed", []
    with serving(models["student"], state) as (server, url):

        def again() -> None:
            server.send_signal(signal.SIGKILL)
            server.wait()
            place = serving(models["student"], state, int(url.rpartition(":")[2]))
            second.append(place)
            place.__enter__()

        try:
            found = trained(url, 23, again)
        finally:
            for place in second:
                place.__exit__(None, None, None)
    assert second
    assert found == wanted
