"""JSON Schema export."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from crucible_ir import Contract, Experiment, NotFoundError
from crucible_ir.schema import all_schemas, contract_named, contract_names, json_schema, main


@pytest.mark.parametrize("name", contract_names())
def test_every_contract_has_a_closed_schema_with_its_fields_and_what_they_are(name: str) -> None:
    schema = json_schema(name)
    body = schema["$defs"][name] if "$ref" in schema else schema
    model = contract_named(name)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(body["properties"]) == set(model.model_fields)
    assert set(body.get("required", ())) == {n for n, f in model.model_fields.items() if f.is_required()}
    assert body["additionalProperties"] is False
    assert body["description"]


def test_the_experiment_schema_tells_nodes_apart_by_kind_and_knows_bounds() -> None:
    schema = json_schema("Experiment")
    node = schema["properties"]["pipeline"]["items"]
    assert node["discriminator"]["propertyName"] == "kind"
    assert set(node["discriminator"]["mapping"]) == {"stage", "loop", "if", "parallel"}
    assert schema["properties"]["seed"]["minimum"] == 0
    assert schema["$defs"]["ModelStage"]["enum"] == ["development", "staging", "production", "archived"]


def test_all_schemas_are_those_of_all_exported_contracts() -> None:
    import crucible_ir

    exported = {
        name
        for name in crucible_ir.__all__
        if isinstance(getattr(crucible_ir, name), type) and issubclass(getattr(crucible_ir, name), Contract)
    }
    assert set(all_schemas()) == exported - {"Contract", "Measured"}
    assert {"Experiment", "Prompt", "ReliabilityConfig", "DeploymentStatus", "FeedbackEvent"} <= exported


def test_every_contract_of_the_package_is_exported() -> None:
    def below(kind: type[Contract]) -> set[str]:
        found = {s.__name__ for s in kind.__subclasses__() if s.__module__.startswith("crucible_ir.")}
        return found.union(*(below(s) for s in kind.__subclasses__()), set())

    all_schemas()
    assert below(Contract) - {"Measured"} == set(contract_names())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'Experiment'"):
        json_schema("Experimnt")
    with pytest.raises(NotFoundError, match="known: AlertRule"):
        json_schema("zzzzzz")


def test_the_command_line_writes_one_schema_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["StageDef"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema("StageDef")
    assert main([]) == 0
    assert json.loads(capsys.readouterr().out) == all_schemas()
    assert main(["Experimnt"]) == 8
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "did you mean" in captured.err
    assert main(["--help"]) == 0
    assert "usage" in capsys.readouterr().out
    assert main(["A", "B"]) == 2


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crucible_ir.schema", "Experiment"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["title"] == Experiment.__name__
    assert done.stderr == ""
