"""Upstream's unmodified training loops against our server: what they ask is what the record says, and they learn."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.sdk("tinker_cookbook"), pytest.mark.filterwarnings("ignore")]

EXACT = ("sl", "rl", "rl_sub", "rl_kl", "rl_rm", "rl_cispo", "off_policy")
OF_OTHER_DATA = ("dpo", "on_policy")  # the record does not tell which pairs and prompts it was made with
AS_THEY_FINISH = ("rl_stream", "rl_async")  # groups are trained in the order in which they finish


def sorted_settings(line: str) -> str:
    """A line with the settings of its loss in the order of their names."""
    head, found, settings = line.partition(" cfg={")
    return f"{head} cfg={','.join(sorted(settings.strip('}').split(', ')))}" if found else line


def without_sizes(line: str) -> str:
    return re.sub(r"tokens=\d+|shape0=\[[\d, ]+\]", "*", line)


def as_sampled_with_any_loss(line: str) -> str:
    """A line of the record, which had stable_reinforce, as it is with importance_sampling."""
    return line.replace("stable_reinforce", "importance_sampling").replace(
        "stability=True", "stability=False"
    )


def counted(lines: list[str]) -> Counter[str]:
    """How often each line stands, runs of equal ones taken apart."""
    counts: Counter[str] = Counter()
    for line in lines:
        text, times, number = line.rpartition(" x")
        if times and number.isdigit():
            counts[text] += int(number)
        else:
            counts[line] += 1
    return counts


def run(name: str, models: dict[str, Path], live: Any, log: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import upstream

    named = {key: str(path) for key, path in models.items()}
    upstream.run(name, named, log)
    return upstream.said(live.noted.asked, named), upstream.metrics_of(log)


def test_every_recorded_flow_is_run(traces: dict[str, Any]) -> None:
    import upstream

    assert {*EXACT, *OF_OTHER_DATA, *AS_THEY_FINISH} == set(upstream.FLOWS) == set(traces) - {"header"}


@pytest.mark.parametrize("name", EXACT)
def test_a_loop_asks_what_was_recorded_request_by_request(
    name: str, models: dict[str, Path], live: Any, traces: dict[str, Any], tmp_path: Path
) -> None:
    asked, metrics = run(name, models, live, tmp_path / "log")
    wanted = traces[name]["requests"]
    assert [*map(sorted_settings, asked)] == [*map(sorted_settings, wanted)]
    assert {key for row in metrics for key in row} == set(traces[name]["metric_names"])


@pytest.mark.parametrize("name", OF_OTHER_DATA)
def test_a_loop_over_other_data_asks_the_same_but_for_its_sizes(
    name: str, models: dict[str, Path], live: Any, traces: dict[str, Any], tmp_path: Path
) -> None:
    asked, metrics = run(name, models, live, tmp_path / "log")
    wanted = traces[name]["requests"]
    assert [*map(without_sizes, asked)] == [*map(without_sizes, wanted)]
    assert {key for row in metrics for key in row} == set(traces[name]["metric_names"])


@pytest.mark.parametrize("name", AS_THEY_FINISH)
def test_a_loop_that_trains_groups_as_they_finish_asks_as_often(
    name: str, models: dict[str, Path], live: Any, traces: dict[str, Any], tmp_path: Path
) -> None:
    asked, metrics = run(name, models, live, tmp_path / "log")
    found = counted([without_sizes(line) for line in asked])
    wanted = counted([without_sizes(as_sampled_with_any_loss(line)) for line in traces[name]["requests"]])
    for counts in (found, wanted):  # the numbers of samplers follow the order too
        for line in [line for line in counts if line.startswith("GET samplers/")]:
            counts["GET samplers"] += counts.pop(line)
    assert found == wanted
    assert {key for row in metrics for key in row} == set(traces[name]["metric_names"])


def test_the_checkpoints_of_a_run_are_those_of_the_record_and_can_be_resumed(
    models: dict[str, Path], live: Any, traces: dict[str, Any], tmp_path: Path
) -> None:
    import json

    import tinker

    run("sl", models, live, tmp_path / "log")
    lines = (tmp_path / "log" / "checkpoints.jsonl").read_text(encoding="utf-8").splitlines()
    saved = [json.loads(line) for line in lines]
    assert [item["name"] for item in saved] == [item["name"] for item in traces["sl"]["checkpoints"]]
    client = tinker.ServiceClient()
    training = client.create_training_client_from_state_with_optimizer(saved[-1]["state_path"]).result()
    sampler = client.create_sampling_client(model_path=saved[-1]["sampler_path"]).result()
    tokens = list(range(3, 30))
    scored = sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens)).result()
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )
    output = training.forward([datum], "cross_entropy").result()
    assert output.metrics["loss:sum"] == pytest.approx(-sum(scored[1:]), rel=1e-5)


def test_supervised_training_and_sampling_agree_on_every_log_probability(
    models: dict[str, Path], live: Any, tmp_path: Path
) -> None:
    _, metrics = run("rl", models, live, tmp_path / "log")
    gaps = [row["optim/kl_sample_train_v1"] for row in metrics if "optim/kl_sample_train_v1" in row]
    assert len(gaps) >= 5
    assert max(map(abs, gaps)) < 1e-5
