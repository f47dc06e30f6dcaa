"""Schedules, recommended rates, widths, adapter sizes, and which rows each batch takes."""

from __future__ import annotations

import contextlib
from typing import Any

import datasets
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import EQUAL, REFUSED, Ledger
from sides import close
from tinker_cookbook import hyperparam_utils
from tinker_cookbook.supervised.data import SupervisedDatasetFromHFDataset
from tinker_cookbook.utils.lr_scheduling import compute_schedule_lr_multiplier

from crucible_ir.errors import ConfigError
from crucible_train.hyperparameters import LORA_OVER_FULL, get_lora_param_count, get_lr, hidden_size
from crucible_train.models import MODEL_FACTS
from crucible_train.schedules import lr_multiplier
from crucible_train.supervised import SupervisedBatches, batch_indices

MODELS = sorted({*MODEL_FACTS, *hyperparam_utils._LORA_PARAMS_PER_RANK_BY_COMPONENT})


def test_schedules_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=3000)
    @given(st.sampled_from(("linear", "cosine", "constant")), st.integers(-2, 3000), st.integers(0, 3100))
    def check(schedule: Any, total: int, step: int) -> None:
        ours = theirs = None
        with contextlib.suppress(ConfigError):
            ours = lr_multiplier(schedule, step, total)
        with contextlib.suppress(Exception):  # whatever its class, it is upstream's refusal
            theirs = compute_schedule_lr_multiplier(schedule, step, total)
        if ours is None or theirs is None:
            verdict = REFUSED if ours is theirs else f"{ours} and not {theirs}"
        elif step > total and schedule != "constant" and ours == 0:
            verdict = "schedule ends" if theirs != 0 else EQUAL
        else:
            verdict = EQUAL if close(ours, theirs, atol=1e-15) else f"{ours} and not {theirs}"
        ledger.note("learning-rate schedules", verdict, (schedule, total, step))

    check()


def number(compute: Any) -> Any:
    """The number, or None where it is refused (upstream: in whatever class of exception)."""
    try:
        return compute()
    except Exception:  # noqa: BLE001 - whatever its class, it is a refusal
        return None


def test_rates_widths_and_adapter_sizes_are_those_of_upstream(ledger: Ledger) -> None:
    assert hyperparam_utils.get_lora_lr_over_full_finetune_lr("any") == LORA_OVER_FULL
    for name in MODELS:
        for model in (name, f"{name}:peft:262144"):
            pairs = {
                "recommended rates": [
                    (lambda m=model: get_lr(m), lambda m=model: hyperparam_utils.get_lr(m)),
                    (lambda m=model: get_lr(m, False), lambda m=model: hyperparam_utils.get_lr(m, False)),
                ],
                "widths": [
                    (lambda m=model: hidden_size(m), lambda m=model: hyperparam_utils._get_hidden_size(m))
                ],
                "adapter sizes": [
                    (
                        lambda m=model, r=rank, k=kinds: get_lora_param_count(m, r, **k),
                        lambda m=model, r=rank, k=kinds: hyperparam_utils.get_lora_param_count(m, r, **k),
                    )
                    for rank in (1, 32, 128)
                    for kinds in PARTS
                ],
            }
            for area, found in pairs.items():
                for ours, theirs in found:
                    one, other = number(ours), number(theirs)
                    refused = one is None and other is None
                    same = None not in (one, other) and close(one, other, rtol=1e-15)
                    verdict = REFUSED if refused else EQUAL if same else f"{one} and not {other}"
                    ledger.note(area, verdict, model)


PARTS = [
    {"train_mlp": mlp, "train_attn": attn, "train_unembed": unembed}
    for mlp in (True, False)
    for attn in (True, False)
    for unembed in (True, False)
]


def test_batches_take_the_rows_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=300)
    @given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 3), st.none() | st.integers(0, 2**31))
    def check(rows: int, size: int, epochs: int, before: int | None) -> None:
        table = datasets.Dataset.from_dict({"row": list(range(rows))})
        order = np.arange(rows)
        if before is not None:  # as FromConversationFileBuilder does before it splits
            table, order = table.shuffle(seed=before), np.random.default_rng(before).permutation(rows)
        theirs = SupervisedDatasetFromHFDataset(table, size, map_fn=lambda row: row["row"])
        case = (rows, size, epochs, before)
        if size > rows:
            refused = number(lambda: batch_indices(rows, size, 0)) is None and len(theirs) == 0
            ledger.note("rows of batches", "batch too large" if refused else "not refused", case)
            return
        batches = SupervisedBatches(rows=rows, batch_size=size, epochs=epochs)
        assert batches.per_epoch == len(theirs)
        for epoch in range(epochs):
            theirs.set_epoch(seed=epoch)
            ours = [order[batch].tolist() for batch in batches.epoch(epoch)]
            same = ours == [theirs.get_batch(i) for i in range(len(theirs))]
            ledger.note("rows of batches", EQUAL if same else "differ", (*case, epoch))

    check()
