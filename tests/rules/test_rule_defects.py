"""Every listed defect of the systems that ours follows is on the page, with tests that are there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "defects.md"
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))

# Numbers of each list, first to last. D-K and D-T are the family's own; S-K counts the stubs listed with D-K, C the
# defects of tinker-cookbook and its service.
LISTS = {"D-K": 17, "S-K": 19, "D-T": 15, "C": 39}

# Modules whose functions may do nothing, for that is what they are.
DO_NOTHING = {"noop.py", "memory.py"}


@cache
def methods_of(path: Path) -> dict[str, tuple[list[str], set[str]]]:
    """Classes of a file: the names of their bases, and their functions; those of the module under an empty name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {"": ([], functions_of(tree))}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).split(".")[-1] for base in node.bases]
            found[node.name] = (bases, functions_of(node))
    return found


def functions_of(node: ast.Module | ast.ClassDef) -> set[str]:
    return {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def has_method(path: Path, owner: str, name: str) -> bool:
    """Whether a class of the file has a method, be it from a base in the file or in a contract suite."""
    suites = sorted(ROOT.glob("packages/crucible_testing/src/crucible_testing/contracts/*.py"))
    for file in (path, *suites):
        bases, functions = methods_of(file).get(owner, ([], set()))
        if name in functions or any(has_method(path, base, name) for base in bases):
            return True
    return False


def is_there(test: str) -> bool:
    """Whether ``path::name`` or ``path::Class::name`` is a test that pytest collects."""
    place, *parts = test.split("::")
    path = ROOT / place
    if not path.is_file() or not path.name.startswith("test_") or not parts[-1].startswith("test_"):
        return False
    owner = parts[0] if len(parts) == 2 else ""
    return (not owner or owner.startswith("Test")) and has_method(path, owner, parts[-1])


def rows() -> dict[str, tuple[str, str, list[str]]]:
    """Id → what was wrong, what ours does, the tests."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 4 and re.fullmatch(r"[A-Z](-[A-Z]\d+|-\d+)", cells[0]):
            assert cells[0] not in found, f"{cells[0]} stands there twice"
            found[cells[0]] = (cells[1], cells[2], re.findall(r"`([^`]+)`", cells[3]))
    return found


def listed() -> list[str]:
    """Every id of the lists."""
    return [
        f"{name}{'-' if name == 'C' else ''}{number}"
        for name, last in LISTS.items()
        for number in range(1, last + 1)
    ]


def test_every_listed_defect_is_on_the_page_and_no_other() -> None:
    assert list(rows()) == listed()


@pytest.mark.parametrize("defect", listed())
def test_a_defect_is_held_by_tests_that_are_there(defect: str) -> None:
    wrong, ours, tests = rows()[defect]
    assert wrong
    assert ours
    assert tests, f"{defect} names no test"
    assert [test for test in tests if not is_there(test)] == [], "no such test; was it renamed?"


@pytest.mark.parametrize(
    ("test", "there"),
    [
        ("tests/rules/test_rule_defects.py::test_a_defect_is_held_by_tests_that_are_there", True),
        ("tests/rules/test_rule_defects.py::test_a_defect_that_nobody_wrote", False),
        ("tests/rules/test_rule_defects.py::is_there", False),
        ("tests/rules/test_rule_nothing.py::test_x", False),
        ("packages/crucible_testing/tests/test_testing_backend.py::TestClient::test_the_loss_falls", True),
        ("packages/crucible_testing/tests/test_testing_backend.py::TestSampler::test_the_loss_falls", False),
    ],
)
def test_a_test_that_is_not_there_is_seen(test: str, there: bool) -> None:
    assert is_there(test) == there


def pretends(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function has nothing but a docstring, ``pass`` or ``...``, or raises NotImplementedError."""
    body = [
        one
        for one in function.body
        if not (
            isinstance(one, ast.Pass) or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        )
    ]
    raised = (one.exc for one in ast.walk(function) if isinstance(one, ast.Raise) and one.exc is not None)
    return not body or any("NotImplementedError" in ast.unparse(one) for one in raised)


def pretending(tree: ast.Module) -> list[str]:
    """Functions that pretend, but for those of protocols and those that are abstract."""
    excused: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
            excused |= set(ast.walk(node))
    return [
        f"{node.name} (line {node.lineno})"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node not in excused
        and not any(re.search("abstract|overload", ast.unparse(one)) for one in node.decorator_list)
        and pretends(node)
    ]


def test_no_function_only_pretends() -> None:
    ours = [path for path in SOURCES if path.name not in DO_NOTHING and "crucible_testing" not in path.parts]
    assert len(ours) > 100
    found = {
        str(path.relative_to(ROOT)): names
        for path in ours
        if (names := pretending(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == {}, "write it, or leave it out until it is written; where nothing is to be done, `return`"


@pytest.mark.parametrize("body", ["pass", "...", '"""Later."""', "raise NotImplementedError"])
def test_a_function_that_pretends_is_seen(body: str) -> None:
    assert pretending(ast.parse(f"class A:\n    def f(self):\n        {body}\n")) == ["f (line 2)"]
    assert pretending(ast.parse(f"class A(Protocol):\n    def f(self):\n        {body}\n")) == []
