"""One flow through whatever Tinker SDK is installed; prints as JSON what works of it.

    python flow_of_a_version.py URL MODEL

It uses no more than every version from 0.16 has, so it stands on its own.
"""

import importlib.metadata
import json
import logging
import os
import sys
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79]
found: dict[str, Any] = {"version": importlib.metadata.version("tinker")}


def awaited(value: Any) -> Any:
    """The result of a future; newer versions give one where older ones gave the thing itself."""
    return value.result() if hasattr(value, "result") else value


def step(name: str, work: Callable[[], Any]) -> Any:
    """Do a part of the flow and note whether it works."""
    try:
        value = work()
    except Exception as error:  # noqa: BLE001 - the next part may work all the same
        found[name] = f"{type(error).__name__}: {str(error)[:200]}"
        return None
    found[name] = "ok"
    return value


def main(url: str, model: str) -> None:
    os.environ.update(TINKER_API_KEY="tml-local-tests", TINKER_TELEMETRY="0", TINKER_BASE_URL=url)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import tinker
    from tinker import types

    datum = types.Datum(
        model_input=types.ModelInput.from_ints(TOKENS[:-1]),
        loss_fn_inputs={"target_tokens": TOKENS[1:], "weights": [1.0] * (len(TOKENS) - 1)},
    )
    service = step("session", tinker.ServiceClient)
    training = step(
        "create", lambda: awaited(service.create_lora_training_client(base_model=model, rank=4, seed=3))
    )

    def trained() -> list[float]:
        losses = []
        for _ in range(3):
            done = training.forward_backward([datum], "cross_entropy")
            training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
            losses.append(done.result().metrics["loss:sum"])
        return losses

    found["losses"] = step("train", trained)
    step("forward", lambda: training.forward([datum], "cross_entropy").result())
    path = step("save", lambda: training.save_state("a").result().path)

    def sampler_of() -> Any:
        make = training.save_weights_and_get_sampling_client
        return awaited(make() if found["version"] >= "0.2" else make(name="s"))

    sampler = step("sampler", sampler_of)
    prompt = types.ModelInput.from_ints(TOKENS[:3])
    params = types.SamplingParams(max_tokens=4, seed=1)
    sampled = step(
        "sample", lambda: sampler.sample(prompt=prompt, num_samples=2, sampling_params=params).result()
    )
    found["tokens"] = [[int(token) for token in s.tokens] for s in sampled.sequences] if sampled else None
    scored = step("logprobs", lambda: sampler.compute_logprobs(prompt).result())
    found["scored"] = [None if value is None else round(float(value), 4) for value in scored or []]

    def resumed() -> Any:
        make = getattr(
            service,
            "create_training_client_from_state_with_optimizer",
            service.create_training_client_from_state,
        )
        return awaited(make(path)).forward([datum], "cross_entropy").result()

    step("resume", resumed)
    rest = step("rest", lambda: awaited(service.create_rest_client()))
    step("list", lambda: awaited(rest.list_checkpoints(training.model_id)).checkpoints[0])
    if hasattr(rest, "get_checkpoint_archive_url_from_tinker_path"):

        def archive() -> None:
            url = awaited(rest.get_checkpoint_archive_url_from_tinker_path(path)).url
            assert urllib.request.urlopen(url).read(2) == b"\x1f\x8b"

        step("archive", archive)
    if hasattr(service, "close"):
        step("close", lambda: awaited(service.close("success")))


main(*sys.argv[1:])
print(json.dumps(found), flush=True)
os._exit(0)  # the SDK's own threads may wait for ever
