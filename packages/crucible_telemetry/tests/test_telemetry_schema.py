"""Declared metrics."""

from dataclasses import dataclass

import pytest

from crucible_ir import ConfigError
from crucible_telemetry import MetricSchema, MetricSpec

NLL = MetricSpec(name="train_mean_nll", unit="nats/token", direction="lower", description="mean loss")
REWARD = MetricSpec(name="env/*/reward", unit="1", direction="higher", description="mean reward of a task")


def test_a_declared_name_is_found_and_a_pattern_covers_its_family():
    schema = MetricSchema([NLL, REWARD])
    assert schema.spec("train_mean_nll") == NLL
    assert schema.spec("env/gsm8k/reward") == REWARD
    assert schema.spec("env/gsm8k/length") is None
    assert list(schema) == [NLL, REWARD]
    assert len(schema) == 2


def test_an_exact_declaration_goes_before_a_pattern():
    exact = MetricSpec(name="env/math/reward", unit="points", direction="higher", description="reward")
    assert MetricSchema([REWARD, exact]).spec("env/math/reward") == exact


def test_every_undeclared_name_is_refused_with_the_nearest_declared_one():
    schema = MetricSchema([NLL, REWARD])
    schema.check(["train_mean_nll", "env/a/reward"])
    with pytest.raises(ConfigError) as caught:
        schema.check(["train_mean_nl", "zzz"])
    first, second = caught.value.problems
    assert (first.path, first.remedy) == ("train_mean_nl", "did you mean 'train_mean_nll'?")
    assert (second.path, second.remedy) == ("zzz", "declare its unit, direction and meaning")
    assert schema.undeclared(["zzz", "train_mean_nll"]) == ["zzz"]


def test_declarations_of_other_packages_fit_by_their_shape():
    @dataclass(frozen=True)
    class Theirs:
        name: str = "tokens"
        unit: str = "tokens"
        direction: str = "none"
        description: str = "tokens trained on"

    schema = MetricSchema([Theirs()]) | MetricSchema([NLL])
    assert schema.spec("tokens") == MetricSpec(
        name="tokens", unit="tokens", direction="none", description="tokens trained on"
    )
    assert len(schema) == 2


def test_two_declarations_of_one_name_must_agree():
    assert len(MetricSchema([NLL, NLL])) == 1
    other = MetricSpec(name=NLL.name, unit="bits/byte", direction="lower", description="x")
    with pytest.raises(ConfigError, match="declared twice"):
        MetricSchema([NLL, other])
