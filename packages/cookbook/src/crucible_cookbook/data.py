"""Which conversations, pairs or problems a recipe trains and is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from crucible_ir import ConfigError, Contract, DatasetRef

__all__ = [
    "BUNDLED",
    "BUNDLED_RENDERER",
    "GSM8K",
    "HH_RLHF",
    "NO_ROBOTS",
    "PREFERENCES",
    "PROBLEMS",
    "ConversationData",
    "PreferenceData",
    "ProblemData",
    "existing",
    "located",
    "preference_data",
    "problem_data",
]

BUNDLED = "tiny"
"""Name of the bundled model and data of ``crucible-tiny``."""

BUNDLED_RENDERER = "qwen3_instruct"
"""The chat format of the bundled model."""

NO_ROBOTS = "HuggingFaceH4/no_robots"
HH_RLHF = "Anthropic/hh-rlhf"
GSM8K = "openai/gsm8k"
"""The default data, which bring a test split."""


class ConversationData(Contract):
    """Conversations of a file, a folder, or a hub dataset."""

    bundled: ClassVar[str] = "chat"
    """First part of the names of the bundled files."""

    path: str = NO_ROBOTS
    """File, folder or hub id; ``tiny`` is the bundled chat data."""
    config: str | None = None
    """Configuration of a hub dataset that has several."""
    split: str = "train"
    """Split of the training rows."""
    eval_path: str | None = None
    """Where the held-out rows are; None looks in ``path``."""
    eval_split: str | None = None
    """Split of the held-out rows; None takes ``test_size`` rows from the training split (``test`` of NoRobots)."""
    eval_config: str | None = None
    """Configuration of a hub dataset that ``eval_path`` names; rows of ``path`` are of ``config``."""
    test_size: int = Field(default=0, ge=0)
    """Held-out rows taken from the front of the ordered training split."""
    limit: int | None = Field(default=None, ge=1)
    """Training rows at most."""
    eval_limit: int | None = Field(default=None, ge=1)
    """Held-out rows at most."""
    shuffle_seed: int | None = Field(default=0, ge=0)
    """Seed of the order; None keeps that of the file."""
    eval_shuffle_seed: int | None = Field(default=None, ge=0)
    """Seed of the order of a held-out split, before ``eval_limit``; None keeps that of the file."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    streaming: bool = False
    """Read no further than needed."""
    mapping: dict[str, Any] = Field(default_factory=lambda: {"schema": "auto"})
    """Field mapping: which columns carry the conversation; ``auto`` finds it out."""

    def train(self) -> DatasetRef:
        """The training rows."""
        return self._ref(
            self.path,
            self.split,
            role="train",
            skip=self.test_size,
            limit=self.limit,
            seed=self.shuffle_seed,
        )

    def held_out(self) -> DatasetRef | None:
        """The held-out rows, or None when there are none."""
        source = self.eval_path or self.path
        if source == BUNDLED and not self.test_size:
            return self._ref(BUNDLED, "train", role="test", limit=self.eval_limit)
        if source == NO_ROBOTS and self.eval_split is None and not self.test_size:
            return self._ref(NO_ROBOTS, "test", role="test", limit=self.eval_limit)
        if self.eval_split is not None or self.eval_path is not None:
            split = self.eval_split or self.split
            return self._ref(source, split, role="test", limit=self.eval_limit, seed=self.eval_shuffle_seed)
        if self.test_size:
            limit = min(self.test_size, self.eval_limit or self.test_size)
            return self._ref(self.path, self.split, role="train", limit=limit, seed=self.shuffle_seed)
        return None

    def _ref(
        self,
        path: str,
        split: str,
        *,
        role: str,
        limit: int | None,
        skip: int = 0,
        seed: int | None = None,
    ) -> DatasetRef:
        same = path == self.path
        return DatasetRef(
            id=located(path, f"{self.bundled}_{role}"),
            config=self.config if same else self.eval_config,
            split=split,
            revision=self.revision if same else None,
            shuffle_seed=seed,
            skip=skip,
            limit=limit,
            streaming=self.streaming,
            mapping={key: value for key, value in self.mapping.items() if same or key != "exclude"},
        )


class PreferenceData(ConversationData):
    """Pairs of completions of a file, a folder, or a hub dataset."""

    bundled: ClassVar[str] = "preference"
    path: str = HH_RLHF
    """File, folder or hub id; ``tiny`` is the bundled pairs."""


PREFERENCES: Mapping[str, PreferenceData] = MappingProxyType(
    {
        "hhh": PreferenceData(
            eval_split="test",
            eval_shuffle_seed=0,
            eval_limit=1024,
            mapping={"schema": "preference_conversations"},
        ),
        "helpsteer3": PreferenceData(
            path="nvidia/HelpSteer3",
            config="preference",
            eval_split="validation",
            eval_shuffle_seed=0,
            eval_limit=1024,
            mapping={"schema": "preference_scored"},
        ),
        "ultrafeedback": PreferenceData(
            path="argilla/ultrafeedback-binarized-preferences",
            test_size=1024,
            mapping={
                "schema": "preference",
                "fields": {
                    "prompt": "instruction",
                    "chosen": "chosen_response",
                    "rejected": "rejected_response",
                },
            },
        ),
    }
)
"""The pairs that upstream names, each with upstream's held-out rows."""


def preference_data(dataset: str) -> PreferenceData:
    """The data that a name means: one of ``PREFERENCES``, ``tiny``, or a path of pairs."""
    return PREFERENCES.get(dataset) or PreferenceData(path=dataset)


class ProblemData(ConversationData):
    """Problems with gold answers of a file, a folder, or a hub dataset."""

    bundled: ClassVar[str] = "arithmetic"
    path: str = GSM8K
    """File, folder or hub id; ``tiny`` is the bundled sums."""
    few_shot: bool = True
    """Put an example of the format before each problem."""
    mapping: dict[str, Any] = Field(default_factory=lambda: {"schema": "problem"})
    """Field mapping: which columns carry problem and answer, and how the answer is found in its column."""


_MATH_500 = "HuggingFaceH4/MATH-500"
_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

PROBLEMS: Mapping[str, ProblemData] = MappingProxyType(
    {
        "gsm8k": ProblemData(config="main", eval_split="test", mapping={"schema": "problem_hashes"}),
        "math": ProblemData(
            path="EleutherAI/hendrycks_math",
            config="+".join(_MATH_SUBJECTS),
            split="train+test",
            eval_path=_MATH_500,
            eval_split="test",
            mapping={
                "schema": "problem_boxed",
                "exclude": {"column": "problem", "dataset": {"id": _MATH_500, "split": "test"}},
            },
        ),
        "deepmath": ProblemData(
            path="zwhe99/DeepMath-103K",
            few_shot=False,
            mapping={"schema": "problem", "fields": {"problem": "question", "answer": "final_answer"}},
        ),
        "polaris": ProblemData(path="POLARIS-Project/Polaris-Dataset-53K", few_shot=False),
    }
)
"""The problems that upstream names. MATH is all subjects with both splits but for the problems of MATH-500, which
are its test set; DeepMath and Polaris have none, and no example of the format."""


def problem_data(dataset: str) -> ProblemData:
    """The data that a name means: one of ``PROBLEMS``, ``tiny``, or a path of rows with problem and answer."""
    return PROBLEMS.get(dataset) or ProblemData(path=dataset)


def located(path: str, bundled: str) -> str:
    """The bundled file for ``tiny``, an absolute path for what exists here, and anything else as it is."""
    if path == BUNDLED:
        from crucible_cookbook.bundled import bundled_data

        return str(bundled_data(f"{bundled}.jsonl"))
    here = existing(path, where="data.path")
    return path if here is None else str(here)


def existing(path: str, *, where: str) -> Path | None:
    """The absolute path when ``path`` is a file or folder here, else None.

    Raises:
        ConfigError: it can be no path and no hub id (an unknown user, a name that is too long).
    """
    try:
        here = Path(path).expanduser()
        return here.resolve() if here.exists() else None
    except (OSError, RuntimeError, ValueError) as error:
        shown = path if len(path) <= 60 else f"{path[:57]}..."
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            what=f"{shown!r} is no usable path ({reason})", where=where, remedy="check it"
        ) from error
