"""Rules that hold for the files of the repository."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SOURCES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("tools/**/*.py")])
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60
# The one function that says where log lines go; an application calls it, and no library does.
LOGGING_SET_UP_BY_APPLICATIONS = ROOT / "packages/crucible_telemetry/src/crucible_telemetry/logging.py"
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc", "stuff"}

# Spelled in pieces, so that this file does not break its own rule.
REGISTRY_HOSTS = tuple(
    re.compile(r"\b" + re.escape(host) + r"\b")
    for host in (
        "py" + "pi.org",
        "python" + "hosted.org",
        "download.py" + "torch.org",
        "ana" + "conda.org",
        "npm" + "js.org",
        "cra" + "tes.io",
        "ruby" + "gems.org",
        "proxy.go" + "lang.org",
    )
)
MACHINE_PATHS = re.compile("(?<![\\w.~-])/(" + "|".join(["wo" + "rk", "ro" + "ot", "opt/" + "wheels"]) + ")/")


def tracked() -> list[Path]:
    """The files that git tracks; empty where this is not a git checkout (an unpacked archive)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The file as text; empty for a binary one."""
    data = path.read_bytes()
    return "" if b"\0" in data[:8192] else data.decode("utf-8", "replace")


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


# --- size and names ----------------------------------------------------------------------------------------


def test_there_is_something_to_measure() -> None:
    assert len(PACKAGES) >= 11
    assert len(SOURCES) > len(PACKAGES)


def test_no_source_file_is_longer_than_400_lines() -> None:
    counts = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: count for path, count in counts.items() if count > LINES_OF_A_FILE} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in SOURCES
        for node in functions(path)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    named = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for part in path.relative_to(ROOT).with_suffix("").parts
        if part in NAMES_THAT_SAY_NOTHING
    }
    assert named == set()


def test_test_files_have_names_of_their_own() -> None:
    names = [
        path.name for folder in ("packages/*/tests", "tests") for path in ROOT.glob(f"{folder}/**/test_*.py")
    ]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


# --- what no file may hold ---------------------------------------------------------------------------------


def test_no_tracked_file_names_a_registry_host() -> None:
    named = {
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in tracked()
        for host in REGISTRY_HOSTS
        if (found := host.search(text_of(path)))
    }
    assert named == set()


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    named = {
        f"{path.relative_to(ROOT)}: {found.group()}"
        for path in tracked()
        if (found := MACHINE_PATHS.search(text_of(path)))
    }
    assert named == set()


def test_no_lock_with_addresses_is_tracked() -> None:
    assert [
        str(path) for path in tracked() if path.name in {"uv.lock", "poetry.lock", "Pipfile.lock", "uv.toml"}
    ] == []


# --- what libraries do not do ------------------------------------------------------------------------------


def calls(path: Path) -> set[str]:
    """The dotted names that a file calls, as written."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_no_library_prints_or_configures_logging() -> None:
    forbidden = re.compile(
        r"^(print|logging\.(basicConfig|config\.\w+)|logging\.getLogger\(\)\.\w+|structlog\.configure)$"
    )
    found = {
        f"{path.relative_to(ROOT)}: {call}"
        for path in ROOT.glob("packages/*/src/**/*.py")
        for call in calls(path)
        if forbidden.match(call) and path != LOGGING_SET_UP_BY_APPLICATIONS
    }
    assert found == set()


def test_no_library_sets_a_global_seed() -> None:
    seeds = re.compile(
        r"^((np|numpy)\.random\.(seed|rand\w*|normal|permutation|shuffle|choice)|random\.seed)$"
    )
    found = {
        f"{path.relative_to(ROOT)}: {call}"
        for path in ROOT.glob("packages/*/src/**/*.py")
        for call in calls(path)
        if seeds.match(call)
    }
    assert found == set()


# --- tests -------------------------------------------------------------------------------------------------


def skips(path: Path) -> list[str]:
    """The ways in which a test file leaves tests out, other than by a mark that is counted or by the platform."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if name in {"pytest.importorskip", "pytest.skip", "pytest.mark.skip"}:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.skipif":
            condition = ast.unparse(node.args[0])
            if not re.search(r"sys\.platform|os\.name|geteuid", condition):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} skipif({condition})")
    return found


def test_no_test_leaves_itself_out_without_being_counted() -> None:
    assert [
        skip
        for pattern in ("packages/*/tests", "tests")
        for path in ROOT.glob(f"{pattern}/**/*.py")
        for skip in skips(path)
    ] == []


# --- packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_has_its_readme_changelog_type_marker_licence_and_tests(package: Path) -> None:
    (module,) = (path.parent for path in package.glob("src/*/__init__.py"))
    missing = [
        name
        for name in ("README.md", "CHANGELOG.md", "LICENSE", f"src/{module.name}/py.typed")
        if not (package / name).is_file()
    ]
    assert missing == []
    assert list(package.glob("tests/**/test_*.py")), f"{package.name} has no tests"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_carries_the_licence_of_the_repository(package: Path) -> None:
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_changelog_speaks_of_the_version_that_the_package_has(package: Path) -> None:
    version = tomllib.loads((package / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## \[?{re.escape(version)}\b", (package / "CHANGELOG.md").read_text(), re.MULTILINE)
