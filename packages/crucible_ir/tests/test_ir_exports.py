"""What the package gives, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import crucible_ir
from crucible_ir import FINAL_STATES, TRANSITIONS, Ref, RunState
from crucible_ir.datasets import DatasetSnapshot
from crucible_ir.refs import DatasetRef

LAZY = ["builder", "deployment", "feedback", "llm", "models", "reliability"]


@pytest.mark.parametrize("name", crucible_ir.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(crucible_ir, name) is not None
    assert name in dir(crucible_ir)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Experimnt'"):
        _ = crucible_ir.Experimnt


@pytest.mark.parametrize("module", LAZY)
def test_every_public_name_of_a_group_is_exported_by_the_package(module: str) -> None:
    group = __import__(f"crucible_ir.{module}", fromlist=["__all__"])
    assert set(group.__all__) <= set(crucible_ir.__all__)
    for name in group.__all__:
        assert getattr(crucible_ir, name) is getattr(group, name)


def test_importing_the_package_brings_pydantic_and_the_standard_library_only() -> None:
    code = (
        "import sys, json; import pydantic; before = set(sys.modules); import crucible_ir\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(json.dumps([sorted(new), [m for m in sys.modules if m.startswith('crucible_ir.')]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages, modules = json.loads(done.stdout)
    foreign = {name for name in packages if not name.startswith("_sysconfigdata")}
    allowed = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    assert foreign <= {"crucible_ir", *allowed}
    assert "crucible_ir.llm" not in modules
    assert "crucible_ir.deployment" not in modules


def test_every_state_has_its_transitions_and_final_states_have_none() -> None:
    assert set(TRANSITIONS) == set(RunState)
    assert {state for state, after in TRANSITIONS.items() if not after} == FINAL_STATES
    assert RunState.RUNNING in TRANSITIONS[RunState.INTERRUPTED]
    assert RunState.CREATED not in {after for states in TRANSITIONS.values() for after in states}


def test_every_state_can_be_reached_from_created() -> None:
    reached, new = set(), {RunState.CREATED}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state]} - reached
    assert reached == set(RunState)


def test_the_key_of_a_reference_is_its_kind_and_id() -> None:
    assert Ref(kind="evaluation", id="e1").key == "evaluation:e1"


def test_snapshots_of_the_same_rows_are_equal() -> None:
    ref = DatasetRef(id="x")
    assert DatasetSnapshot(ref=ref, rows=[{"a": 1}]) == DatasetSnapshot(ref=ref, rows=[{"a": 1}])
