from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible_ir import (
    BackendRef,
    ConfigError,
    DatasetRef,
    Experiment,
    IfDef,
    LoopDef,
    ModelRef,
    ParallelDef,
    StageDef,
)
from crucible_kitchen.api import Crucible
from crucible_kitchen.operations.admission import admit_experiment, admit_recipe, stage_nodes

Make = Callable[..., Experiment]

pytestmark = pytest.mark.usefixtures("probe")


def problems(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        call()
    return [str(problem) for problem in caught.value.problems]


def changed(experiment: Experiment, **update: Any) -> Experiment:
    return experiment.model_copy(update=update)


def test_registered_things_are_admitted(experiment: Make) -> None:
    admit_experiment(
        changed(
            experiment(text="a sentence with /slashes and ../dots"),
            recipe="probe_tune",
            workflow="supervised",
            model=ModelRef(id="Qwen/Qwen3-0.6B"),
            dataset=DatasetRef(id="HuggingFaceH4/no_robots", source="hub"),
            settings={"template": "/no_think", "url": "https://x.example/a.json", "rate": 0.1},
            backend=BackendRef(manifest="test", adapters={"metrics_store": "sqlite"}),
        )
    )


@pytest.mark.parametrize(
    ("update", "path", "says"),
    [
        ({"backend": BackendRef(manifest="./mine.toml")}, "backend.manifest", "is a file; name one of dev"),
        ({"backend": BackendRef(manifest="mine.toml")}, "backend.manifest", "is a file"),
        ({"backend": BackendRef(manifest="tinker")}, "backend.manifest", "works with a key of this machine"),
        (
            {"backend": BackendRef(options={"blob_store": {"root": "x"}})},
            "backend.options.blob_store",
            "not taken",
        ),
        (
            {"backend": BackendRef(adapters={"metrics_store": "jsonll"})},
            "backend.adapters.metrics_store",
            "did you mean 'jsonl'",
        ),
        ({"recipe": "os:system"}, "recipe", "is an import path"),
        ({"workflow": "superviced"}, "workflow", "did you mean 'supervised'"),
        ({"dataset": DatasetRef(id="/etc/passwd")}, "dataset.id", "names a file"),
        ({"dataset": DatasetRef(id="rows.jsonl")}, "dataset.id", "names a file"),
        ({"eval_dataset": DatasetRef(id="~/rows")}, "eval_dataset.id", "names a file"),
        ({"model": ModelRef(id="m", uri="/srv/models/m")}, "model.uri", "names a file"),
        ({"model": ModelRef(id="../m")}, "model.id", "names a file"),
        ({"settings": {"a": [{"b": "file:///etc/passwd"}]}}, "settings.a[0].b", "names a file"),
        ({"settings": {"a": "C:\\x"}}, "settings.a", "names a file"),
    ],
)
def test_what_is_not_registered_is_refused_with_its_place(
    experiment: Make, update: dict[str, Any], path: str, says: str
) -> None:
    told = problems(lambda: admit_experiment(changed(experiment(), **update)))
    assert len(told) == 1
    assert told[0].startswith(f"{path}: ")
    assert says in told[0]


def test_stages_are_checked_wherever_they_stand() -> None:
    def bad(label: str) -> tuple[StageDef, ...]:
        return (StageDef(name="os.system", label=label, options={"x": "/etc/passwd"}),)

    pipeline = (
        IfDef(when="w", body=bad("a"), otherwise=bad("b")),
        ParallelDef(name="p", branches=(bad("c"), (LoopDef(name="l", over="o", body=bad("d")),))),
    )
    told = problems(lambda: admit_experiment(Experiment(id="x", pipeline=pipeline)))
    assert [text.partition(":")[0] for text in told] == [
        f"{place}{part}"
        for place in (
            "pipeline[0].body[0]",
            "pipeline[0].otherwise[0]",
            "pipeline[1].branches[0][0]",
            "pipeline[1].branches[1][0].body[0]",
        )
        for part in (".name", ".options.x")
    ]
    assert len(list(stage_nodes(pipeline))) == 4


def test_all_problems_come_at_once(experiment: Make) -> None:
    bad = changed(
        experiment(),
        recipe="nope",
        backend=BackendRef(manifest="a.toml"),
        dataset=DatasetRef(id="/etc/passwd"),
    )
    assert len(problems(lambda: admit_experiment(bad))) == 3


def test_an_existing_file_or_folder_is_refused_whatever_its_name(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    bad = changed(experiment(), dataset=DatasetRef(id="rows"), model=ModelRef(id="rows"))
    told = problems(lambda: admit_experiment(bad))
    assert len(told) == 2
    assert "is a file or folder of this machine" in told[0]
    told = problems(
        lambda: admit_recipe("probe_tune", {"model": "rows", "data": {"path": "rows", "split": "rows"}})
    )
    assert [text.partition(":")[0] for text in told] == ["config.model", "config.data.path"]


def test_a_dataset_that_is_excluded_is_looked_at_as_any_other(
    experiment: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held").mkdir()

    def excluding(where: str) -> DatasetRef:
        exclude = {"column": "problem", "dataset": {"id": where}}
        return DatasetRef(id="org/rows", source="hub", mapping={"schema": "problem", "exclude": exclude})

    (told,) = problems(
        lambda: admit_experiment(changed(experiment(), dataset=excluding("held"), model=ModelRef(id="a/b")))
    )
    assert told.startswith("dataset.mapping.exclude.dataset.id: ")
    admit_experiment(changed(experiment(), dataset=excluding("org/held"), model=ModelRef(id="a/b")))


def test_files_under_an_allowed_folder_are_admitted(experiment: Make, tmp_path: Path) -> None:
    good = changed(experiment(), dataset=DatasetRef(id=str(tmp_path / "data" / "rows.jsonl")))
    admit_experiment(good, roots=(tmp_path,))
    escaping = changed(experiment(), dataset=DatasetRef(id=str(tmp_path / ".." / "rows.jsonl")))
    assert problems(lambda: admit_experiment(escaping, roots=(tmp_path,))) != []


def test_recipes_from_outside_are_checked_before_they_see_their_settings() -> None:
    told = problems(lambda: admit_recipe("probe_tunes", {"data": {"path": "/etc/passwd"}}))
    assert any("did you mean 'probe_tune'" in text for text in told)
    assert any(text.startswith("config.data.path: ") for text in told)


def test_an_untrusted_caller_goes_through_admission(home: Path, experiment: Make, tmp_path: Path) -> None:
    outside = Crucible(home, environ={}, trusted=False)
    assert outside.run(experiment(turns=1)).state == "completed"
    bad = changed(experiment(), backend=BackendRef(manifest="mine.toml"))
    for operation in (outside.plan, outside.run, outside.create):
        with pytest.raises(ConfigError, match="is a file"):
            operation(bad)
        with pytest.raises(ConfigError, match="manifest: 'mine.toml' is a file"):
            operation(experiment(), manifest="mine.toml")
        with pytest.raises(ConfigError, match=r"config\.model"):
            operation("probe_tune", config={"model": "/srv/models/m"})
    with pytest.raises(ConfigError, match="not under an allowed folder"):
        outside.fetch("last", "metrics.jsonl", tmp_path / "copy")
    allowed = Crucible(home, environ={}, trusted=False, allowed_roots=(tmp_path,))
    assert allowed.fetch("last", "metrics.jsonl", tmp_path / "copy").size_bytes > 0
