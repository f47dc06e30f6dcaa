"""How far our graders agree with others: the tables of docs/parity_math.md are what is counted.

Run as a program, it writes the tables: ``python test_adapter_math_agreement.py PAGE GOLDEN DATA``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sympy

from crucible_kitchen.adapters.math_bridge import MathBridge
from crucible_train.grading import (
    Grade,
    MathGrader,
    Verdict,
    cookbook_boxed_answer,
    gsm8k_answer,
    mathd_form,
    split_elements,
)

PAGE = "docs/parity_math.md"
GOLDEN = "packages/crucible_train/tests/golden/math_grading.json.gz"
PATIENCE_S = 60.0

# (answer, gold): why our careful grader says something else than grade_answer or math-verify.
KINDS: dict[str, list[tuple[str, str]]] = {
    "value": [
        ("\\frac{2}{4}", "\\frac{1}{2}"),
        ("2", "\\sqrt{4}"),
        ("2^{10}", "1024"),
        ("\\frac{a+b}{c}", "(a+b)/c"),
        ("10^{3}", "1000"),
        ("3\\times 10^{5}", "300000"),
        ("3*4", "12"),
        ("4!", "24"),
        ("10", "\\binom{5}{2}"),
        ("\\frac{5}{3}", "5:3"),
        ("1 + 1", "2"),
        ("\\frac{10}{5}", "2"),
        ("2", "10/5"),
        ("\\sqrt[3]{2}", "2^{1/3}"),
    ],
    "notation": [
        ("1 1/2", "3/2"),
        ("1\\,000", "1000"),
        ("1000", "1e3"),
        ("1.5 billion", "1500000000"),
        ('"5"', "5"),
        ("5\\text{th}", "5"),
        ("f(x)=x^2", "x^2"),
        ("x>2", "(2,\\infty)"),
        ("15\\mbox{ cm}^2", "15"),
        ("m\\angle A = 40", "40"),
    ],
    "percent": [("50\\%", "0.5"), ("75\\%", "0.75")],
    "order": [("\\{1,2\\}", "\\{2,1\\}"), ("2,1", "1,2")],
    "base": [("1011_2", "1011")],
    "rounding": [("3.00000000001", "3")],
    "no gold": [("5", "")],
}
# Number of the row in math_verify.jsonl: why our careful grader says something else than its authors expect.
ROWS = {3: "decimal comma", 16: "line break", 129: "roman e", 132: "other names"}
VERDICT_WORDS = {
    Verdict.CORRECT: "correct",
    Verdict.INCORRECT: "incorrect",
    Verdict.CANNOT_JUDGE: "cannot judge",
}


# --- what is compared --------------------------------------------------------------------------------------


class Agreement:
    """Our graders over one bridge, and the rows of the tables."""

    def __init__(self, golden: dict[str, Any]) -> None:
        self.golden = golden
        self.bridge = MathBridge(workers=1)

    def close(self) -> None:
        asyncio.run(self.bridge.close())

    def grades(self, pairs: Sequence[tuple[str, str]], rules: Any) -> list[Grade]:
        grader = MathGrader(self.bridge, rules=rules, timeout_s=PATIENCE_S)

        async def all_of_them() -> list[Grade]:
            return [await grader.grade(answer, gold) for answer, gold in pairs]

        return asyncio.run(all_of_them())

    def golden_tables(self) -> dict[str, list[str]]:
        recorded = self.golden["pairs"]
        pairs = [(pair["given"], pair["gold"]) for pair in recorded]
        exact, careful = (self.grades(pairs, rules) for rules in ("cookbook_exact", "careful"))
        kind_of = {pair: kind for kind, listed in KINDS.items() for pair in listed}
        rows = [
            tally("`cookbook_exact` and `grade_answer`", exact, [pair["grade_answer"] for pair in recorded]),
            tally("`cookbook_exact` and `safe_grade`", exact, [pair["safe_grade"] for pair in recorded]),
            tally("`careful` and `grade_answer`", careful, [pair["grade_answer"] for pair in recorded]),
            tally(
                "`careful` and math-verify as upstream calls it",
                careful,
                [pair["math_verify"] for pair in recorded],
            ),
        ]
        listed = [
            f"| {code(pair['given'])} | {code(pair['gold'])} | {VERDICT_WORDS[grade.verdict]} "
            f"| {word(pair['grade_answer'])} | {word(pair['math_verify'])} | {kind_of.get(pairs[n], '?')} |"
            for n, (pair, grade) in enumerate(zip(recorded, careful, strict=True))
            if differs(grade, pair["grade_answer"]) or differs(grade, pair["math_verify"])
        ]
        return {"golden": rows, "golden-list": listed, "forms": self.form_rows()}

    def form_rows(self) -> list[str]:
        pairs = self.golden["pairs"]
        sides = [(pair[side], pair, side) for pair in pairs for side in ("given", "gold")]
        prm = [self.bridge.call("prm_form", {"text": text}).result(PATIENCE_S).value for text, _, _ in sides]
        found = {
            "MATH normal form": [mathd_form(text) == p[f"mathd_normalize_{side}"] for text, p, side in sides],
            "PRM800K normal form": [
                form == pair[f"prm_normalize_{side}"]
                for form, (_, pair, side) in zip(prm, sides, strict=True)
            ],
            "boxed answer": [
                cookbook_boxed_answer(case["text"]) == or_none(case["out"])
                for case in self.golden["extract_boxed"]
            ],
            "GSM8K answer": [
                gsm8k_answer(case["text"]) == or_none(case["out"]) for case in self.golden["gsm8k"]
            ],
            "elements of a tuple": [
                split_elements(c["expr"]) == c["out"] for c in self.golden["split_tuple"]
            ],
        }
        return [f"| {name} | {len(equal)} | {sum(equal)} |" for name, equal in found.items()]

    def data_tables(self, folder: Path) -> dict[str, list[str]]:
        cases = read_rows(folder / "math_verify.jsonl")
        careful = self.grades([(case["prediction"], case["gold"]) for case in cases], "careful")
        differing = [n for n, case in enumerate(cases) if differs(careful[n], case["expected"])]
        listed = [
            f"| {n} | {code(shown(cases[n]['prediction']))} | {code(shown(cases[n]['gold']))} "
            f"| {VERDICT_WORDS[careful[n].verdict]} | {word(cases[n]['expected'])} | {ROWS.get(n, '?')} |"
            for n in differing
        ]
        pairs = read_rows(folder / "latex2sympy_good_pairs.jsonl")
        read = [self.reading(pair["latex"], pair["sympy"]) for pair in pairs]
        kinds = Counter(kind for _, kind in read)
        unequal = [
            f"| {code(shown(pair['latex']))} | {code(shown(pair['sympy']))} | {code(shown(ours))} | {kind} |"
            for pair, (ours, kind) in zip(pairs, read, strict=True)
            if kind != "equal"
        ]
        readings = [f"| {kind} | {count} |" for kind, count in kinds.most_common()]
        row = tally(
            "`math_verify.jsonl`: `careful` and the expected verdict", careful, [c["expected"] for c in cases]
        )
        return {
            "data": [row],
            "data-list": listed,
            "latex": [f"| all | {len(pairs)} |", *readings],
            "latex-list": unequal,
        }

    def reading(self, latex: str, expected: str) -> tuple[str, str]:
        """The LaTeX parser's reading, and how it compares with the recorded one."""
        reply = self.bridge.call("latex_to_sympy", {"latex": latex}).result(PATIENCE_S)
        ours = str(reply.value)
        return ours, self.kind_of_reading(latex, ours, expected)

    @staticmethod
    def kind_of_reading(latex: str, ours: str, expected: str) -> str:
        if ours == expected:
            return "equal"
        if "bar" in latex or "overline" in latex:
            return "another name for a symbol with a bar"
        if "f(x)" in latex:
            return "f(x) is an application, not a product"
        if re.search(r"\d,\d{3}(\\times|E)", latex):
            return "a thousands comma before a power of ten separates two elements"
        if "matrix" in latex and ours.startswith("{"):
            return "braces and lists of matrices are sets"
        difference = sympy.sympify(ours) - sympy.sympify(expected)
        worked_out = sympy.simplify(difference.doit())
        if worked_out == 0 or getattr(worked_out, "is_zero_matrix", False):
            return "the same value, not worked out or in other digits"
        return "?"


def tally(name: str, grades: Sequence[Grade], expected: Sequence[bool]) -> str:
    """One row: cases, agreeing, ours correct and theirs not, ours incorrect and theirs correct, cannot judge."""
    counts = Counter(
        "cannot" if grade.reward is None else (grade.reward == 1.0, theirs)
        for grade, theirs in zip(grades, expected, strict=True)
    )
    agree = counts[True, True] + counts[False, False]
    return f"| {name} | {len(grades)} | {agree} | {counts[True, False]} | {counts[False, True]} | {counts['cannot']} |"


def differs(grade: Grade, theirs: bool) -> bool:
    return grade.reward != float(theirs)


def or_none(out: Any) -> Any:
    """What upstream gave; None where it raised."""
    return None if isinstance(out, dict) else out


def word(verdict: bool) -> str:
    return "correct" if verdict else "incorrect"


def code(text: str) -> str:
    """``text`` as code in a table."""
    return f"`{text}`".replace("|", "\\|") if text else "(empty)"


def shown(text: str) -> str:
    """The end of a long text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"...{line[-57:]}"


def read_golden(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the page ----------------------------------------------------------------------------------------------


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: begin -->\n(?:\|[^\n]*\n){{2}})(.*?)(<!-- {name}: end -->)", re.DOTALL)


def rows_of(page: str, name: str) -> list[str]:
    found = block(name).search(page)
    assert found, f"{PAGE} has no table {name!r}"
    return found[2].splitlines()


@pytest.fixture(scope="module")
def page(pytestconfig: pytest.Config) -> str:
    return (pytestconfig.rootpath / PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def agreement(pytestconfig: pytest.Config) -> Iterator[Agreement]:
    made = Agreement(read_golden(pytestconfig.rootpath / GOLDEN))
    yield made
    made.close()


def check(page: str, tables: dict[str, list[str]]) -> None:
    for name, rows in tables.items():
        assert rows_of(page, name) == rows, f"write these rows into {name!r}:\n" + "\n".join(rows)
        assert not [row for row in rows if row.endswith("| ? |")], "a difference without an explanation"


def test_the_tables_of_the_recorded_verdicts_are_what_is_counted(page: str, agreement: Agreement) -> None:
    check(page, agreement.golden_tables())


@pytest.mark.real
def test_the_tables_of_the_data_files_are_what_is_counted(
    page: str, agreement: Agreement, shared_data: Path
) -> None:
    check(page, agreement.data_tables(shared_data / "math_verify"))


@pytest.mark.parametrize("kind", [*KINDS, *ROWS.values()])
def test_every_kind_of_difference_is_explained_on_the_page(page: str, kind: str) -> None:
    assert f"- **{kind}**: " in page


def test_the_parity_page_repeats_the_counts(page: str, pytestconfig: pytest.Config) -> None:
    parity = (pytestconfig.rootpath / "docs" / "parity.md").read_text(encoding="utf-8")
    assert rows_of(parity, "math") == [*rows_of(page, "golden"), *rows_of(page, "data")]


def write(page: Path, golden: Path, data: Path) -> None:
    agreement = Agreement(read_golden(golden))
    tables = {**agreement.golden_tables(), **agreement.data_tables(data)}
    agreement.close()
    text = page.read_text(encoding="utf-8")
    for name, rows in tables.items():
        body = "".join(f"{row}\n" for row in rows)
        text = block(name).sub(lambda found, body=body: f"{found[1]}{body}{found[3]}", text)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:4]))
