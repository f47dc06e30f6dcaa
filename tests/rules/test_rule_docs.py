"""Every code block of the documentation runs.

Blocks fenced as `bash` and `python` are run, in order, each file in a folder of its own; the python blocks of one
file share their names. `console`, `text`, `toml` and the like are for reading: what a reader types there is
checked only as far as it names a make target or a verb of `crucible`.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md")],
    key=lambda path: str(path.relative_to(ROOT)),
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<tag>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
TIME_LIMIT_S = 280

DRIVER = """
import linecache, subprocess, sys
names = {"__name__": "__main__"}
for tag, where, code in BLOCKS:
    if tag == "bash":
        print(f"--- {where}", flush=True)
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
    else:
        linecache.cache[where] = (len(code), None, code.splitlines(keepends=True), where)
        exec(compile(code, where, "exec"), names)
        sys.stdout.flush()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block: its tag, its place and its code."""

    tag: str
    line: int
    code: str


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, code = match["indent"], match["code"]
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        found.append(Block(tag=match["tag"], line=text.count("\n", 0, match.start()) + 2, code=code))
    return found


def runnable(path: Path) -> list[Block]:
    return [block for block in blocks(path) if block.tag in {"bash", "python"}]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the blocks of `path` in `folder`/work, with `folder`/home as the home."""
    name = os.path.relpath(path, ROOT)
    listed = [(block.tag, f"{name}:{block.line}", block.code) for block in runnable(path)]
    driver = folder / "driver.py"
    driver.write_text(f"BLOCKS = {listed!r}\n{DRIVER}")
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CRUCIBLE_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-P", str(driver)],
        cwd=folder / "work",
        env={
            **kept,
            "HOME": str(folder / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if runnable(path)], ids=name_of)
def test_the_code_of_a_document_runs(path: Path, tmp_path: Path) -> None:
    done = run(path, tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_a_document_with_a_broken_block_fails_at_its_line(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# Page\n\n```python\nx = 1\n```\n\n```bash\ntouch made\n```\n\n```python\nprint(x)\n\ny\n```\n"
    )
    done = run(document, tmp_path)
    assert done.returncode == 1
    assert "page.md:12" in done.stderr
    assert "NameError: name 'y'" in done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    assert (tmp_path / "work" / "made").exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_fence_of_a_document_says_what_it_holds(path: Path) -> None:
    assert [block.line for block in blocks(path) if not block.tag] == []
    outside = FENCE.sub("", path.read_text(encoding="utf-8"))
    assert "```" not in outside, "a fence is not closed"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_make_target_that_a_document_names_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    in_blocks = "\n".join(block.code for block in blocks(path))
    named = re.findall(r"`make ([a-z][\w-]*)", path.read_text(encoding="utf-8"))
    named += re.findall(r"^(?:\$ )?make ([a-z][\w-]*)", in_blocks, re.MULTILINE)
    assert set(named) - targets == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_of_a_document_leads_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("package", sorted(ROOT.glob("packages/*")), ids=lambda path: path.name)
def test_a_package_readme_has_an_example_that_runs(package: Path) -> None:
    if not (package / "pyproject.toml").exists():
        return
    assert runnable(package / "README.md"), f"{name_of(package / 'README.md')} has no bash or python block"
