"""Preference losses: values, metrics, gradients, and the loss over datums as the training loop calls it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import EQUAL, Ledger
from sides import Scorer, close, their_datum
from tinker_cookbook.preference import train_dpo

from crucible_train.preference import DpoSettings, dpo, dpo_loss, sequence_logprobs
from crucible_train.rl import scored_input
from crucible_train.supervised import datum_from_model_input_weights
from crucible_train.types import ModelInput

betas = st.sampled_from((0.01, 0.1, 0.5, 1.0, 5.0))
numbers = st.floats(-60, 0)


def test_losses_metrics_and_gradients_are_those_of_upstream(ledger: Ledger) -> None:
    @settings(max_examples=1000)
    @given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=6), betas)
    def check(rows: list[tuple[float, ...]], beta: float) -> None:
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        ours = dpo(*columns, DpoSettings(beta=beta))
        policy = [torch.tensor(column, requires_grad=i < 2) for i, column in enumerate(columns)]
        loss, metrics = train_dpo.compute_dpo_loss(*[list(column.unbind()) for column in policy], beta)
        loss.backward()
        ledger.note("DPO loss", verdict((ours.loss, float(loss.detach()))), (rows, beta))
        same = ours.metrics.keys() == metrics.keys() and all(
            close(ours.metrics[name], metrics[name], rtol=1e-6, atol=1e-9) for name in metrics
        )
        ledger.note("DPO metrics", EQUAL if same else f"{ours.metrics} and not {metrics}", (rows, beta))
        found = [(ours.gradient_chosen, policy[0].grad), (ours.gradient_rejected, policy[1].grad)]
        ledger.note("DPO gradients", verdict(*[(a, b.numpy()) for a, b in found]), (rows, beta))

    check()


def verdict(*pairs: tuple[Any, Any]) -> str:
    same = all(close(ours, theirs, rtol=1e-9, atol=1e-12) for ours, theirs in pairs)
    return EQUAL if same else f"{pairs}"


class Loop:
    """What upstream's step calls: gives its batch and keeps the loss that it is handed."""

    def __init__(self, data: list[Any]) -> None:
        self.data = data
        self.loss_fn: Any = None

    def get_batch(self, index: int) -> list[Any]:
        return self.data

    def forward_backward_custom(self, data: list[Any], loss_fn: Any) -> Any:
        assert len(data) == len(self.data)
        self.loss_fn = loss_fn
        return SimpleNamespace(result=lambda: SimpleNamespace(metrics={}))

    def optim_step(self, parameters: Any) -> Any:
        return SimpleNamespace(result=lambda: None)


def test_the_loss_over_datums_is_that_of_upstreams_step(ledger: Ledger) -> None:
    tokens = st.lists(st.integers(0, 50), min_size=2, max_size=8)
    floats = st.floats(-5, 0, width=32)

    @settings(max_examples=300)
    @given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=3), betas, st.data())
    def check(pairs: list[tuple[list[int], list[int]]], beta: float, data: st.DataObject) -> None:
        rows = [row for pair in pairs for row in pair]
        weights = [
            data.draw(st.lists(st.sampled_from((0.0, 1.0)), min_size=len(r), max_size=len(r))) for r in rows
        ]
        datums = [
            datum_from_model_input_weights(ModelInput.from_ints(row), weight)
            for row, weight in zip(rows, weights, strict=True)
        ]
        policy, reference = (
            [
                np.float32(
                    data.draw(st.lists(floats, min_size=d.model_input.length, max_size=d.model_input.length))
                )
                for d in datums
            ]
            for _ in range(2)
        )
        ours = dpo_loss(sequence_logprobs(datums, reference).reshape(-1, 2), DpoSettings(beta=beta))(
            datums, policy
        )
        theirs, loss, metrics = upstream_step(datums, policy, reference, beta)
        same = close(ours.loss, loss, rtol=1e-5, atol=1e-5) and all(
            close(ours.metrics[name], metrics[name], rtol=1e-5, atol=1e-4)
            for name in metrics
            if name != "accuracy"
        )
        # a tie may be one bit off in float32: the share of won pairs is compared where no pair is near one
        gains = sequence_logprobs(datums, policy) - sequence_logprobs(datums, reference)
        clear = np.abs(gains[::2] - gains[1::2]) > 1e-4
        if clear.all():
            same = same and close(ours.metrics["accuracy"], metrics["accuracy"], atol=1e-6)
        same = same and all(
            close(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours.gradients, theirs, strict=True)
        )
        ledger.note("DPO over datums", EQUAL if same else f"{ours} and not {loss} {metrics}", (pairs, beta))

    check()


def upstream_step(
    datums: list[Any], policy: list[Any], reference: list[Any], beta: float
) -> tuple[list[Any], float, dict[str, float]]:
    """Gradients, loss and metrics of the loss that upstream's step makes of a batch."""
    theirs = [their_datum(datum) for datum in datums]
    loop = Loop(theirs)
    scorer = Scorer([[None, *map(float, row)] for row in reference])
    config = SimpleNamespace(
        learning_rate=1e-5,
        lr_schedule="linear",
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_eps=1e-8,
        eval_every=0,
        infrequent_eval_every=0,
        dpo_beta=beta,
        span_chart_every=0,
    )
    logger = SimpleNamespace(store=None, log_metrics=lambda metrics, step: None)
    train_dpo.do_update(0, 1, 4, 4, config, loop, scorer, [], [], loop, logger, "", None, None)
    assert scorer.asked == [scored_input(datum).to_ints() for datum in datums]
    leaves = [torch.tensor(row, requires_grad=True) for row in policy]
    loss, metrics = loop.loss_fn(theirs, leaves)
    loss.backward()
    return [leaf.grad.numpy() for leaf in leaves], float(loss.detach()), metrics
