"""Sources of a distillation: rows, how they are asked, and who teaches on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from crucible_cookbook.data import PROBLEMS, ConversationData, ProblemData, problem_data
from crucible_cookbook.settings import model_ref
from crucible_ir import Contract

__all__ = ["Mode", "SourceSettings", "filled", "source_name", "teacher_of"]

Mode = Literal["off_policy", "on_policy"]

_TULU3 = "allenai/tulu-3-sft-mixture"
_DEEPMATH = PROBLEMS["deepmath"]

_QUESTIONS = {"schema": "problem", "fields": {"problem": "question", "answer": "question"}}
"""A prompt wants no answer, so a row without one is asked too, as upstream does; the schema wants some text there."""

_OFF_POLICY: Mapping[str, ConversationData] = MappingProxyType(
    {
        "no_robots": ConversationData(eval_split="test"),
        "tulu3": ConversationData(path=_TULU3, test_size=1024),
        "deepmath": _DEEPMATH,
    }
)
_ON_POLICY: Mapping[str, ConversationData] = MappingProxyType(
    {
        "no_robots": ConversationData(eval_split="test"),
        "tulu3": ConversationData(path=_TULU3, shuffle_seed=None),
        "deepmath": _DEEPMATH.model_copy(update={"shuffle_seed": None, "mapping": _QUESTIONS}),
    }
)
"""What names mean; on policy the rows stay in their order, as upstream's do."""

_ENV_OPTIONS: Mapping[str, dict[str, Any]] = MappingProxyType({"tulu3": {"turn": "first"}})
"""Upstream asks the first question of a conversation of Tulu 3."""


class SourceSettings(Contract):
    """One source: its rows, and the teacher that knows about them."""

    dataset: str | None = None
    """``no_robots``, ``tulu3``, ``deepmath``, ``tiny``, or a path of conversations or problems; None: ``data.path``,
    else ``no_robots``, or ``deepmath`` on policy. With another ``env``: what ``math_rl`` knows as its ``env``."""
    data: ConversationData = ConversationData(eval_split="test")
    """What is to differ from the dataset's own: limits, splits, columns, another path."""
    env: str = "prompts"
    """How rows are asked: ``prompts``, or ``arithmetic`` or ``math``, whose answers can be judged."""
    env_options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the environment, such as ``max_prompt_tokens``."""
    teacher: str = "Qwen/Qwen3.5-9B"
    """Folder or hub id of the teacher's base model; ``tiny`` is the bundled one."""
    teacher_weights: str | None = None
    """Folder of weights that a run saved, such as ``…/checkpoints/final``."""
    teacher_renderer: str | None = None
    """Chat format in which the teacher answers; None takes the one that belongs to its model."""
    groups_per_batch: int = Field(default=1024, ge=1)
    """Prompts per iteration."""
    weight: float = Field(default=1.0, gt=0)
    """Share of each batch, beside the weights of the other sources."""

    def rows(self) -> ConversationData:
        """Where the rows are."""
        if self.env == "prompts":
            return self.data
        return ProblemData.model_validate(self.data.model_dump())

    def environment(self) -> dict[str, Any]:
        """The environment and its settings."""
        name = self.dataset or ""
        match self.env:
            case "prompts":
                usual = _ENV_OPTIONS.get(name, {})
            case "arithmetic":
                usual = {"fewshot": False}
            case "math":
                usual = {"fewshot": problem_data(name).few_shot}
            case _:
                usual = {}
        return {"env": self.env, "env_options": {**usual, **self.env_options}}


def filled(given: Any, mode: Any) -> Any:
    """The settings of a source with what its dataset is known to need, where ``data`` leaves it open."""
    if not isinstance(given, dict):
        return given
    data, dataset, env = given.get("data", {}), given.get("dataset"), given.get("env", "prompts")
    if isinstance(data, ConversationData):
        data = data.model_dump(exclude_unset=True)
    if not isinstance(data, dict) or not isinstance(dataset, str | None) or not isinstance(env, str):
        return given
    if dataset is None and "path" in data:
        known = ConversationData() if env == "prompts" else ProblemData()
    elif env != "prompts":
        dataset = dataset or "gsm8k"
        known = problem_data(dataset)
    else:
        table = _ON_POLICY if mode == "on_policy" else _OFF_POLICY
        dataset = dataset or ("deepmath" if mode == "on_policy" else "no_robots")
        known = table.get(dataset) or ConversationData(path=dataset)
    return given | {
        "dataset": dataset,
        "data": known.model_dump(include=set(ConversationData.model_fields)) | data,
    }


def source_name(source: SourceSettings, taken: list[str]) -> str:
    """The name of the dataset or of its file, with a number where it is taken."""
    name = source.dataset or source.data.path
    name = Path(name).stem if "/" in name else name
    return f"{name}_{len(taken)}" if name in taken else name


def teacher_of(source: SourceSettings) -> dict[str, Any]:
    """Model and weights of the teacher, with paths that are absolute."""
    model, weights = model_ref(source.teacher), source.teacher_weights
    return {
        "teacher": model.uri or model.id,
        "teacher_weights": None if weights is None else str(Path(weights).expanduser().resolve()),
    }
