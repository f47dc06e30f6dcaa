"""Prompts without a reward: what a policy is to answer, for a teacher to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from pydantic import Field

from crucible_datasets import example_id
from crucible_ir import Contract, DataError, DatasetSnapshot
from crucible_kitchen.environments.environment import Environment, Environments, HeldOutProblem, Material
from crucible_kitchen.prompt_rows import prompt_of
from crucible_train.renderers import Message, Renderer, message_from_dict
from crucible_train.rl import Env, EnvGroupBuilder, StepResult, Trajectory
from crucible_train.types import ModelInput, SampledSequence, StopCondition

__all__ = ["Prompts", "PromptsOptions"]

_Prompt = Sequence[Mapping[str, Any]]
"""The messages that are answered."""

_NOT_MET = DataError(
    what="a prompt needs rows", where="environments.prompts", remedy="name a dataset of conversations"
)


class PromptsOptions(Contract):
    """What of a row is the prompt."""

    turn: Literal["last", "first"] = "last"
    """``last``: the conversation without the assistant turn it ends with; ``first``: the first user turn alone."""
    max_prompt_tokens: int | None = Field(default=1024, ge=1)
    """Tokens of the turn that is answered; what is longer is cut at its end, as upstream does. None cuts nothing."""


class Prompts(Environment):
    """Prompts from conversations or problems, without a reward: for learning from a teacher."""

    options_model = PromptsOptions
    needs_rows = True
    graded = False

    def build(self, material: Material) -> Environments:
        """Prompts in the order of the rows; held-out ones if a dataset of them is named."""
        if material.rows is None:
            raise _NOT_MET
        make = partial(self._env, material.renderer)
        held_out = list[HeldOutProblem]()
        if material.held_out is not None:
            distinct = {example_id({"messages": p}): p for p in self._prompts(material.held_out)}
            held_out = [
                HeldOutProblem(example_id=identity, builder=_PromptGroup(env=make(prompt), num_envs=1))
                for identity, prompt in distinct.items()
            ]
        train = _PromptDataset(
            make=make,
            prompts=self._prompts(material.rows),
            batch_size=material.groups_per_batch,
            group_size=material.group_size,
        )
        return Environments(train=train, held_out=held_out)

    def _prompts(self, snapshot: DatasetSnapshot) -> list[_Prompt]:
        return [
            self._prompt(row, where=f"{snapshot.ref.id}, row {number} after ordering")
            for number, row in enumerate(snapshot.rows)
        ]

    def _prompt(self, row: Mapping[str, Any], *, where: str) -> _Prompt:
        messages = prompt_of(row, where=where)
        if self.options.turn == "last":
            return messages
        first = [message for message in messages if message.get("role") == "user"][:1]
        if not first:
            raise DataError(
                what="no turn of a user", where=where, remedy="leave the row out, or set turn=last"
            )
        return first

    def _env(self, renderer: Renderer, prompt: _Prompt) -> _PromptEnv:
        *before, last = [message_from_dict(dict(message)) for message in prompt]
        return _PromptEnv(
            messages=(*before, _cut(last, renderer, self.options.max_prompt_tokens)), renderer=renderer
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PromptEnv:
    """One answer to one prompt; it is worth 0, whatever it is."""

    messages: tuple[Message, ...]
    renderer: Renderer

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        return self.renderer.build_generation_prompt(list(self.messages)), self.renderer.stop_sequences

    async def step(self, action: SampledSequence) -> StepResult:
        answer, _ = self.renderer.parse_response(action.tokens)
        logs: dict[str, str | int | float] = {"question": self.messages[-1].text, "answer": answer.text}
        return StepResult(reward=0.0, episode_done=True, logs=logs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PromptGroup:
    """``num_envs`` answers to one prompt."""

    env: _PromptEnv
    num_envs: int

    async def make_envs(self) -> Sequence[Env]:
        return [self.env] * self.num_envs

    async def compute_group_rewards(
        self, trajectories_G: Sequence[Trajectory], envs_G: Sequence[Env]
    ) -> Sequence[tuple[float, Mapping[str, float]]]:
        return [(0.0, {}) for _ in trajectories_G]

    def logging_tags(self) -> Sequence[str]:
        return ["prompts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PromptDataset:
    """Batches of prompts, rendered when they are asked for; the last may hold fewer."""

    make: Callable[[_Prompt], _PromptEnv]
    prompts: Sequence[_Prompt]
    batch_size: int
    group_size: int

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        start = index * self.batch_size
        return [
            _PromptGroup(env=self.make(prompt), num_envs=self.group_size)
            for prompt in self.prompts[start : start + self.batch_size]
        ]

    def __len__(self) -> int:
        return -(-len(self.prompts) // self.batch_size)


def _cut(message: Message, renderer: Renderer, limit: int | None) -> Message:
    """The message with no more than so many tokens of text; other parts are left as they are."""
    if limit is None or not isinstance(message.content, str):
        return message
    tokens = renderer.tokenizer.encode(message.content)
    if len(tokens) <= limit:
        return message
    return replace(message, content=renderer.tokenizer.decode(tokens[:limit]))
