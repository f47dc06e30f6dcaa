"""What our loop asks of a backend beside what upstream's asked of a service: order, Adam, batches, names of metrics.

``golden/reinforcement_traces.json`` holds upstream's requests of six runs. Both sides are read into the same words;
``DIFFERENCES`` says where ours does otherwise, and why.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crucible_testing.backend import BigramBackend, BigramSampler, BigramTraining
from crucible_testing.bench import plant_bigram
from crucible_testing.letter_runs import LetterRun, LetterRuns

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "reinforcement_traces.json").read_text(encoding="utf-8")
)

DIFFERENCES = {
    "a sampler after the last step": "upstream opens one; ours opens one when somebody samples, and nobody does",
    "the final state": "upstream saves the last state again as final; ours saves the last state once, and the weights",
    "a checkpoint and the scores after it": "upstream saves the state, then scores with it; ours scores, then saves",
    "a state before the first step": "upstream's asynchronous loop saves one; ours goes back to the base model",
    "sampling ahead": "upstream samples and trains as it comes; ours in a fixed order, so that a run can be repeated",
}
"""Of requests."""

LACKING = {
    "step": "the row has it beside its metrics",
    **dict.fromkeys(
        (f"tokens/discarded/{what}" for what in ("sampled", "prefill_cached", "prefill_uncached", "trained")),
        "rows count every attempt, removed or not; upstream's leave out removed groups and add them up here",
    ),
}
"""Names of metrics that upstream has and ours has not."""

STREAMED = {f"sampling_client/step_{what}" for what in ("min", "mean", "max")}
"""In a streamed iteration they are its own number: ours has them where they may differ."""

MORE = {
    "progress": "the name of every workflow here for progress/done_frac",
    "learning_rate": "the name of every workflow here for optim/lr",
    "progress/batch": "upstream's asynchronous loop has it not",
    "loss:sum": "what the backend says of the loss",
}
"""Names of metrics that ours has and upstream has not."""

COMMON: dict[str, Any] = {"evaluate": False, "log_groups": 0}
OURS: dict[str, dict[str, Any]] = {
    "rl": {},
    "rl_sub": {"options": {"num_substeps": 2, "compute_post_kl": True}, "loss": "ppo"},
    "rl_kl": {"options": {"kl_penalty_coef": 0.1}},
    "rl_rm": {"options": {"remove_constant_reward_groups": True}},
    "rl_stream": {"options": {"stream_minibatches": 2}},
    "rl_async": {"options": {"max_steps_off_policy": 2}},
}
"""Settings of each recorded run in ours."""


# --- theirs ----------------------------------------------------------------------------------------------------

_SETTING_UP = ("client/", "create_session", "create_model", "get_info", "sessions/", "GET samplers")


def theirs(name: str) -> list[str]:
    """Upstream's requests in the words of ``Asked``, repeated ones written out."""
    found: list[str] = []
    for line in GOLDEN[name]["requests"]:
        head, times = re.fullmatch(r"(.*?)(?: x(\d+))?", line).groups()  # type: ignore[union-attr]
        word = _word(head)
        found += [word] * int(times or 1) if word else []
    return found


def _word(line: str) -> str:
    if line.startswith(_SETTING_UP) or line.startswith("create_sampling_session base=None"):
        return ""  # how the service is set up, and the second half of opening a sampler there
    if line.startswith("create_sampling_session"):
        return "open base"
    if line.startswith("save_weights_for_sampler"):
        return "open sampler"
    if match := re.match(r"save_weights name=(\w+)", line):
        return f"save {match[1]}"
    if match := re.match(r"asample n=1 max_tokens=(\d+) T=(\S+) stop=(.*) prompt_logprobs=(\w+)", line):
        return "score" if match[4] == "True" else f"sample {match[1]} {match[2]} {match[3]}"
    if match := re.match(r"forward_backward\[(\w+)\] n=(\d+) .*keys=(\S+)", line):
        return f"train {match[1]} {match[2]} {match[3]}"
    assert line.startswith("optim_step"), line
    return line


def without_differences(words: list[str]) -> list[str]:
    """Upstream's words as ours would be, were it not for ``DIFFERENCES`` of requests."""
    end = words.index("save final")
    assert words[end:] == ["save final", "open sampler"]
    words = words[:end]
    if words[0] == "save 000000":
        words = words[1:]
    last = max(place for place, word in enumerate(words) if word == "save 000006")
    scored = words[last + 2 :]
    words = [*words[: last + 1], *(["open sampler"] if scored else []), *scored]
    return _scored_before_saving(words)


def _scored_before_saving(words: list[str]) -> list[str]:
    """``save, open, score …`` becomes ``open, score …, save``."""
    found: list[str] = []
    held: list[str] = []
    for place, word in enumerate(words):
        if word.startswith("save ") and words[place + 1 : place + 3] == ["open sampler", "score"]:
            held = [word]
            continue
        if held and word not in ("open sampler", "score"):
            found += held
            held = []
        found.append(word)
    return found + held


# --- ours ------------------------------------------------------------------------------------------------------


class Asked:
    """Requests of our runs to the backend, in the same words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: list[str] = []

        def note(kind: type[Any], method: str, word: Any) -> None:
            asked = getattr(kind, method)

            def noted(client: Any, *given: Any, **more: Any) -> Any:
                self.words.append(word(*given))
                return asked(client, *given, **more)

            monkeypatch.setattr(kind, method, noted)

        def keys(data: Any) -> str:
            (names,) = {tuple(sorted(datum.loss_fn_inputs)) for datum in data}
            return ",".join(names)

        open_base = BigramBackend.create_sampling_client

        async def opened(backend: BigramBackend, base_model: str, weights: Any = None) -> BigramSampler:
            self.words.append("open base")
            return await open_base(backend, base_model, weights)

        monkeypatch.setattr(BigramBackend, "create_sampling_client", opened)
        note(BigramTraining, "sampling_client", lambda: "open sampler")
        note(BigramTraining, "save_state", lambda name: f"save {name.removeprefix('step_')}")
        note(BigramSampler, "compute_logprobs", lambda _: "score")
        note(
            BigramSampler,
            "sample",
            lambda _, params: f"sample {params.max_tokens} {params.temperature} {list(params.stop)}",
        )
        note(
            BigramTraining,
            "forward_backward",
            lambda data, loss, _: f"train {loss} {len(data)} {keys(data)}",
        )
        note(
            BigramTraining,
            "optim_step",
            lambda adam: (
                f"optim_step lr={adam.learning_rate} b1={adam.beta1} b2={adam.beta2} eps={adam.eps} "
                f"wd={adam.weight_decay} clip={adam.grad_clip_norm}"
            ),
        )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LetterRuns:
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "site")))
    return LetterRuns(tmp_path)


def run(runs: LetterRuns, name: str) -> LetterRun:
    """The recorded plan: sums, 4 problems tried by 4, 5 tokens, 6 batches, a checkpoint every 2."""
    chosen = OURS[name]
    options = {
        **COMMON,
        "env": "arithmetic",
        "env_options": {"n_batches": 6},
        "group_size": 4,
        "max_tokens": 5,
        **chosen.get("options", {}),
    }
    return runs.run(
        options=options,
        loss=chosen.get("loss", "importance_sampling"),
        learning_rate=1e-4,
        schedule={"name": "constant"},
        save_every=2,
    )


# --- side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OURS if name != "rl_async"])
def test_requests_are_upstreams_in_upstreams_order(runs: LetterRuns, asked: Asked, name: str) -> None:
    run(runs, name)
    expected = without_differences(theirs(name))
    assert len(expected) > 6 * (16 + 3)
    assert asked.words == expected


def test_sampling_ahead_asks_for_the_same_and_lags_as_much(runs: LetterRuns, asked: Asked) -> None:
    left = run(runs, "rl_async")
    recorded = [
        word.replace("stable_reinforce", "importance_sampling")  # it has no public formula
        for word in without_differences(theirs("rl_async"))
    ]

    def only(words: list[str], *kinds: str) -> list[str]:
        return [word for word in words if word.startswith(kinds)]

    for kind in (("sample",), ("train", "optim_step", "save")):
        assert only(asked.words, *kind) == only(recorded, *kind)
    assert asked.words[:49] == recorded[:49] == ["open sampler", *["sample 5 1.0 ['\\n\\nUser:']"] * 48]
    for row in GOLDEN["rl_async"]["versions_per_step"]:
        for metric, value in row.items():
            if metric != "step":
                assert left.rows[row["step"]][1][metric] == value, (row["step"], metric)


@pytest.mark.parametrize("name", OURS)
def test_metrics_have_upstreams_names(runs: LetterRuns, name: str) -> None:
    left = run(runs, name)
    ours = {metric for _, metrics in left.rows for metric in metrics}
    recorded = set(GOLDEN[name]["metric_names"])
    lacking = set(LACKING) | (STREAMED if name == "rl_stream" else set())
    assert recorded - ours == lacking
    assert ours - recorded == set(MORE) - ({"progress/batch"} if name != "rl_async" else set())


def test_every_difference_of_requests_is_one(runs: LetterRuns) -> None:
    plain, scored, ahead = theirs("rl"), theirs("rl_sub"), theirs("rl_async")
    assert plain[-3:] == ["open sampler", "save final", "open sampler"]
    place = scored.index("save 000002")
    assert scored[place : place + 3] == ["save 000002", "open sampler", "score"]
    assert ahead[0] == "save 000000"
    trained = [place for place, word in enumerate(ahead) if word.startswith("train")]
    assert ahead[trained[1] - 1] == "open sampler"  # opened, and used only after the next pass
    assert len(DIFFERENCES) == 5
