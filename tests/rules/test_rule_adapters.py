"""Every port has one contract suite, and every adapter's tests inherit the suite of its port."""

import ast
import importlib
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORT_FILES = sorted((ROOT / "packages/crucible_train/src/crucible_train/ports").glob("*.py"))
SUITE_FILES = sorted((ROOT / "packages/crucible_testing/src/crucible_testing").glob("**/*.py"))
TEST_FILES = sorted([*ROOT.glob("packages/*/tests/**/test_*.py"), *ROOT.glob("tests/**/test_*.py")])
SEAMS = {
    "crucible.commands",
    "crucible.environments",
    "crucible.recipes",
    "crucible.stages",
    "crucible.workflows",
}
NOT_PORTS = {"Handle"}  # what calls of a port return; its suite is the port's


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of one of our distributions."""

    group: str
    name: str
    target: str
    package: str

    @property
    def port(self) -> str:
        """The port that the group spells (crucible.metrics_store is MetricsStore); empty for another seam."""
        return PORT_OF_GROUP.get(self.group, "")


def plugins() -> list[Plugin]:
    return [
        Plugin(group, name, target, data["project"]["name"])
        for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
        for data in [tomllib.loads(path.read_text())]
        for group, entries in data["project"].get("entry-points", {}).items()
        if group.startswith("crucible.")
        for name, target in entries.items()
    ]


def classes(path: Path) -> dict[str, set[str]]:
    """The classes that a file defines, each with the last name of each of its bases."""
    return {
        node.name: {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


PORTS = {
    name for path in PORT_FILES for name, bases in classes(path).items() if "Protocol" in bases
} - NOT_PORTS
SUITES = {name for path in SUITE_FILES for name in classes(path) if name.endswith("Contract")}
PORT_OF_GROUP = {"crucible." + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): name for name in PORTS}
ADAPTERS = [plugin for plugin in plugins() if plugin.port]


def test_there_are_ports_and_adapters_to_look_at() -> None:
    assert len(PORTS) >= 5
    assert len(ADAPTERS) >= 5


@pytest.mark.parametrize("port", sorted(PORTS))
def test_a_port_has_a_contract_suite(port: str) -> None:
    assert f"{port}Contract" in SUITES


@pytest.mark.parametrize("plugin", ADAPTERS, ids=lambda plugin: f"{plugin.group}:{plugin.name}")
def test_an_adapter_inherits_the_suite_of_its_port(plugin: Plugin) -> None:
    adapter, suite = plugin.target.rpartition(":")[2], f"{plugin.port}Contract"
    inheriting = [
        path
        for path in TEST_FILES
        if any(suite in bases for bases in classes(path).values()) and adapter in path.read_text()
    ]
    assert inheriting, f"no test class inherits {suite} for {plugin.target}"


@pytest.mark.parametrize("plugin", plugins(), ids=lambda plugin: f"{plugin.group}:{plugin.name}")
def test_an_entry_point_leads_to_an_object_of_its_own_package(plugin: Plugin) -> None:
    module, _, attribute = plugin.target.partition(":")
    assert module.partition(".")[0] == plugin.package.replace("-", "_")
    assert hasattr(importlib.import_module(module), attribute.partition(".")[0])


def test_every_group_is_that_of_a_port_or_a_known_seam() -> None:
    assert {plugin.group for plugin in plugins()} - set(PORT_OF_GROUP) - SEAMS == set()


def test_no_two_packages_own_one_name_in_a_group() -> None:
    counts = Counter((plugin.group, plugin.name) for plugin in plugins())
    assert [key for key, count in counts.items() if count > 1] == []
