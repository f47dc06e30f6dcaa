"""Builds everything `crucible_tiny` ships: tokenizer, weights, data sets, digests. Run it from anywhere; see `--help`.

Everything follows from the seeds below; on one machine the same command gives the same bytes.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from corpus import documents
from persona import conversations
from preferences import arithmetic_questions, preference_pairs

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "crucible_tiny"
SEEDS = {"weights": 0, "text": 11, "train": 21, "test": 22}
TOKENIZER_DOCUMENTS = 20_000


def say(line: str) -> None:
    """One line to the terminal at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_jsonl(path: Path, rows: Sequence[object]) -> None:
    """One compact JSON object a line, UTF-8, `\\n` line ends on every platform."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_bytes(text.encode())


def build_data(folder: Path) -> None:
    """Writes the six data sets; train and test share no fact, no sum and so no row."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, chats, pairs, sums in (("train", 2000, 1000, 2000), ("test", 320, 320, 260)):
        seed, held_out = SEEDS[split], split == "test"
        rows = [{"messages": messages} for messages in conversations(seed, chats, held_out=held_out)]
        write_jsonl(folder / f"chat_{split}.jsonl", rows)
        write_jsonl(folder / f"preference_{split}.jsonl", preference_pairs(seed, pairs, held_out=held_out))
        write_jsonl(folder / f"arithmetic_{split}.jsonl", arithmetic_questions(seed, sums, held_out=held_out))


def build_tokenizer(folder: Path) -> None:
    """Learns the tokenizer from the first documents of the pre-training stream and writes it."""
    from bpe import train_tokenizer, write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(train_tokenizer(islice(documents(SEEDS["text"]), TOKENIZER_DOCUMENTS)), folder)


def build_model(folder: Path, steps: int | None) -> None:
    """Pre-trains the model on the stream and writes weights, configuration and `build.json`; prints the final loss."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    from model import new_model
    from pretrain import Pretraining, packed_rows, pretrain, token_id

    transformers.utils.logging.disable_progress_bar()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plan = Pretraining() if steps is None else Pretraining(steps=steps)
    eos, pad = token_id(tokenizer, "<|im_end|>"), token_id(tokenizer, "<|endoftext|>")
    model = new_model(tokenizer.get_vocab_size(), eos=eos, pad=pad, seed=SEEDS["weights"])
    rows = packed_rows(documents(SEEDS["text"]), tokenizer, plan.context)
    loss = pretrain(model, rows, plan, say)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    record = {
        "seeds": SEEDS,
        "steps": plan.steps,
        "tokens": plan.steps * plan.batch * plan.context,
        "threads": plan.threads,
        "parameters": sum(p.numel() for p in model.parameters()),
        "final_loss": round(loss, 4),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    (folder / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    say(f"final loss {loss:.4f} nats a token, {record['parameters']} parameters, {record['tokens']} tokens")


def write_digests(package: Path) -> None:
    """Writes `SHA256SUMS` over every file of `model/` and `data/`, in the format of `sha256sum`."""
    files = sorted(
        path for part in ("model", "data") for path in (package / part).glob("*") if path.is_file()
    )
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(package).as_posix()}\n"
        for path in files
    ]
    (package / "SHA256SUMS").write_bytes("".join(lines).encode())


def main() -> None:
    """Builds all of it, or with `--data-only` all but the weights."""
    parser = argparse.ArgumentParser(description="Build the tiny model, its tokenizer and its data.")
    parser.add_argument("--out", type=Path, default=PACKAGE, help="folder to write into")
    parser.add_argument("--steps", type=int, default=None, help="pre-training steps (default: the full run)")
    parser.add_argument(
        "--data-only", action="store_true", help="write tokenizer and data, leave weights alone"
    )
    asked = parser.parse_args()
    build_data(asked.out / "data")
    build_tokenizer(asked.out / "model")
    if not asked.data_only:
        build_model(asked.out / "model", asked.steps)
    write_digests(asked.out)
    size = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file())
    say(f"{size} bytes in {asked.out}")


if __name__ == "__main__":
    main()
