from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import AdapterError
from crucible_kitchen.api import Crucible
from crucible_kitchen.operations.catalog_models import Check

pytestmark = pytest.mark.usefixtures("probe")


@pytest.fixture
def crucible(home: Path) -> Crucible:
    return Crucible(home, environ={"HF_TOKEN": "planted-secret-9317"})


@pytest.fixture(autouse=True)
def _short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the slow look at torch to the tests that are about it."""
    if "torch" not in request.node.name and "doctor" in request.node.name:
        answer = Check(name="torch", ok=True, detail="not asked")
        monkeypatch.setattr("crucible_kitchen.operations.doctoring._torch", lambda environ: answer)


def checks(crucible: Crucible, manifest: str = "offline") -> dict[str, Check]:
    return {check.name: check for check in crucible.doctor(manifest).checks}


def test_adapters_are_listed_by_port_with_their_packages(crucible: Crucible) -> None:
    found = {(item.port, item.name): item for item in crucible.adapters().adapters}
    assert found["metrics_store", "jsonl"].package == "crucible-telemetry"
    assert found["metrics_store", "jsonl"].summary
    only = crucible.adapters("blob_store").adapters
    assert {item.port for item in only} == {"blob_store"}


def test_a_checked_adapter_tells_its_problem(crucible: Crucible, package: Callable[..., Path]) -> None:
    package("sick", {"sick_store.py": "import sdk_absent"}, "[crucible.blob_store]\nsick = sick_store:S\n")
    found = {item.name: item.problem for item in crucible.adapters("blob_store", check=True).adapters}
    assert found["local"] is None
    assert found["sick"] is not None
    assert "sdk_absent" in found["sick"]


def test_an_unknown_port_is_refused(crucible: Crucible) -> None:
    with pytest.raises(AdapterError, match="did you mean 'blob_store'"):
        crucible.adapters("blobstore")


def test_stages_recipes_and_workflows_are_listed_and_described(crucible: Crucible) -> None:
    assert "probe_turn" in {item.name for item in crucible.stages().items}
    details = crucible.stages("probe_turn").items[0].details
    assert details is not None
    assert details["writes"] == ["total"]
    assert "hold_at" in details["options"]["properties"]
    recipe = crucible.recipes("probe_tune").items[0]
    assert recipe.package == "crucible-probe"
    assert recipe.details is not None
    assert "turns" in recipe.details["config"]["properties"]
    workflow = crucible.workflows("supervised").items[0].details
    assert workflow is not None
    assert "renderer" in workflow["options"]["properties"]
    assert workflow["nodes"][0] == {"name": "load_dataset"}
    with pytest.raises(AdapterError, match="did you mean 'probe_tune'"):
        crucible.recipes("probe_tunf")


def test_the_doctor_finds_everything_in_order_here(home: Path, crucible: Crucible) -> None:
    found = checks(crucible)
    assert all(found[name].ok for name in ("python", "packages", "home", "plugins", "credentials", "runs"))
    assert "crucible-kitchen 0.1.0" in found["packages"].detail
    assert found["manifest offline: metrics_store"].detail == "jsonl of crucible-telemetry 0.1.0"
    assert found["credentials"].detail == "HF_TOKEN"
    assert not home.exists()


def test_the_doctor_names_what_is_wrong(
    home: Path, crucible: Crucible, package: Callable[..., Path], tmp_path: Path
) -> None:
    package("one-more", {"one_more.py": ""}, "[crucible.metrics_store]\njsonl = one_more:S\n")
    package("sick", {"sick_store.py": "import sdk_absent"}, "[crucible.blob_store]\nsick = sick_store:S\n")
    path = tmp_path / "m.toml"
    path.write_text('profile = "m"\n[ports.blob_store]\nadapter = "sick"\n')
    (home / "runs" / "run_1_00000000").mkdir(parents=True)
    (home / "runs" / "run_1_00000000" / "events.jsonl").write_text("x\n")
    report = crucible.doctor(str(path))
    found = {check.name: check for check in report.checks}
    assert not report.ok
    assert "jsonl in crucible.metrics_store" in found["plugins"].detail
    sick = found[f"manifest {path}: blob_store"]
    assert sick.detail.endswith("needs the module 'sdk_absent', which is not installed")
    assert sick.remedy == "pip install sdk-absent, or choose another adapter"
    assert "run_1_00000000" in found["runs"].detail
    assert not checks(crucible, "offline")["manifest offline"].ok


def test_the_doctor_tells_a_home_that_cannot_be_written(
    crucible: Crucible, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("crucible_kitchen.operations.doctoring.tempfile.TemporaryFile", refuse)
    check = checks(crucible)["home"]
    assert not check.ok
    assert "Read-only file system" in check.detail
    assert "CRUCIBLE_HOME" in check.remedy


def test_the_doctor_tells_what_torch_says_of_itself(crucible: Crucible) -> None:
    check = checks(crucible)["torch"]
    assert check.ok
    assert "threads" in check.detail


def test_the_doctor_tells_that_torch_cannot_be_imported(home: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    check = checks(Crucible(home, environ={"PYTHONPATH": str(tmp_path)}))["torch"]
    assert not check.ok
    assert check.detail == "ImportError: no torch here"
    assert "crucible-kitchen[torch]" in check.remedy


def test_the_doctor_does_not_wait_for_torch_for_ever(
    crucible: Crucible, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crucible_kitchen.operations.doctoring._TORCH_LIMIT_S", 0.001)
    check = checks(crucible)["torch"]
    assert (check.ok, check.detail) == (False, "no answer within 0.001 s")
