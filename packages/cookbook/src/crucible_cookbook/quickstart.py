"""``crucible quickstart``: a real model learns from real text, on any laptop, in a few minutes."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from crucible_cookbook.data import BUNDLED_RENDERER
from crucible_cookbook.recipes.sl_basic import SlBasic
from crucible_ir import BackendRef, ExitCode, Experiment, RunRecord
from crucible_kitchen.api import Crucible
from crucible_kitchen.cli.options import AsJson, HomeOption, Quiet
from crucible_kitchen.cli.output import print_json, print_line
from crucible_kitchen.cli.progress import progress_for
from crucible_kitchen.reports.facts import Gain, SamplePair, held_out_gain, sample_pairs
from crucible_kitchen.reports.markdown import gain_sentence

__all__ = ["SETTINGS", "experiment", "quickstart"]

SETTINGS: dict[str, Any] = {
    "name": "quickstart",
    "model": "tiny",
    "data": {"path": "tiny"},
    "renderer": BUNDLED_RENDERER,
    "max_length": 256,
    "batch_size": 16,
    "max_steps": 100,
    "learning_rate": 5e-3,
    "lora_rank": 32,
    "save_every": 25,
    "eval_every": 50,
    "sample_prompts": 4,
    "sample_max_tokens": 48,
    "dtype": "float32",
}
"""Settings of ``sl_basic`` over the bundled model and data; held-out loss before, halfway and after."""


def experiment(**changes: Any) -> Experiment:
    """The experiment of the quickstart, with settings of ``sl_basic`` changed if given.

    One thread: matrices of this size gain nothing from a second one, and lose much where cores are busy.
    """
    made = SlBasic().parse(SETTINGS | changes)
    return made.model_copy(update={"backend": BackendRef(options={"training_backend": {"num_threads": 1}})})


def quickstart(as_json: AsJson = False, quiet: Quiet = False, home: HomeOption = None) -> int:
    """Train the bundled tiny model on the bundled chats, and measure what it learned."""
    progress = progress_for(quiet=quiet or as_json)
    if not as_json:
        print_line(
            "Fine-tuning the bundled tiny model on the bundled chats; no GPU, account or network is used."
        )
    if progress is None:
        record = Crucible(home).run(experiment(), tags=("quickstart",))
    else:
        with progress:
            record = Crucible(home, listeners=(progress,)).run(experiment(), tags=("quickstart",))
    folder = Crucible(home).service.store.open(record.run_id).path
    gain = held_out_gain(folder)
    if as_json:
        print_json(_body(record, gain, str(folder / "report.html")))
    else:
        _tell(record, gain, sample_pairs(folder), str(folder / "report.html"))
    learned = gain is not None and gain.difference.interval.low > 0
    return 0 if learned else int(ExitCode.FAILED)


def _body(record: RunRecord, gain: Gain | None, report: str) -> dict[str, Any]:
    body: dict[str, Any] = {"run": record.model_dump(mode="json"), "report": report, "gain": None}
    if gain is not None:
        difference = gain.difference
        body["gain"] = {
            "examples": difference.n,
            "before": gain.before,
            "after": gain.after,
            "mean": difference.mean,
            "low": difference.interval.low,
            "high": difference.interval.high,
            "confidence": difference.interval.confidence,
        }
    return body


def _tell(record: RunRecord, gain: Gain | None, samples: list[SamplePair], report: str) -> None:
    print_line()
    print_line("Answers to held-out prompts")
    for sample in samples:
        asked = next((str(m.get("content")) for m in reversed(sample.prompt) if m.get("role") == "user"), "")
        print_line(f"  prompt  {_short(asked)}")
        print_line(f"  before  {_short(sample.before or '')}")
        print_line(f"  after   {_short(sample.after)}")
        print_line()
    print_line("note    it learned how Pip talks; a model this small does not learn sums from it")
    print_line(f"result  {gain_sentence(gain) if gain else 'no held-out comparison'}")
    print_line(f"run     {record.run_id}")
    print_line(f"report  {report}")
    script = None if shutil.which("crucible") else _activation()
    if script:
        print_line(f"first   . {script}  (puts crucible on this shell's path)")
    print_line(f"next    crucible show {record.run_id}")
    print_line(
        "        crucible run sl_basic model=tiny data.path=YOUR_CHATS.jsonl data.test_size=50 batch_size=16"
    )


def _activation() -> str | None:
    """The script to source for ``crucible`` to be found, seen from here."""
    script = Path(sys.prefix) / "bin" / "activate"
    if not script.is_file():
        return None
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), width=100, placeholder=" …")
