"""The conformance suite's own rules: order, what is left out and why, errors, time limits; and the verb."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_ir import ConfigError, ServiceError
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.main import main
from crucible_kitchen.conformance.bench import Bench, BenchSettings, gradient_norm
from crucible_kitchen.conformance.check import Check, Mismatch, NotRun
from crucible_kitchen.conformance.compare import distance
from crucible_kitchen.conformance.optimizers import moments
from crucible_kitchen.conformance.suite import CHECKS, Result, run_checks, select
from crucible_testing.backend import BigramBackend, write_bigram_model
from crucible_testing.bench import plant_bigram

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bigram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A manifest that names a training backend in numpy, and a model of it."""
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "bigram")))
    manifest = tmp_path / "bigram.toml"
    manifest.write_text('profile = "bigram"\n[ports.training_backend]\nadapter = "bigram"\n')
    return str(manifest), str(write_bigram_model(tmp_path / "model"))


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.setenv("CRUCIBLE_HOME", str(home))

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["conformance", *words])
        return code, *capsys.readouterr()

    return call


def bench_of(tmp_path: Path, **promises: Any) -> Bench:
    backend = BigramBackend()
    settings = BenchSettings(model=str(write_bigram_model(tmp_path / "model")), folder=tmp_path)
    return Bench(backend, replace(backend.capabilities(), **promises), settings)


def results_of(bench: Bench, *checks: Check, timeout_s: float = 60.0) -> list[Result]:
    heard: list[Result] = []
    results = asyncio.run(run_checks(bench, checks, timeout_s=timeout_s, told=heard.append))
    assert heard == results
    return results


def check(name: str, error: BaseException | None = None, **more: Any) -> Check:
    async def run(bench: Bench) -> str:
        if error is not None:
            raise error
        return "fine"

    return Check(id=name, title=name, tolerance="exact", run=run, **more)


def test_every_check_stands_behind_those_that_it_builds_on() -> None:
    seen: set[str] = set()
    for one in CHECKS.values():
        assert set(one.builds_on) <= seen, one.id
        assert one.title
        assert one.tolerance
        seen.add(one.id)


def test_a_backend_in_numpy_passes_the_checks_of_everything_that_it_has(tmp_path: Path) -> None:
    families = ("sampling", "scores", "models", "gradients", "loss", "policy", "adapter", "state")
    results = results_of(bench_of(tmp_path), *select((*families, "optimizer.betas", "optimizer.clip")))
    assert [(one.check.id, one.found) for one in results if one.status != "passed"] == []


@pytest.mark.parametrize(
    ("scales", "betas", "wanted"),
    [
        ((3.0,), (0.9, 0.95), (3.0, 3.0)),
        ((2.0, 2.0), (0.5, 0.5), (2.0, 2.0)),
        ((4.0, 1.0), (0.5, 0.9), (2.0, 2.8470)),
    ],
)
def test_moments_are_those_that_one_works_out_by_hand(
    scales: tuple[float, ...], betas: tuple[float, float], wanted: tuple[float, float]
) -> None:
    # (4, 1) with betas 0.5, 0.9: m = 2 → 1.5, over 1 − 0.25; v = 1.6 → 1.54, over 1 − 0.81
    assert moments(scales, *betas) == pytest.approx(wanted, abs=1e-4)


def test_what_the_backend_does_not_promise_is_not_run_and_says_so(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, losses=frozenset({"cross_entropy"}), custom_loss=False, prompt_logprobs=False)
    results = {
        one.check.id: one
        for one in results_of(bench, *select(("policy.ppo", "loss.custom", "scores.prompt")))
    }
    assert {one.status for one in results.values()} == {"not_run"}
    assert results["policy.ppo"].reason == "the backend does not promise ppo"
    assert results["loss.custom"].reason == "the backend does not promise custom_loss"
    assert results["scores.prompt"].reason == "the backend does not promise prompt_logprobs"


def test_a_check_on_ground_that_broke_is_not_run(tmp_path: Path) -> None:
    wrong = Mismatch(expected="1", found="2", diagnosis="twice as much")
    checks = (
        check("a.first", wrong),
        check("a.second", builds_on=("a.first",)),
        check("a.third", builds_on=("a.second",)),
        check("a.fourth"),
    )
    results = results_of(bench_of(tmp_path), *checks)
    assert [one.status for one in results] == ["failed", "not_run", "not_run", "passed"]
    assert results[2].reason == "builds on a.second, which did not pass"
    assert results[0].diagnosis == "twice as much"


def test_a_check_that_cannot_be_done_here_is_ground_for_others_all_the_same(tmp_path: Path) -> None:
    checks = (check("a.first", NotRun("no norm")), check("a.second", builds_on=("a.first",)))
    assert [one.status for one in results_of(bench_of(tmp_path), *checks)] == ["not_run", "passed"]


def test_errors_within_a_check_fail_it_and_the_others_go_on(tmp_path: Path) -> None:
    lost = ServiceError(what="lost", where="sample", remedy="again")
    results = results_of(bench_of(tmp_path), check("a.a", lost), check("a.b", KeyError("x")), check("a.c"))
    assert [one.status for one in results] == ["failed", "failed", "passed"]
    assert "lost" in results[0].found
    assert "KeyError" in results[1].found


def test_a_request_that_is_never_answered_fails_its_check(tmp_path: Path) -> None:
    async def hang(bench: Bench) -> str:
        await asyncio.Event().wait()
        return ""

    silent = Check(id="a.silent", title="silent", tolerance="exact", run=hang)
    results = results_of(bench_of(tmp_path), silent, check("a.b"), timeout_s=0.01)
    assert [one.status for one in results] == ["failed", "passed"]
    assert results[0].found == "no answer within 0.01 s"


def test_a_norm_is_found_under_the_names_that_servers_give_it() -> None:
    assert gradient_norm({"skyrl.ai/grad_norm": 2.0, "lr": 1.0}) == 2.0
    assert gradient_norm({"grad_norm": 3.0, "unclipped_grad_l2:mean": 4.0}) == 4.0
    with pytest.raises(NotRun, match="lr"):
        gradient_norm({"lr": 1.0})


def test_numbers_that_are_missing_or_not_finite_are_infinitely_far() -> None:
    one = np.zeros(3, dtype=np.float32)
    assert distance([one], [one]) == 0.0
    assert distance([one], [one[:2]]) == float("inf")
    assert distance([one], [np.array([0, np.nan, 0], dtype=np.float32)]) == float("inf")


def test_unknown_checks_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        select(("sampling.sed", "nonsense-of-all-kinds"))
    assert [problem.path for problem in caught.value.problems] == ["only", "only"]
    assert "sampling.seed" in str(caught.value.problems[0])


def test_the_verb_says_what_failed_and_what_that_means(say: Say, bigram: tuple[str, str]) -> None:
    manifest, model = bigram
    code, out, _ = say(manifest, "--model", model, "--only", "errors.empty", "--only", "loss.value")
    assert code == 1
    assert "ok       loss.value" in out
    assert "FAILED   errors.empty" in out
    assert "likely:    bad input is clamped, dropped or trained on in silence" in out
    assert out.splitlines()[-1].endswith("1 passed, 1 failed, 0 not run")


def test_with_json_there_is_one_document(say: Say, bigram: tuple[str, str]) -> None:
    manifest, model = bigram
    code, out, _ = say(manifest, "--model", model, "--only", "errors.empty", "--only", "loss.value", "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["ok"], report["passed"], report["failed"], report["not_run"]) == (False, 1, 1, 0)
    assert [item["id"] for item in report["checks"]] == ["loss.value", "errors.empty"]
    assert all(item["tolerance"] for item in report["checks"])


def test_the_checks_can_be_listed_without_a_target(say: Say) -> None:
    code, out, _ = say("--list", "--only", "policy", "--json")
    assert code == 0
    listed = json.loads(out)["checks"]
    assert [item["id"] for item in listed][:2] == ["policy.importance_sampling", "policy.ppo"]
    code, out, _ = say("--list")
    assert len(out.splitlines()) == len(CHECKS) + 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "give the address of a server"),
        (("MANIFEST",), 2, "--model"),
        (("MANIFEST", "--model", "nowhere"), 8, "nowhere"),
        (("MANIFEST", "--model", "MODEL", "--only", "samplng"), 2, "did you mean 'sampling'"),
        (("MANIFEST", "--model", "MODEL", "--tolerance", "0"), 2, "tolerance"),
        (("offlin", "--model", "MODEL"), 2, "did you mean 'offline'"),
    ],
)
def test_what_cannot_be_run_is_refused(
    say: Say, bigram: tuple[str, str], words: tuple[str, ...], code: int, told: str
) -> None:
    given = {"MANIFEST": bigram[0], "MODEL": bigram[1]}
    found, _, err = say(*(given.get(word, word) for word in words))
    assert found == code, err
    assert told in err


def test_a_caller_from_outside_names_no_address_and_no_file(home: Path, bigram: tuple[str, str]) -> None:
    outside = Crucible(home, environ={}, trusted=False)
    for target, model in (
        (bigram[0], "some/model"),
        ("http://127.0.0.1:1", "some/model"),
        ("offline", bigram[1]),
    ):
        with pytest.raises(ConfigError):
            outside.conformance(target, model=model)
