"""The report as one HTML file that needs nothing else: no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from crucible_kitchen.reports.facts import ReportFacts, SamplePair
from crucible_kitchen.reports.markdown import gain_sentence, identity_rows, setting_rows

__all__ = ["curve", "page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fff; --line: #2563eb; --faint: #8a94a6; --box: #f4f6fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --paper: #12161d; --line: #7aa2ff; --faint: #8a94a6; --box: #1b212b } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.result { background: var(--box); border-left: 4px solid var(--line); padding: .8rem 1rem }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem }
figure { margin: 0; background: var(--box); padding: .6rem } figcaption { font-size: .85rem; color: var(--faint) }
svg { width: 100%; height: auto } polyline { fill: none; stroke: var(--line); stroke-width: 1.6 }
circle { fill: var(--line) } svg text { fill: var(--faint); font: 11px system-ui, sans-serif }
table { border-collapse: collapse; width: 100% } td { padding: .25rem .5rem; border-bottom: 1px solid var(--box);
  vertical-align: top; overflow-wrap: anywhere } td:first-child { color: var(--faint); white-space: nowrap;
  width: 11rem }
.sample { background: var(--box); padding: .6rem 1rem; margin: .6rem 0 } .sample b { color: var(--faint) }
""".strip()

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 200, 64, 22


def curve(points: Sequence[tuple[int, float]], *, label: str) -> str:
    """An SVG line through finite ``points`` (step, value), with the ends of both axes written out."""
    finite = [(x, y) for x, y in points if y == y and abs(y) != float("inf")]
    if not finite:
        return ""
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y - y0) / (y1 - y0) if y1 > y0 else 0.5
        return _LEFT + across * (_WIDTH - _LEFT - 8), 10 + (1 - up) * (_HEIGHT - _BOTTOM - 10)

    placed = [place(x, y) for x, y in finite]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = (
        "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in placed)
        if len(placed) <= 40
        else ""
    )
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'
        for x, y, anchor, text in (
            (_LEFT - 6, 14, "end", f"{y1:.4g}"),
            (_LEFT - 6, _HEIGHT - _BOTTOM, "end", f"{y0:.4g}"),
            (_LEFT, _HEIGHT - 4, "start", f"step {x0}"),
            (_WIDTH - 8, _HEIGHT - 4, "end", f"{x1}"),
        )
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<polyline points="{line}"/>{dots}{texts}</svg><figcaption>{escape(label)}</figcaption></figure>'
    )


def page(facts: ReportFacts) -> str:
    """The whole page."""
    title = f"{facts.experiment.id}: {facts.run_id}"
    results = [gain_sentence(gain) for gain in facts.gains] or ["No held-out comparison."]
    curves = "".join(curve(points, label=name) for name, points in facts.curves.items())
    settings = _table(setting_rows(facts))
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in facts.remarks)
    samples = "".join(_sample(sample) for sample in facts.samples)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *(f'<p class="result">{escape(result)}</p>' for result in results),
            f"<h2>Notes</h2><ul>{remarks}</ul>" if remarks else "",
            f'<h2>Curves</h2><div class="curves">{curves}</div>',
            f"<h2>Samples</h2>{samples}" if samples else "",
            f"<h2>Settings</h2>{settings}" if settings else "",
            f"<h2>Identity</h2>{_table(identity_rows(facts))}",
            "</body></html>\n",
        ]
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>" for name, value in rows
    )
    return f"<table>{cells}</table>" if rows else ""


def _sample(sample: SamplePair) -> str:
    asked = next((str(m.get("content")) for m in reversed(sample.prompt) if m.get("role") == "user"), "")
    rows = [("prompt", asked), ("wanted", sample.reference)]
    if sample.before is not None:
        rows.append(("before", sample.before))
    rows.append(("after", sample.after))
    lines = "<br>".join(f"<b>{name}</b> {escape(text)}" for name, text in rows)
    return f'<div class="sample">{lines}</div>'
