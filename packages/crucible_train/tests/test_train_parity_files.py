"""The first tables of docs/parity.md: every recorded file has a row, and the live comparison is the evidence's."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Golden = Callable[[str], dict[str, Any]]
HELPERS = ("_strip_properly_formatted_commas", "_str_is_int", "should_allow_eval")
"""Upstream's inner functions in math_grading.json that ours has a counterpart of."""


@pytest.fixture(scope="module")
def page(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / "docs" / "parity.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def evidence(pytestconfig: pytest.Config) -> dict[str, Any]:
    path = pytestconfig.rootpath / "docs" / "evidence" / "parity-live.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def section(page: str, name: str) -> list[str]:
    found = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", page, re.DOTALL)
    assert found, f"docs/parity.md has no part {name!r}"
    return found[1].splitlines()


def rows(page: str, name: str) -> list[list[str]]:
    """Cells of a table, without its head."""
    lines = [line for line in section(page, name) if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def counted(page: str) -> dict[str, Counter[str]]:
    """Cases, equal (refusals by both too) and explained of each file, summed over the page's tables."""
    found: dict[str, Counter[str]] = {}

    def add(name: str, cases: int, explained: int) -> None:
        counts = {"cases": cases, "equal": cases - explained, "explained": explained}
        found[name] = found.get(name, Counter()) + Counter(counts)

    for table in ("bundled", "real"):
        for name, cases, equal, refused, *explained in rows(page, table):
            assert int(cases) == int(equal) + int(refused) + sum(map(int, explained)), name
            add(name, int(cases), sum(map(int, explained)))
    for table in ("others", "algorithms"):
        for name, _, cases, _, explained in rows(page, table):
            add(name, int(cases), int(explained))
    settings = [list(map(int, row[1:])) for row in rows(page, "settings")]
    add("`config_defaults.json`", sum(row[0] for row in settings), sum(row[2] for row in settings))
    return found


def elsewhere(golden: Golden) -> dict[str, tuple[int, int, str]]:
    """Cases and explained of what no other table of the page counts, and a note."""
    grading, vision, shuffle = golden("math_grading"), golden("renderers_vision"), golden("shuffle")
    inner = sum(case["fn"] not in HELPERS for case in grading["helpers"])
    cases = sum(len(grading[name]) for name in ("pairs", "extract_boxed", "gsm8k", "split_tuple", "helpers"))
    seen = sum(
        any(
            "expected_tokens" in chunk for chunk in case.get("chunks", ())
        )  # with loss in upstream's all_tokens
        or ("error" in case and case["error"] is None)  # dropped
        for case in vision["cases"]
    )
    seeks = len(shuffle["streaming_seek"])
    streams = len(shuffle["split"]) + len(shuffle["streaming"]) + seeks
    talks = golden("conversations")
    return {
        "`conversations.json`": (
            len(talks["conversations"]) + len(talks["tools"]),
            0,
            "the conversations and tools that other files are made of",
        ),
        "`math_grading.json`": (cases, inner, "`cookbook_exact`; inner functions that ours does without"),
        "`renderers_vision.json`": (
            len(vision["cases"]),
            seen,
            "equal but for the loss on images in `all_tokens`; upstream's `qwen3` drops an image without a word",
        ),
        "`resume_traces.json`": (3, 2, "resumed runs of three kinds, see below"),
        "`shuffle.json`": (streams, seeks, "and splits, streams; a stream of ours has no seek"),
    }


def expected(page: str, golden: Golden) -> list[str]:
    found, notes = counted(page), dict.fromkeys(counted(page), "")
    notes["`config_defaults.json`"] = "settings of the four commands whose recipes we have"
    for name, (cases, explained, note) in elsewhere(golden).items():
        counts = {"cases": cases, "equal": cases - explained, "explained": explained}
        found[name] = found.get(name, Counter()) + Counter(counts)
        notes[name] = note
    lines = [
        f"| {name} | {counts['cases']} | {counts['equal']} | {counts['explained']} | {notes[name]} |"
        for name, counts in found.items()
    ]
    lines += [
        "| `recipe_traces.json` | – | – | – | eight of its eleven runs stand beside ours, see below |",
        "| `sdk_wire.json` | – | – | – | held by the tests of `crucible-gateway` |",
    ]
    return sorted(lines)


def test_the_table_of_files_is_the_sum_of_what_is_counted(page: str, golden: Golden) -> None:
    wanted = expected(page, golden)
    lines = [line for line in section(page, "files") if line.startswith("| `")]
    assert lines == wanted, "write these rows:\n" + "\n".join(wanted)


@pytest.mark.real
def test_every_recorded_file_has_a_row(page: str, shared_data: Path) -> None:
    recorded = sorted(path.name for path in (shared_data.parent / "golden").glob("*.json"))
    assert [row[0].strip("`") for row in rows(page, "files")] == recorded


def test_the_live_table_is_what_the_evidence_counted(page: str, evidence: dict[str, Any]) -> None:
    figures = evidence["figures"]
    wanted = []
    for area in figures["areas"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in area["explained"].items())
        wanted.append(f"| {area['area']} | {area['cases']} | {area['equal']} | {area['refused']} | {kinds} |")
        assert area["cases"] == area["equal"] + area["refused"] + sum(area["explained"].values())
    total = [
        figures["cases"],
        sum(area["equal"] for area in figures["areas"]),
        sum(area["refused"] for area in figures["areas"]),
        sum(kind["cases"] for kind in figures["explained"].values()),
    ]
    wanted.append(f"| **all** | {total[0]} | {total[1]} | {total[2]} | {total[3]} |")
    lines = [line for line in section(page, "live") if line.startswith("| ") and "---" not in line][1:]
    assert lines == wanted, "write these rows:\n" + "\n".join(wanted)


def test_every_kind_of_the_live_comparison_was_met_and_names_upstreams_function(
    page: str, evidence: dict[str, Any]
) -> None:
    kinds = evidence["figures"]["explained"]
    wanted = [
        f"- **{kind}** ({found['cases']}), `{found['upstream']}`: {found['why']}."
        for kind, found in kinds.items()
    ]
    assert section(page, "kinds") == wanted, "write these lines:\n" + "\n".join(wanted)
    assert len(kinds) <= 12
    assert all(found["cases"] for found in kinds.values())


def test_the_live_comparison_was_with_the_recorded_versions_and_large(evidence: dict[str, Any]) -> None:
    upstream = evidence["figures"]["upstream"]
    assert (upstream["tinker-cookbook"], upstream["tinker"]) == ("0.6.1", "0.38.0")
    assert evidence["figures"]["cases"] > 50_000
