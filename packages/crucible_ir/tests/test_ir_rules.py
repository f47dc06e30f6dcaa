"""Each rule of each contract accepts what it should and refuses what it should not."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_ir import ConfigError, digest_of
from crucible_ir.schema import contract_named

STAGE = {"name": "a"}
WHEN = "2026-01-06T10:15:00Z"
USER = {"role": "user", "content": "hi"}

# contract, the field with the rule, values it accepts, values it refuses, what else must be given
RULES: list[tuple[str, str, list[Any], list[Any], dict[str, Any]]] = [
    ("Experiment", "pipeline", [[STAGE]], [[], "a", None], {"id": "x"}),
    ("Experiment", "seed", [0, 7], [-1, 1.5, "x"], {"id": "x", "pipeline": [STAGE]}),
    ("Experiment", "experiment_type", ["training", "evaluation", "comparison", "ablation"], ["train"],
     {"id": "x", "pipeline": [STAGE]}),
    ("Experiment", "created_at", [WHEN, None], ["2026-01-06T10:15:00", "yesterday"],
     {"id": "x", "pipeline": [STAGE]}),
    ("Experiment", "settings", [{"a": [1, {"b": None}]}], [{"a": float("inf")}, [1]],
     {"id": "x", "pipeline": [STAGE]}),
    ("BackendRef", "adapters", [{"hub": "local"}], [{"hub": "pkg.mod:Class"}, {"hub": ""}], {}),
    ("OutputSpec", "formats", [["markdown", "json", "html"]], [[], ["pdf"]], {"name": "r"}),
    ("StageDef", "timeout_s", [0.1, None], [0, -1, float("inf")], {"name": "a"}),
    ("RetryPolicy", "attempts", [1, 5], [0, -1], {}),
    ("RetryPolicy", "factor", [1, 2.5], [0.5], {}),
    ("LoopDef", "body", [[STAGE]], [[]], {"name": "l", "over": "n"}),
    ("ParallelDef", "max_concurrency", [1], [0], {"name": "p", "branches": [[STAGE]]}),
    ("DatasetRef", "digest", [digest_of(1), None], ["sha256:0", "md5:1", digest_of(1).upper()], {"id": "d"}),
    ("DatasetRef", "limit", [1, None], [0, -5], {"id": "d"}),
    ("DatasetRef", "skip", [0, 5], [-1], {"id": "d"}),
    ("DatasetRef", "format", ["auto", "jsonl", "csv", "json", "parquet"], ["xml"], {"id": "d"}),
    ("DatasetRef", "kind", ["dataset"], ["model"], {"id": "d"}),
    ("Ref", "kind", ["evaluation", "approval"], [""], {"id": "d"}),
    ("ModelRef", "stage", ["development", "staging", "production", "archived", "experiment"], ["prod"],
     {"id": "m"}),
    ("CheckpointRef", "step", [0, None], [-1], {"id": "c", "path": "p"}),
    ("ArtifactRef", "size_bytes", [0, None], [-1], {"id": "a", "uri": "u"}),
    ("TrainingConfig", "epochs", [1, 3], [0], {}),
    ("TrainingConfig", "batch_size", [1, 128], [0, -1], {}),
    ("TrainingConfig", "micro_batch_size", [1, 8, None], [0, 9], {"batch_size": 8}),
    ("TrainingConfig", "max_steps", [1, None], [0], {}),
    ("TrainingConfig", "max_length", [2], [1], {}),
    ("TrainingConfig", "dtype", ["auto", "float32", "bfloat16"], ["float16"], {}),
    ("LoraSpec", "rank", [1], [0], {}),
    ("LoraSpec", "alpha", [0.5], [0], {}),
    ("OptimizerSpec", "learning_rate", [0, 1e-4], [-1e-9, float("nan"), float("inf")], {}),
    ("OptimizerSpec", "beta2", [0, 0.999], [1, -0.1], {}),
    ("OptimizerSpec", "eps", [1e-8], [0], {}),
    ("ScheduleSpec", "warmup_steps", [0, 10], [-1], {}),
    ("ScheduleSpec", "name", ["linear", "cosine", "constant"], ["step"], {}),
    ("Event", "seq", [1], [0], {"run_id": "r", "type": "log", "at": WHEN}),
    ("Event", "at", [WHEN], ["2026-01-06T10:15:00", None], {"run_id": "r", "type": "log", "seq": 1}),
    ("Event", "data", [{"loss": float("nan")}], [{"x": object()}, 3],
     {"run_id": "r", "type": "log", "seq": 1, "at": WHEN}),
    ("MetricRow", "step", [0], [-1], {"metrics": {}}),
    ("MetricRow", "metrics", [{"loss": 1, "nan": float("nan")}], [{"loss": "high"}], {"step": 0}),
    ("Usage", "seconds", [0, 1.5], [-1], {}),
    ("Usage", "cost_usd", [0, None], [-0.01], {}),
    ("ExampleResult", "verdict", ["correct", "incorrect", "cannot_judge", None], ["wrong"],
     {"example_id": "e", "metric": "m", "score": 1, "evaluator": "x"}),
    ("RunRecord", "state", ["created", "waiting_approval", "interrupted"], ["pending", "done"],
     {"run_id": "r", "experiment_id": "e", "config_digest": "d", "created_at": WHEN}),
    ("ModelVersion", "version", ["1.2.3", "20260106T101530-ab12"], ["1.2.3garbage", "1.2", ""],
     {"id": "v", "model_id": "m"}),
    ("ModelVersion", "stage", ["staging", "experiment"], ["live"],
     {"id": "v", "model_id": "m", "version": "1.0.0"}),
    ("ModelVersion", "lineage", ["dpo_trained_from", "distillation", None], ["copied"],
     {"id": "v", "model_id": "m", "version": "1.0.0"}),
    ("DeploymentConfig", "replicas", [1, 3], [0], {"id": "d", "model_version_id": "v"}),
    ("DeploymentConfig", "strategy", ["rolling", "blue_green", "canary", "recreate", "replace", "ab_test"],
     ["yolo"], {"id": "d", "model_version_id": "v"}),
    ("DeploymentConfig", "canary", [{}, None], [{"steps_percent": [10, 5, 100]}],
     {"id": "d", "model_version_id": "v", "strategy": "canary"}),
    ("DeploymentConfig", "canary", [None], [{}], {"id": "d", "model_version_id": "v", "strategy": "rolling"}),
    ("DeploymentStatus", "ready_replicas", [0, 2], [-1, 3],
     {"id": "s", "deployment_id": "d", "total_replicas": 2}),
    ("DeploymentStatus", "traffic_percent", [0, 100], [-1, 101], {"id": "s", "deployment_id": "d"}),
    ("DeploymentStatus", "state", ["pending", "active", "terminated"], ["running"],
     {"id": "s", "deployment_id": "d"}),
    ("ScalingSpec", "max_replicas", [2, 5], [0, 1], {"min_replicas": 2}),
    ("CanarySpec", "steps_percent", [[100], [10, 30, 50, 100]], [[], [10, 50], [0, 100], [50, 50, 100]], {}),
    ("CanarySpec", "max_error_rate", [0, 1], [1.1, -0.1], {}),
    ("HealthCheckSpec", "failures", [1], [0], {}),
    ("ResourceSpec", "gpus", [0, 8], [-1], {}),
    ("FeedbackConfig", "sampling_rate", [0, 0.5, 1], [-0.1, 1.1], {}),
    ("FeedbackConfig", "retention_days", [0, 30, None], [-1], {}),
    ("FeedbackConfig", "feedback_types", [["thumbs", "edit", "report"]], [["applause"]], {}),
    ("FeedbackEvent", "feedback_value", [True, False, None], ["up", 1], {"id": "f", "feedback_type": "thumbs"}),
    ("FeedbackEvent", "feedback_value", [4, 4.5], [True, "4"], {"id": "f", "feedback_type": "rating"}),
    ("FeedbackEvent", "feedback_value", ["better"], [1, ["x"]], {"id": "f", "feedback_type": "correction"}),
    ("FeedbackEvent", "feedback_value", ["spam", 1, None, {"a": 1}], [object()],
     {"id": "f", "feedback_type": "flag"}),
    ("FeedbackEvent", "signal", ["thumbs_up", "thumbs_down", None], ["edit", "clap"],
     {"id": "f", "feedback_type": "thumbs"}),
    ("FeedbackEvent", "latency_s", [0, 1.5], [-1], {"id": "f"}),
    ("DriftConfig", "window", [2], [1], {}),
    ("RetrainingTrigger", "quality_threshold", [0, 1, None], [1.5], {}),
    ("StatsConfig", "alpha", [0, 0.05, 1], [-0.01, 1.01], {}),
    ("StatsConfig", "tests", [["ttest", "welch", "t_test"], []], [["vibes"]], {}),
    ("StatsConfig", "bootstrap_iterations", [1, None], [0], {}),
    ("EnsembleConfig", "models", [["a", "b"]], [[]], {"strategy": "majority"}),
    ("EnsembleConfig", "models", [[], ["a"]], ["a"], {"strategy": "none"}),
    ("EnsembleConfig", "weights", [{"a": 0, "b": 2.5}, {}], [{"c": 1}, {"a": -1}],
     {"strategy": "weighted", "models": ["a", "b"]}),
    ("EnsembleConfig", "min_agreement", [0, 1, None], [1.1], {}),
    ("EnsembleConfig", "execution_mode", ["parallel", "sequential", "hedged", "cascade"], ["serial"], {}),
    ("HedgingConfig", "delay_s", [0, 0.1], [-1, None], {"strategy": "fixed"}),
    ("HedgingConfig", "delay_s", [None, 0.1], [-1], {"strategy": "adaptive"}),
    ("HedgingConfig", "strategy", ["off", "percentile", "workload_aware", "exponential_backoff"], ["maybe"], {}),
    ("HedgingConfig", "percentile", [50, 99.9, None], [0, 100], {}),
    ("HedgingConfig", "max_hedges", [0, 4, None], [-1], {}),
    ("HedgingConfig", "budget_percent", [0, 100, None], [-1, 101], {}),
    ("FairnessConfig", "group_by", ["gender"], [None], {"enabled": True}),
    ("FairnessConfig", "group_by", ["gender", None], [3], {"enabled": False}),
    ("AlertRule", "below", [0.5], [None], {"metric": "m"}),
    ("AlertRule", "below", [0.5, None], ["low"], {"metric": "m", "above": 1}),
    ("MonitoringConfig", "interval_s", [1], [0], {}),
    ("CircuitBreakerConfig", "failure_threshold", [1], [0], {}),
    ("CompletionOptions", "json_schema", [{"type": "object"}], [None], {"response_format": "json_schema"}),
    ("CompletionOptions", "json_schema", [None, {}], ["x"], {"response_format": "json"}),
    ("CompletionOptions", "temperature", [0, 2.5, None], [-0.1], {}),
    ("CompletionOptions", "top_p", [0, 1], [1.1], {}),
    ("CompletionOptions", "top_k", [0, 40], [-1], {}),
    ("CompletionOptions", "max_tokens", [1], [0], {}),
    ("CompletionOptions", "frequency_penalty", [-2, 2], [2.1], {}),
    ("CompletionOptions", "stop", ["END", ["a", "b"], []], [3], {}),
    ("CompletionOptions", "response_format", ["text", "json"], ["xml"], {}),
    ("Prompt", "messages", [[USER]], [[], [{"role": "robot", "content": "x"}]], {}),
    ("Prompt", "tool_choice", ["auto", "none", "required", "look_up", {"name": "look_up"}],
     ["lookup", {"name": "other"}, "", {"nam": "x"}],
     {"messages": [USER], "tools": [{"name": "look_up"}]}),
    ("ImagePart", "data", ["aGk="], [None, "not base64!"], {}),
    ("ImagePart", "data", [None], ["aGk="], {"url": "https://h/x.png"}),
    ("AudioPart", "data", ["aGk=", ""], ["a", None], {}),
    ("PromptMessage", "content", ["text", [{"type": "text", "text": "a"}]],
     [3, [{"type": "video"}], [{"text": "a"}]], {"role": "user"}),
    ("CompletionChoice", "finish_reason", ["stop", "length", "tool_calls", "content_filter", "error"], ["end"],
     {"message": {"role": "assistant"}}),
    ("LLMCapabilities", "max_tokens", [0, None], [-1], {"backend_id": "b", "provider": "p"}),
    ("ApprovalDecision", "request_digest", [digest_of(1)], ["", "yes"], {"approved": True, "actor": "ann"}),
    ("ApprovalDecision", "actor", ["ann"], [""], {"approved": True, "request_digest": digest_of(1)}),
]  # fmt: skip

ACCEPTED = [(c, f, v, rest) for c, f, good, _, rest in RULES for v in good]
REFUSED = [(c, f, v, rest) for c, f, _, bad, rest in RULES for v in bad]


@pytest.mark.parametrize(("contract", "field", "value", "rest"), ACCEPTED)
def test_the_rule_accepts(contract: str, field: str, value: Any, rest: dict[str, Any]) -> None:
    assert field in contract_named(contract).parse({**rest, field: value}).model_fields_set


@pytest.mark.parametrize(("contract", "field", "value", "rest"), REFUSED)
def test_the_rule_refuses_and_names_the_field(
    contract: str, field: str, value: Any, rest: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        contract_named(contract).parse({**rest, field: value})
    paths = [problem.path for problem in caught.value.problems]
    assert all(path.startswith(field) for path in paths), paths


DEFAULTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("DatasetRef", {"id": "d"}, {"source": "auto", "split": "train", "format": "auto", "skip": 0}),
    ("OutputSpec", {"name": "r"}, {"formats": ("markdown",), "sink": "file"}),
    ("ModelVersion", {"id": "v", "model_id": "m", "version": "1.0.0"}, {"stage": "development"}),
    ("DeploymentConfig", {"id": "d", "model_version_id": "v"},
     {"replicas": 1, "environment": "development", "strategy": "rolling"}),
    ("DeploymentStatus", {"id": "s", "deployment_id": "d"}, {"state": "pending", "health": "unknown"}),
    ("FeedbackConfig", {}, {"enabled": False, "sampling_rate": 1.0, "feedback_types": ("thumbs", "correction"),
                            "anonymize_pii": True}),
    ("EnsembleConfig", {}, {"strategy": "none", "execution_mode": "parallel"}),
    ("HedgingConfig", {}, {"strategy": "off"}),
    ("StatsConfig", {}, {"tests": ("ttest", "bootstrap"), "alpha": 0.05}),
    ("FairnessConfig", {}, {"enabled": False}),
    ("GuardrailConfig", {}, {"profiles": ("default",)}),
    ("Prompt", {"messages": [USER]}, {"tool_choice": "auto"}),
    ("CompletionOptions", {}, {"response_format": "text", "stream": False, "extended_thinking": False}),
    ("LLMCapabilities", {"backend_id": "b", "provider": "p"},
     {"supports_streaming": True, "supports_tools": True, "supports_vision": False, "supports_audio": False,
      "supports_json_mode": True, "supports_extended_thinking": False, "supports_caching": False}),
]  # fmt: skip


@pytest.mark.parametrize(("contract", "given", "expected"), DEFAULTS)
def test_defaults_are_those_of_the_family(
    contract: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    value = contract_named(contract).parse(given)
    assert {name: getattr(value, name) for name in expected} == expected
