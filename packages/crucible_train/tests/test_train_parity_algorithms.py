"""The table of preferences, reinforcement and distillation in docs/parity.md is what the files hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


def has_integer_advantages(case: dict[str, Any]) -> bool:
    return any(datum["advantages"]["dtype"] == "int64" for datum in case.get("data", ()))


def test_the_rows_of_the_algorithms_are_what_their_files_hold(
    pytestconfig: pytest.Config, golden: Callable[[str], dict[str, Any]]
) -> None:
    page = (pytestconfig.rootpath / "docs" / "parity.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- algorithms: begin -->\n(.*?)<!-- algorithms: end -->", page, re.DOTALL)
    assert found
    rows = [
        tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
        for line in found[1].splitlines()
        if line.startswith("| `")
    ]
    groups, kl, order = golden("rl_advantages_metrics"), golden("rl_kl"), golden("rl_order")
    trajectories = golden("rl_trajectory_to_data")["cases"]
    off_policy = golden("distill_off_policy")
    held = [
        ("dpo.json", len(golden("dpo")["cases"]), 0),
        ("rl_trajectory_to_data.json", len(trajectories), sum(map(has_integer_advantages, trajectories))),
        *(
            ("rl_advantages_metrics.json", len(groups[name]), 0)
            for name in ("advantages", "remove_constant", "trajectory_metrics", "assemble")
        ),
        *(
            ("rl_kl.json", len(kl[name]), 0)
            for name in ("kl_penalty", "distill_kl", "kl_sample_train", "post_kl", "discounted_future_sum")
        ),
        *(
            ("rl_order.json", len(order[name]), 0)
            for name in (
                "split_list",
                "cycle_permutation",
                "epoch_batch_index",
                "interleaved",
                "arithmetic",
                "extract_final_int",
            )
        ),
        ("rl_env_steps.json", len(golden("rl_env_steps")["cases"]), 0),
        ("distill_off_policy.json", len(off_policy["topk"]), len(off_policy["topk"])),
        (
            "distill_off_policy.json",
            len(off_policy["composite"]),
            sum(len(case["batch1"]) < case["batch_size"] for case in off_policy["composite"]),
        ),
    ]
    assert [(name, int(cases), int(equal), int(explained)) for name, _, cases, equal, explained in rows] == [
        (name, cases, cases - explained, explained) for name, cases, explained in held
    ]
