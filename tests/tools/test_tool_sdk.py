"""tools/sdk.py: the table of SDK versions in the guide is the one that the tool makes."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import sdk  # noqa: E402


def table() -> list[list[str]]:
    """The cells of the guide's table, its head first."""
    lines = (ROOT / "docs" / "tinker.md").read_text(encoding="utf-8").splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| SDK |"))
    rows = []
    for line in lines[head:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def test_the_guide_tells_of_every_version_and_part_that_the_tool_tries() -> None:
    head, *rows = table()
    assert head == ["SDK", *sdk.PARTS.values()]
    assert [row[0] for row in rows] == list(sdk.VERSIONS)


def test_what_the_guide_says_does_not_work_is_the_sdks_own() -> None:
    head, *rows = table()
    names = {shown: part for part, shown in sdk.PARTS.items()}
    failing = {(row[0], names[head[place]]) for row in rows for place, cell in enumerate(row) if cell == "no"}
    assert failing == sdk.THEIR_OWN


def results(**changed: str) -> dict[str, object]:
    parts = {part: "ok" for part in sdk.PARTS if part not in ("archive", "close")}
    return {"version": "1.0", "losses": [1.0], "tokens": [[1]], "scored": [None, -1.0], **parts, **changed}


@pytest.mark.parametrize(
    ("second", "status"),
    [
        (results(), 0),
        (results(train="ValueError: no"), 1),
        ({**results(), "losses": [2.0]}, 1),
        (results(version="0.22.0", archive="TypeError: its own"), 0),
    ],
)
def test_a_part_that_fails_and_numbers_that_differ_fail_the_matrix(
    second: dict[str, object],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = iter([results(), second])
    monkeypatch.setattr(sdk, "served", lambda folder: _Nothing())
    monkeypatch.setattr(sdk, "flow", lambda version, url, folder: next(answers))
    assert sdk.matrix(("1.0", "2.0")) == status
    assert capsys.readouterr().out.startswith("| SDK | create |")


class _Nothing:
    """A server that is not there."""

    def __enter__(self) -> str:
        return ""

    def __exit__(self, *_: object) -> None: ...
