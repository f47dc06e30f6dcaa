from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible_ir import AdapterError, ExitCode
from crucible_kitchen.plugins.discovery import discover, find, names
from crucible_kitchen.plugins.groups import PORTS, group_of
from crucible_kitchen.plugins.loading import load, load_adapter, protocol_of
from crucible_kitchen.plugins.shapes import mismatches
from crucible_kitchen.plugins.stages import InstalledStages
from crucible_kitchen.plugins.summaries import summary_of

STORE = '''
"""A metrics store of somebody else's."""

class Store:
    """Keeps metrics in a dictionary."""
    def log(self, run_id, row): ...
    def flush(self): ...
    def read(self, run_id, after_step=None): return []
    def position(self, run_id): return 0
    def truncate(self, run_id, position): ...
    def close(self): ...

class Lacking:
    def log(self, run_id, row): ...
    def flush(self): ...
    def position(self, run_id): return 0

class Narrow(Store):
    def read(self): return []

def factory(): return Store()
answer = 42
'''


def entry(text: str) -> str:
    return f"[crucible.metrics_store]\n{text}\n"


def test_a_package_outside_the_workspace_adds_an_adapter(package: Callable[..., Path]) -> None:
    package("their-store", {"their_store.py": STORE}, entry("theirs = their_store:Store"))
    plugin = find("crucible.metrics_store", "theirs")
    assert (plugin.package, plugin.version) == ("their-store", "1.2")
    assert plugin.summary() == "Keeps metrics in a dictionary."
    assert load_adapter("metrics_store", "theirs")[1].__name__ == "Store"


def test_help_lines_are_read_without_importing_the_provider(package: Callable[..., Path]) -> None:
    package(
        "loud",
        {
            "loud/__init__.py": "raise SystemExit('imported')",
            "loud/inner.py": "'''Module line.\n\nMore.'''\nraise SystemExit\ndef f():\n    '''Own line.'''\n",
        },
        "[crucible.commands]\nloud = loud.inner:f\nquiet = loud.inner:other\n",
    )
    lines = {p.name: p.summary() for p in discover("crucible.commands") if p.package == "loud"}
    assert lines == {"loud": "Own line.", "quiet": "Module line."}
    assert "loud" not in sys.modules


@pytest.mark.parametrize("target", ["no_such_module_x:f", "sys:path", "crucible_ir.nothing:f"])
def test_a_provider_without_source_has_an_empty_help_line(target: str) -> None:
    assert summary_of(target) == ""


def test_a_provider_that_cannot_be_parsed_has_an_empty_help_line(package: Callable[..., Path]) -> None:
    package("odd", {"odd_syntax.py": "def ("}, "")
    assert summary_of("odd_syntax:f") == ""


def test_discovery_imports_no_provider_and_no_contracts() -> None:
    script = textwrap.dedent(
        """
        import sys
        from crucible_kitchen.plugins.discovery import discover
        from crucible_kitchen.plugins.groups import STAGES
        assert [p.summary() for p in discover(STAGES)]
        heavy = {"pydantic", "numpy", "torch", "crucible_ir", "crucible_kitchen.stages"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_two_owners_of_a_name_are_named(package: Callable[..., Path]) -> None:
    package("one-store", {"one_store.py": STORE}, entry("twice = one_store:Store"))
    package("two-store", {"two_store.py": STORE}, entry("twice = two_store:Store"))
    with pytest.raises(AdapterError) as caught:
        find("crucible.metrics_store", "twice")
    text = str(caught.value)
    assert "one-store (one_store:Store) and two-store (two_store:Store)" in text
    assert "crucible.metrics_store" in text
    assert "uninstall one" in text
    assert caught.value.exit_code == ExitCode.ADAPTER


def test_an_unknown_adapter_is_told_with_the_nearest_and_its_package() -> None:
    with pytest.raises(AdapterError, match=r"'jsonll'; did you mean 'jsonl' of crucible-telemetry\?"):
        find("crucible.metrics_store", "jsonll")


def test_an_unknown_adapter_without_a_near_name_lists_those_installed() -> None:
    with pytest.raises(AdapterError, match="installed: .*jsonl"):
        find("crucible.metrics_store", "zzzzzz")


def test_an_empty_group_says_to_install_a_package() -> None:
    with pytest.raises(AdapterError, match="install a package that adds it"):
        find("crucible.nothing", "x")


def test_a_missing_sdk_is_told_with_adapter_package_and_remedy(package: Callable[..., Path]) -> None:
    package("needy", {"needy.py": "import sdk_that_is_absent"}, entry("needy = needy:Store"))
    with pytest.raises(AdapterError) as caught:
        load_adapter("metrics_store", "needy")
    assert str(caught.value) == (
        "crucible.metrics_store: 'needy' of needy needs the module 'sdk_that_is_absent', which is not installed; "
        "pip install sdk-that-is-absent, or choose another adapter"
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("from os import nothing_such", "cannot be imported"),
        ("raise ValueError('bad')", r"raises ValueError when imported \(bad\)"),
        ("", "names 'Store', which broken_adapter does not have"),
        ("Store = 3", "neither a class nor a function"),
    ],
)
def test_a_broken_provider_is_one_sentence(package: Callable[..., Path], body: str, says: str) -> None:
    sys.modules.pop("broken_adapter", None)
    package("broken", {"broken_adapter.py": body}, entry("broken = broken_adapter:Store"))
    with pytest.raises(AdapterError, match=says):
        load_adapter("metrics_store", "broken")
    sys.modules.pop("broken_adapter", None)


def test_our_own_errors_pass_through_an_import(package: Callable[..., Path]) -> None:
    body = "from crucible_ir import DataError\nraise DataError(what='x')"
    package("honest", {"honest_adapter.py": body}, entry("honest = honest_adapter:Store"))
    with pytest.raises(Exception, match="x") as caught:
        load(find("crucible.metrics_store", "honest"))
    assert type(caught.value).__name__ == "DataError"


def test_missing_methods_are_named(package: Callable[..., Path]) -> None:
    package("lacking", {"lacking_store.py": STORE}, entry("lacking = lacking_store:Lacking"))
    with pytest.raises(AdapterError, match=r"port MetricsStore: missing read, truncate, close"):
        load_adapter("metrics_store", "lacking")


def test_a_method_with_other_arguments_is_named(package: Callable[..., Path]) -> None:
    package("narrow", {"narrow_store.py": STORE}, entry("narrow = narrow_store:Narrow"))
    with pytest.raises(AdapterError, match=r"read\(self\) should be read\(self, run_id"):
        load_adapter("metrics_store", "narrow")


def test_a_factory_is_taken_and_checked_later(package: Callable[..., Path]) -> None:
    package("made", {"made_store.py": STORE}, entry("made = made_store:factory"))
    assert load_adapter("metrics_store", "made")[1]().position("r") == 0


def test_shapes_look_at_objects_async_and_attributes() -> None:
    class Port:
        size: int

        @property
        def name(self) -> str: ...

        async def ask(self, x: int, *, y: int = 0) -> int: ...

        def close(self) -> None: ...

    class Good:
        size = 1
        name = "n"

        async def ask(self, x: int, *, y: int = 0) -> int:
            return x + y

        @classmethod
        def close(cls) -> None: ...

    class Bad:
        close = 3

        def ask(self, x: int, *, y: int = 0) -> int:
            return x + y

    assert mismatches(Good(), Port) == []
    assert mismatches(Good, Port) == []
    assert mismatches(Bad(), Port) == ["missing name, size", "ask should be async", "close is not a method"]


@pytest.mark.parametrize("port", PORTS)
def test_every_port_has_its_protocol_and_fitting_adapters(port: str) -> None:
    assert protocol_of(port).__name__.lower() == port.replace("_", "")
    for name in names(PORTS[port].group):
        if (
            name == "ray" and importlib.util.find_spec("ray") is None
        ):  # too large to be in everybody's environment
            with pytest.raises(AdapterError, match=r"pip install 'crucible-kitchen\[ray\]'"):
                load_adapter(port, name)
        else:
            load_adapter(port, name)


def test_an_unknown_port_is_told_with_the_nearest() -> None:
    with pytest.raises(AdapterError, match="did you mean 'metrics_store'"):
        group_of("metric_store")
    with pytest.raises(AdapterError, match="ports: training_backend"):
        group_of("zzzz")


def test_installed_stages_are_loaded_once_and_checked(probe: Path, package: Callable[..., Path]) -> None:
    package("not-a-stage", {"not_a_stage.py": "def f(): ..."}, "[crucible.stages]\nodd = not_a_stage:f\n")
    stages = InstalledStages()
    assert {"probe_begin", "probe_turn", "odd"} <= set(stages.names())
    assert stages.get("probe_turn") is stages.get("probe_turn")
    with pytest.raises(AdapterError, match="'odd' of not-a-stage is not a subclass of Stage"):
        stages.get("odd")


def test_an_sdk_that_an_adapter_imports_late_is_missed_before_the_adapter_is_made(
    package: Callable[..., Path],
) -> None:
    late = STORE + "\nclass Late(Store):\n    required_modules = ('json', 'sdk_that_is_absent')\n"
    package("late-store", {"late_store.py": late}, entry("late = late_store:Late"))
    with pytest.raises(AdapterError, match="'late' of late-store needs the module 'sdk_that_is_absent'"):
        load_adapter("metrics_store", "late")
