"""The tables of docs/parity.md are what the comparisons count, no more and no less."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KINDS = ("text stays literal", "tool calls refused", "turn is closed", "trainable", "no placeholder")
REAL = ("qwen3", "qwen3_base", "llama3", "llama3_base", "gpt_oss", "deepseek_v3")


@pytest.fixture(scope="module")
def page(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "parity.md").read_text(encoding="utf-8")


def table(page: str, name: str) -> list[str]:
    found = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", page, re.DOTALL)
    assert found, f"docs/parity.md has no table {name!r}"
    return [line for line in found[1].splitlines() if line.startswith("| `")]


def row(name: str, counts: Counter[str]) -> str:
    explained = " | ".join(str(counts[kind]) for kind in KINDS)
    cases = sum(counts.values())
    return f"| `{name}.json` | {cases} | {counts['equal']} | {counts['error']} | {explained} |"


def check(page: str, name: str, rows: list[str]) -> None:
    assert table(page, name) == rows, "write these rows:\n" + "\n".join(rows)


def test_the_rows_of_the_bundled_renderer_files_are_what_is_counted(
    page: str, renderer_golden: Callable[..., Any]
) -> None:
    rows = [row(f"renderers_{name}", renderer_golden(name).counts()) for name in ("mini", "mini_bos")]
    check(page, "bundled", rows)


@pytest.mark.real
def test_the_rows_of_the_real_vocabularies_are_what_is_counted(
    page: str, renderer_golden: Callable[..., Any], shared_data: Path
) -> None:
    rows = [row(f"renderers_{name}", renderer_golden(name, shared_data).counts()) for name in REAL]
    check(page, "real", rows)


def test_the_rows_of_single_renderers_are_what_is_counted(
    page: str, renderer_golden: Callable[..., Any]
) -> None:
    found = renderer_golden("mini")
    counts: dict[str, Counter[str]] = {name: Counter() for name in found.names}
    for _, renderer, _, verdict in found.found:
        counts[renderer][verdict] += 1
    check(page, "each", [row(name, counts[name]).replace(".json", "") for name in found.names])


def test_the_rows_of_the_other_files_are_what_they_hold(
    page: str, golden: Callable[[str], dict[str, Any]]
) -> None:
    datum, shuffle, schedule = golden("datum"), golden("shuffle"), golden("lr_schedule")
    held = [
        ("datum.json", len(datum["conversation_cases"]), 0),
        ("datum.json", len(datum["chunk_cases"]), 0),
        ("datum.json", len(datum["special_cases"]), 0),
        ("nll_bpb.json", len(golden("nll_bpb")["cases"]), 0),
        ("lr_schedule.json", len(schedule["cases"]), 0),
        ("lr_schedule.json", len(schedule["edge"]), sum("value" in case for case in schedule["edge"])),
        ("get_lr.json", 5 * len(golden("get_lr")["models"]), 0),
        ("losses.json", len(golden("losses")["cases"]), 0),
        ("shuffle.json", len(shuffle["permutations"]), 0),
        ("shuffle.json", len(shuffle["supervised"]), sum(c["len"] == 0 for c in shuffle["supervised"])),
    ]
    assert [line.split(" | ")[0].strip("| `") for line in table(page, "others")] == [
        name for name, _, _ in held
    ]
    numbers = [tuple(map(int, re.findall(r"\| (\d+)(?= \|)", line))) for line in table(page, "others")]
    assert numbers == [(cases, cases - explained, explained) for _, cases, explained in held]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_difference_is_explained_on_the_page(page: str, kind: str) -> None:
    assert f"**{kind}**" in page
