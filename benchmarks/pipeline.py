"""From conversations to datums: conversations and tokens per processor second, by renderer and tokenizer.

    python -m benchmarks.pipeline [--conversations 2000] [--rounds 5] [--tokenizers FOLDER]

``FOLDER`` holds one folder per tokenizer (``qwen3``, ``llama-3.1-instruct``, …); without it the bundled one serves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from crucible_tiny import data_path, model_path
from crucible_torch.tokenizer import load_tokenizer
from crucible_train.ports import Tokenizer
from crucible_train.renderers import Message, get_renderer, message_from_dict
from crucible_train.supervised import conversation_to_datum

__all__ = ["main", "measure"]

_OF = {"role_colon": "qwen3", "qwen3": "qwen3", "llama3": "llama-3.1-instruct"}
"""The folder of the tokenizer that each renderer is measured with."""


def conversations(count: int) -> list[list[Message]]:
    """Bundled chats, made longer by stringing two of them together so that lengths resemble real ones."""
    rows = [json.loads(line)["messages"] for line in data_path("chat_train").read_text().splitlines()]
    plain = [[message for message in row if message["role"] != "system"] for row in rows]
    joined = [plain[i % len(plain)] + plain[(7 * i + 3) % len(plain)] for i in range(count)]
    return [[message_from_dict(message) for message in row] for row in joined]


def measure(name: str, tokenizer: Tokenizer, rows: Sequence[Sequence[Message]]) -> tuple[float, float]:
    """Conversations and tokens per processor second."""
    renderer = get_renderer(name, tokenizer)
    started = time.process_time()
    tokens = sum(conversation_to_datum(row, renderer).model_input.length for row in rows)
    spent = time.process_time() - started
    return len(rows) / spent, tokens / spent


def main(arguments: Sequence[str]) -> int:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline")
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokenizers", type=Path)
    options = parser.parse_args(arguments)
    rows = conversations(options.conversations)
    figures = {}
    for name, folder in _OF.items():
        place = options.tokenizers / folder if options.tokenizers else model_path()
        found = [measure(name, load_tokenizer(str(place)), rows) for _ in range(options.rounds)]
        figures[name] = {
            unit: [round(value) for value in (statistics.median(column), min(column), max(column))]
            for unit, column in zip(
                ("conversations_per_cpu_s", "tokens_per_cpu_s"), zip(*found, strict=True), strict=True
            )
        }
    sys.stdout.write(f"JSON {json.dumps(figures)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
