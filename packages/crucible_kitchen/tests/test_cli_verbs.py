"""Every verb, in this process: what it prints, as text and as JSON, and its exit code."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import Contract, ExitCode, Experiment
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.config import explained
from crucible_kitchen.cli.main import main
from crucible_testing.bench import plant_bigram, toy_experiment

NESTED = '''
"""A recipe with nested settings."""
from pydantic import Field
from crucible_ir import Contract, Experiment, StageDef
from crucible_kitchen.recipes import Recipe

class Inner(Contract):
    limit: int | None = Field(default=None, description="How many\\nrows.")
    names: tuple[str, ...] = ()

class NestConfig(Contract):
    data: Inner = Inner()
    rate: float = 0.5
    must: str = "x"

class Nest(Recipe[NestConfig]):
    """Nest settings."""
    name = "nest"
    config_model = NestConfig
    def experiment(self, config):
        return Experiment(id=config.must, recipe="nest", pipeline=(StageDef(name="probe_begin"),))

class NoRecipe:
    """No recipe."""
'''


class Command:
    """The command over one home, as a user types it."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(words)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def ok(self, *words: str) -> str:
        code, out, err = self(*words)
        assert code == 0, err
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "--json"))

    def fails(self, *words: str) -> tuple[int, str]:
        code, out, err = self(*words)
        assert code != 0, out
        return code, err


@pytest.fixture
def crucible(home: Path, probe: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(home, capsys)


@pytest.fixture
def spec(tmp_path: Path, experiment: Callable[..., Experiment]) -> Callable[..., str]:
    def write(**options: Any) -> str:
        path = tmp_path / "experiment.json"
        path.write_text(experiment(**options).model_dump_json())
        return str(path)

    return write


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A supervised experiment over the bigram backend, as a file."""
    monkeypatch.syspath_prepend(str(plant_bigram(tmp_path / "bigram")))

    def write(**settings: Any) -> str:
        path = tmp_path / "toy.json"
        path.write_text(toy_experiment(tmp_path / "toy", **settings).model_dump_json())
        return str(path)

    return write


def fact(out: str, name: str) -> str:
    """The value of one line of a record."""
    return next(line.removeprefix(name).strip() for line in out.splitlines() if line.startswith(name + " "))


# --- run -------------------------------------------------------------------------------------------------------


def test_a_recipe_runs_with_settings(crucible: Command) -> None:
    out = crucible.ok("run", "probe_tune", "turns=3", "--tag", "a", "--tag", "b", "-q")
    run_id = fact(out, "run")
    assert re.fullmatch(r"run_\d+_[0-9a-f]{8}", run_id)
    assert fact(out, "state") == "completed"
    assert fact(out, "recipe") == "probe_tune"
    assert fact(out, "tags") == "a, b"
    assert fact(out, "next") == f"crucible show {run_id}"


def test_an_experiment_file_runs_and_its_progress_goes_to_standard_error(
    crucible: Command, toy: Callable[..., str]
) -> None:
    code, out, err = crucible("run", toy(eval_every=100))
    assert code == 0, err
    assert fact(out, "steps") == "4/4"
    assert re.match(r"held-out loss .* mean gain .* \(95 %\), ", fact(out, "result"))
    assert fact(out, "report.html").endswith("report.html")
    assert Path(fact(out, "report.md")).is_file()
    assert "load_dataset …" in err
    assert "step 1/4  loss" in err
    assert "held-out" in err


def test_quiet_shows_no_progress(crucible: Command, toy: Callable[..., str]) -> None:
    code, out, err = crucible("run", toy(), "-q")
    assert (code, err) == (0, "")
    assert "completed" in out


def test_json_is_one_document_without_progress(crucible: Command, toy: Callable[..., str]) -> None:
    code, out, err = crucible("run", toy(), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["state"] == "completed"


def test_a_dry_run_checks_everything_and_writes_nothing(crucible: Command, toy: Callable[..., str]) -> None:
    out = crucible.ok("run", toy(), "--dry-run")
    assert out.startswith("toy: the plan holds together; nothing was run\n")
    assert "training_backend=bigram" in out
    assert "load_dataset → init_session" in out
    plan = crucible.json("run", toy(), "--dry-run")
    assert plan["config_digest"].startswith("sha256:")
    assert not crucible.home.exists()
    code, err = crucible.fails("run", toy(batch_size=99), "--dry-run")
    assert code == ExitCode.USAGE
    assert "batch of 99" in err
    assert not crucible.home.exists()


def test_a_key_gives_the_same_run(crucible: Command) -> None:
    first = crucible.json("run", "probe_tune", "--key", "k")
    second = crucible.json("run", "probe_tune", "--key", "k")
    assert second["run_id"] == first["run_id"]
    assert len(crucible.json("runs")["runs"]) == 1


def test_a_run_knows_its_parent(crucible: Command) -> None:
    parent = crucible.json("run", "probe_tune")["run_id"]
    out = crucible.ok("run", "probe_tune", "--parent", parent, "-q")
    assert fact(out, "parent") == parent


def test_a_detached_run_goes_on_in_a_process_of_its_own(
    crucible: Command, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    out = crucible.ok("run", "probe_tune", "--detach")
    run_id = fact(out, "run")
    assert f"crucible logs {run_id} -f" in out or "completed" in out
    eventually(lambda: crucible.json("show", run_id)["run"]["state"] == "completed")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nosuch.json"], ExitCode.NOT_FOUND, "no file 'nosuch.json'"),
        (["probe_tun"], ExitCode.ADAPTER, "did you mean 'probe_tune'"),
        (["probe_tune", "turms=3"], ExitCode.USAGE, "turns"),
        (["probe_tune", "turns=many", "zzz=1"], ExitCode.USAGE, "2 problems"),
        (["probe_tune", "turns"], ExitCode.USAGE, "is not key=value"),
        (["probe_tune", "--manifest", "ofline"], ExitCode.USAGE, "offline"),
    ],
)
def test_wrong_words_are_told_in_a_sentence(
    crucible: Command, words: list[str], code: ExitCode, said: str
) -> None:
    found, err = crucible.fails("run", *words)
    assert (found, said in err) == (code, True), err
    assert "Traceback" not in err


def test_an_experiment_file_takes_no_settings(crucible: Command, spec: Callable[..., str]) -> None:
    code, err = crucible.fails("run", spec(), "seed=1")
    assert code == ExitCode.USAGE
    assert "takes no settings" in err


def test_a_run_that_fails_exits_with_the_code_of_its_error(
    crucible: Command, spec: Callable[..., str]
) -> None:
    code, err = crucible.fails("run", spec(fail_at=2), "-q")
    assert code == ExitCode.TRAIN
    assert "broke with" in err
    out = crucible.ok("show", "last")
    assert fact(out, "state") == "failed"
    assert "broke with" in fact(out, "error")


# --- show, runs, logs ------------------------------------------------------------------------------------------


def test_show_draws_the_curve_and_lists_what_was_written(crucible: Command, toy: Callable[..., str]) -> None:
    run_id = crucible.json("run", toy(eval_every=2))["run_id"]
    out = crucible.ok("show", run_id)
    line = next(line for line in out.splitlines() if line.startswith("train_mean_nll  "))
    assert line.split()[1][0] == "█"
    assert " → " in line
    assert "wrote       report.md\n" in out
    assert "step 0:" not in out
    full = crucible.ok("show", run_id, "--metrics")
    assert re.search(r"^step 0: epoch=0  learning_rate=0\.2  ", full, re.MULTILINE)
    body = crucible.json("show", "last", "--metrics")
    assert body["run"]["run_id"] == run_id
    assert [row["step"] for row in body["metrics"]] == [0, 1, 2, 3, 4]
    assert {a["id"] for a in body["artifacts"]} >= {"report.html", "checkpoints/final"}
    assert "metrics" not in crucible.json("show", run_id)


def test_an_unknown_run_is_named_with_its_exit_code(crucible: Command) -> None:
    code, err = crucible.fails("show", "run_1_00000000")
    assert code == ExitCode.NOT_FOUND
    assert "run_1_00000000" in err
    code, err = crucible.fails("logs", "last")
    assert code == ExitCode.NOT_FOUND


def test_runs_are_listed_newest_first_and_filtered(crucible: Command, spec: Callable[..., str]) -> None:
    assert crucible.ok("runs") == "no runs yet; crucible quickstart makes the first\n"
    first = crucible.json("run", "probe_tune", "--tag", "x")["run_id"]
    second = crucible.json("run", spec())["run_id"]
    lines = crucible.ok("runs").splitlines()
    assert lines[0].split() == ["run", "state", "recipe", "step", "held-out", "created", "tags"]
    assert {line.split()[0] for line in lines[1:]} == {first, second}
    assert [r["run_id"] for r in crucible.json("runs", "--recipe", "probe_tune")["runs"]] == [first]
    assert [r["run_id"] for r in crucible.json("runs", "--tag", "probe")["runs"]] == [second]
    assert len(crucible.json("runs", "--limit", "1")["runs"]) == 1
    assert crucible.json("runs", "--state", "failed")["runs"] == []


def test_a_run_that_cannot_be_read_is_said_and_the_others_are_listed(crucible: Command) -> None:
    run_id = crucible.json("run", "probe_tune")["run_id"]
    broken = crucible.home / "runs" / "run_1_00000000"
    broken.mkdir()
    (broken / "events.jsonl").write_text("not json\n")
    out = crucible.ok("runs")
    assert run_id in out
    assert "run_1_00000000 cannot be read" in out


def test_logs_are_numbered_lines_or_a_json_object_each(crucible: Command) -> None:
    crucible.ok("run", "probe_tune", "-q")
    lines = crucible.ok("logs", "last").splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0].split()[2] == "run.created"
    assert lines[-1].split()[2] == "run.completed"
    events = [json.loads(line) for line in crucible.ok("logs", "last", "--json").splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(lines) + 1))
    later = crucible.ok("logs", "last", "--after", str(len(lines) - 1)).splitlines()
    assert later == lines[-1:]


def test_following_a_run_that_has_ended_ends_at_once(
    crucible: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    crucible.ok("run", "probe_tune", "-q")
    monkeypatch.setattr("crucible_kitchen.cli.logs.time.sleep", lambda _: pytest.fail("it waited"))
    assert crucible.ok("logs", "last", "-f") == crucible.ok("logs", "last")


def test_following_a_run_ends_when_the_run_ends(
    crucible: Command,
    experiment: Callable[..., Experiment],
    eventually: Callable[[Callable[[], Any]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = threading.Thread(target=lambda: Crucible(crucible.home).run(experiment(hold_at=2)))
    runner.start()
    eventually(lambda: any(r.state == "running" and r.step == 2 for r in Crucible(crucible.home).list().runs))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        (crucible.home / "runs" / "released").touch()
        runner.join()

    monkeypatch.setattr("crucible_kitchen.cli.logs.time.sleep", sleep)
    lines = crucible.ok("logs", "last", "--follow").splitlines()
    assert len(waits) == 1
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == list(range(1, len(lines) + 1))
    assert lines[-1].split()[2] == "run.completed"


# --- resume, cancel, decide ------------------------------------------------------------------------------------


def test_a_failed_run_goes_on_after_what_stood_in_the_way_is_gone(
    crucible: Command, spec: Callable[..., str]
) -> None:
    crucible.fails("run", spec(fail_at=3), "-q")
    (crucible.home / "runs" / "released").touch()
    code, out, err = crucible("resume", "last")
    assert code == 0, err
    assert fact(out, "state") == "completed"
    assert "probe_begin …" in err
    code, err = crucible.fails("resume", "last")
    assert code == ExitCode.CONFLICT
    assert "is completed" in err


def test_a_run_goes_on_from_the_checkpoint_that_is_named(crucible: Command, spec: Callable[..., str]) -> None:
    crucible.fails("run", spec(fail_at=3), "-q")
    (crucible.home / "runs" / "released").touch()
    assert crucible.fails("resume", "last", "--checkpoint", "step_000009")[0] == ExitCode.NOT_FOUND
    assert crucible.json("resume", "last", "--checkpoint", "step_000001")["state"] == "completed"
    (resumed,) = [
        event
        for event in map(json.loads, crucible.ok("logs", "last", "--json").splitlines())
        if event["type"] == "run.resumed"
    ]
    assert resumed["data"]["checkpoint"] == "step_000001"


def test_a_resumed_run_may_be_detached(
    crucible: Command, spec: Callable[..., str], eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    crucible.fails("run", spec(fail_at=2), "-q")
    (crucible.home / "runs" / "released").touch()
    out = crucible.ok("resume", "last", "--detach")
    assert "goes on in the background" in out
    assert re.search(r"^next +crucible logs run_\S+ -f$", out, re.MULTILINE)
    eventually(lambda: crucible.json("show", "last")["run"]["state"] == "completed")


def test_a_question_is_shown_answered_and_the_run_goes_on(
    crucible: Command, spec: Callable[..., str]
) -> None:
    code, out, err = crucible("run", spec(ask_at=2), "-q")
    assert code == ExitCode.WAITING_APPROVAL, err
    run_id = fact(out, "run")
    assert fact(out, "asks") == "Go on?"
    assert fact(out, "next") == f"crucible decide {run_id} --yes"
    assert crucible.fails("resume", run_id)[0] == ExitCode.CONFLICT
    out = crucible.ok("decide", run_id, "--yes", "--comment", "looks right")
    assert out == f"{run_id}: approved; next: crucible resume {run_id}\n"
    assert crucible.json("resume", run_id)["state"] == "completed"
    assert "looks right" in crucible.ok("logs", run_id, "--json")


def test_a_refusal_is_told_to_the_stage_that_asked(crucible: Command, spec: Callable[..., str]) -> None:
    crucible("run", spec(ask_at=1), "-q")
    assert crucible.json("decide", "last", "--no")["state"] == "waiting_approval"
    code, err = crucible.fails("resume", "last", "-q")
    assert code == ExitCode.TRAIN
    assert "was not approved" in err


def test_a_decision_is_one_of_two_on_what_is_asked_now(crucible: Command, spec: Callable[..., str]) -> None:
    crucible("run", spec(ask_at=1), "-q")
    for words in ([], ["--yes", "--no"]):
        code, err = crucible.fails("decide", "last", *words)
        assert code == ExitCode.USAGE
        assert "give one of them" in err
    code, err = crucible.fails("decide", "last", "--yes", "--digest", f"sha256:{'0' * 64}")
    assert code != 0
    crucible.ok("cancel", "last")
    code, err = crucible.fails("decide", "last", "--yes")
    assert code == ExitCode.CONFLICT
    assert "waits for nothing" in err


def test_cancelling_a_waiting_run_ends_it(crucible: Command, spec: Callable[..., str]) -> None:
    crucible("run", spec(ask_at=1), "-q")
    assert "asked to stop; it is cancelled" in crucible.ok("cancel", "last")
    crucible("run", spec(ask_at=1), "-q")
    assert crucible.json("cancel", "last")["state"] == "cancelled"


# --- export ----------------------------------------------------------------------------------------------------


def test_final_weights_are_exported_and_it_is_said_how_to_load_them(
    crucible: Command, toy: Callable[..., str], tmp_path: Path
) -> None:
    crucible.ok("run", toy(save_every=2), "-q")
    out = crucible.ok("export", "last", str(tmp_path / "whole"))
    assert out.startswith(f"wrote {tmp_path / 'whole'}\n")
    assert "from_pretrained" in out
    assert (tmp_path / "whole" / "weights.npy").is_file()
    body = crucible.json("export", "last", str(tmp_path / "second"), "--weights", "step_000002")
    assert body["merged"] is True
    code, err = crucible.fails("export", "last", str(tmp_path / "third"), "--weights", "step_000003")
    assert code == ExitCode.NOT_FOUND
    assert "it has final, step_000002, step_000004" in err
    code, err = crucible.fails("export", "last", str(tmp_path / "fourth"), "--adapter")
    assert code == ExitCode.USAGE
    assert "no adapter" in err


# --- what is installed -----------------------------------------------------------------------------------------


def test_catalogues_list_names_with_summary_and_package(crucible: Command) -> None:
    lines = crucible.ok("stages").splitlines()
    assert lines[0].split() == ["name", "summary", "package"]
    assert any(
        re.match(r"load_dataset\s+Load training and held-out rows .*crucible-kitchen 0\.1\.0", x)
        for x in lines
    )
    assert "probe_tune" in crucible.ok("recipes")
    assert "supervised" in crucible.ok("workflows")
    assert "arithmetic" in crucible.ok("environments")
    assert "fewshot" in crucible.ok("environments", "math")
    assert {"begin_step", "probe_turn"} <= {item["name"] for item in crucible.json("stages")["items"]}


def test_one_name_is_shown_in_full(crucible: Command) -> None:
    out = crucible.ok("stages", "evaluate_nll")
    head, _, body = out.partition("\n")
    assert head.startswith("evaluate_nll: Negative log-likelihood")
    assert "eval_examples" in json.loads(body)["reads"]
    assert "turns" in crucible.ok("recipes", "probe_tune")
    assert crucible.ok("workflows", "supervised")
    assert "evaluate_nll" in crucible.fails("stages", "evaluate_nl")[1]


def test_adapters_are_listed_by_port_and_checked(crucible: Command) -> None:
    assert "jsonl" in crucible.ok("adapters", "metrics_store")
    out = crucible.ok("adapters", "metrics_store", "--check")
    assert out.splitlines()[0].split()[-1] == "problem"
    assert all(line.endswith("fits") for line in out.splitlines()[1:])
    assert {item["port"] for item in crucible.json("adapters", "model_registry")["adapters"]} == {
        "model_registry"
    }
    code, err = crucible.fails("adapters", "metrics_stor")
    assert code == ExitCode.ADAPTER
    assert "metrics_store" in err


def test_an_adapter_that_does_not_fit_is_said_and_changes_the_exit_code(
    crucible: Command, package: Callable[..., Path]
) -> None:
    entry = "[crucible.metrics_store]\nunfit = probe_unfit:Unfit\n"
    package("probe-unfit", {"probe_unfit.py": "class Unfit:\n    pass\n"}, entry)
    code, out, _ = crucible("adapters", "metrics_store", "--check")
    assert code == ExitCode.ADAPTER
    assert "missing" in out


def test_the_doctor_says_what_is_in_order(crucible: Command) -> None:
    code, out, _ = crucible("doctor")
    marks = {line[:3] for line in out.splitlines() if not line.startswith(" ")}
    assert marks <= {"ok ", "NOT"}
    report = json.loads(crucible("doctor", "--json")[1])
    assert report["ok"] == (code == 0)
    assert report["checks"]


def test_the_doctor_says_what_to_do(crucible: Command) -> None:
    crucible.home.write_text("a file where the home should be")
    code, out, _ = crucible("doctor")
    assert code == ExitCode.FAILED
    assert "NOT" in out
    assert "→" in out


# --- config ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nest(package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "probe_nest", raising=False)
    entry = "[crucible.recipes]\nnest = probe_nest:Nest\nno_recipe = probe_nest:NoRecipe\n"
    package("probe-nest", {"probe_nest.py": NESTED}, entry)


def test_config_explains_every_setting(crucible: Command, nest: None) -> None:
    rows = {row["setting"]: row for row in crucible.json("config", "explain", "nest", "data.limit=5")}
    assert list(rows) == ["data.limit", "data.names", "rate", "must"]
    assert rows["data.limit"] == {
        "setting": "data.limit",
        "value": "5",
        "from": "given",
        "type": "int | None",
        "meaning": "How many rows.",
    }
    assert (rows["rate"]["value"], rows["rate"]["from"], rows["rate"]["type"]) == ("0.5", "default", "float")
    out = crucible.ok("config", "explain", "nest")
    assert out.splitlines()[0].split() == ["setting", "value", "from", "type", "meaning"]


class Part(Contract):
    many: int = 1
    """How many."""


class Base(Contract):
    rate: float = 0.5
    """How fast."""


class Whole(Base):
    rate: float = 0.25
    part: Part = Part(many=2)


def test_what_a_recipe_puts_in_place_of_a_default_is_not_called_given() -> None:
    assert [(row["setting"], row["from"]) for row in explained(Whole())] == [
        ("rate", "default"),
        ("part.many", "default"),
    ]
    assert [row["from"] for row in explained(Whole(rate=0.5, part=Part(many=3)))] == ["given", "given"]


def test_a_setting_of_which_only_the_default_changes_keeps_its_meaning() -> None:
    assert [row["meaning"] for row in explained(Whole())] == ["How fast.", "How many."]


def test_config_shows_schema_and_experiment(crucible: Command, nest: None) -> None:
    schema = json.loads(crucible.ok("config", "schema", "nest"))
    assert set(schema["properties"]) == {"data", "rate", "must"}
    shown = json.loads(crucible.ok("config", "experiment", "nest", "must=named"))
    assert Experiment.model_validate(shown).id == "named"


def test_config_knows_its_actions_and_recipes(crucible: Command, nest: None) -> None:
    code, err = crucible.fails("config", "explane", "nest")
    assert code == ExitCode.USAGE
    assert "did you mean 'explain'?" in err
    assert "one of explain, schema, experiment" in crucible.fails("config", "zzz", "nest")[1]
    code, err = crucible.fails("config", "explain", "no_recipe")
    assert code == ExitCode.ADAPTER
    assert "no subclass of Recipe" in err
    code, err = crucible.fails("config", "explain", "nest", "data.limitt=5")
    assert code == ExitCode.USAGE
    assert "data.limit" in err
