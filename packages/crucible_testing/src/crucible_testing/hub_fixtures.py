"""Generated stand-ins for hub datasets that may not be copied: their real columns, types and layout, other rows.

FIXTURES, NOT THE DATA: every text here is made up by this module. Needs pyarrow to write Parquet.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Sequence
from typing import Any

__all__ = ["no_robots_files", "no_robots_rows", "parquet_bytes", "tulu3_files", "tulu3_rows"]

_CATEGORIES = (
    "Generation", "Open QA", "Brainstorm", "Chat", "Rewrite", "Summarize", "Coding", "Classify", "Closed QA", "Extract",
)  # fmt: skip
_SOURCES = (
    "ai2-adapt-dev/oasst1_converted",
    "ai2-adapt-dev/flan_v2_converted",
    "ai2-adapt-dev/no_robots_converted",
    "ai2-adapt-dev/tulu_v3.9_wildchat_100k",
    "allenai/tulu-3-sft-personas-math-filtered",
)
_THINGS = (
    "lantern",
    "harbour",
    "orchard",
    "compass",
    "violin",
    "glacier",
    "ferry",
    "loom",
    "telescope",
    "bakery",
)
_VERBS = ("describe", "explain", "compare", "summarise", "praise", "question")


def _exchange(rng: random.Random, number: int) -> tuple[str, str]:
    thing, other = rng.sample(_THINGS, 2)
    verb = rng.choice(_VERBS)
    asked = f"Please {verb} a {thing} that stands next to a {other}. (fixture {number})"
    said = f"A {thing} is not a {other}: fixture {number} says so in {rng.randint(2, 9)} words."
    return asked, said


def no_robots_rows(split: str = "train", *, count: int = 200, seed: int = 7) -> list[dict[str, Any]]:
    """Fixture rows with the columns of HuggingFaceH4/no_robots: prompt, prompt_id, messages, category."""
    rng = random.Random(f"no_robots:{split}:{seed}")
    rows = []
    for number in range(count):
        asked, said = _exchange(rng, number)
        messages = [{"content": asked, "role": "user"}, {"content": said, "role": "assistant"}]
        category = rng.choice(_CATEGORIES)
        if category == "Chat":
            more, reply = _exchange(rng, number)
            messages += [{"content": more, "role": "user"}, {"content": reply, "role": "assistant"}]
            messages.insert(
                0, {"content": "You are a fixture that answers in one sentence.", "role": "system"}
            )
        rows.append(
            {
                "prompt": asked,
                "prompt_id": hashlib.sha256(f"{split}{number}{asked}".encode()).hexdigest(),
                "messages": messages,
                "category": category,
            }
        )
    return rows


def tulu3_rows(*, count: int = 200, seed: int = 7) -> list[dict[str, Any]]:
    """Fixture rows with the columns of allenai/tulu-3-sft-mixture: id, messages, source."""
    rng = random.Random(f"tulu3:{seed}")
    rows = []
    for number in range(count):
        turns = [_exchange(rng, number) for _ in range(rng.choice((1, 1, 2, 3)))]
        messages = [
            {"content": text, "role": role}
            for asked, said in turns
            for role, text in (("user", asked), ("assistant", said))
        ]
        rows.append({"id": f"fixture_{seed}_{number}", "messages": messages, "source": rng.choice(_SOURCES)})
    return rows


def parquet_bytes(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as one Parquet file; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, compression="snappy", row_group_size=100)
    return sink.getvalue()


def _card(splits: Sequence[str]) -> bytes:
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in splits)
    head = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    return (head + "\n# FIXTURE: generated rows with the schema of the dataset of this name\n").encode()


def no_robots_files(*, count: int = 200, held_out: int = 50) -> dict[str, bytes]:
    """Files of the fixture repository HuggingFaceH4/no_robots: ``count`` training and ``held_out`` test rows."""
    return {
        "README.md": _card(("train", "test")),
        "data/train-00000-of-00001.parquet": parquet_bytes(no_robots_rows("train", count=count)),
        "data/test-00000-of-00001.parquet": parquet_bytes(no_robots_rows("test", count=held_out)),
    }


def tulu3_files(*, parts: int = 2, count: int = 200) -> dict[str, bytes]:
    """Files of the fixture repository allenai/tulu-3-sft-mixture: ``count`` rows in ``parts`` files."""
    rows = tulu3_rows(count=count)
    size = -(-len(rows) // parts)
    files = {
        f"data/train-{part:05d}-of-{parts:05d}.parquet": parquet_bytes(rows[part * size : (part + 1) * size])
        for part in range(parts)
    }
    return {"README.md": _card(("train",)), **files}
