"""An environment that likes plain letters, and a judge that fails on request.

Bytes below 128 are plain. The base table draws every byte alike, so that about half of what it says is plain; eight
iterations raise that to four fifths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from pydantic import Field

from crucible_ir import Contract, DataError
from crucible_ir.contract import JsonValue
from crucible_kitchen.environments.environment import Environment, Environments, HeldOutProblem, Material
from crucible_testing.bridge import FakeBridge
from crucible_train.grading import MathGrader, Verdict
from crucible_train.ports import BridgeFault, BridgeReply, Handle
from crucible_train.renderers import Message, Renderer
from crucible_train.rl import Env, EnvGroupBuilder, Grader, StepResult, Trajectory
from crucible_train.types import ModelInput, SampledSequence, StopCondition

__all__ = [
    "FaultyJudge",
    "LetterBatches",
    "LetterEnv",
    "LetterGroup",
    "Letters",
    "LettersOptions",
]

PLAIN = 128
"""Tokens below it are plain."""

QUESTION = "q{}"
"""What is asked, with the problem's number."""

RIGHT, WRONG = "2+x", "x+1"
"""Answers that a judge finds right and wrong; as texts and numbers they say nothing."""


class LettersOptions(Contract):
    """Which problems, and what goes wrong with them."""

    batches: int = Field(default=8, ge=1)
    held_out: int = Field(default=24, ge=0)
    turns: int = Field(default=1, ge=1)
    pairwise: bool = False
    """Members are rewarded for having more plain letters than the others, and by nothing else."""
    fails: dict[str, str] = Field(default_factory=dict)
    """Problem → ``ours`` or ``other``: an error of Crucible, or of anybody, when its environments are made; or
    ``unjudged``: no answer to it can be judged."""
    answers: tuple[str, ...] = ()
    """A judge is asked about one of them, chosen by the first token, and says what the reward is."""
    gold: str = "x+2"
    timeout_s: float = 2.0


@dataclass(slots=True)
class LetterEnv:
    """One attempt: every turn is rewarded by its share of plain letters, or by what the judge says."""

    question: str
    renderer: Renderer
    turns: int = 1
    paid: bool = True
    judge: Grader | None = None
    answers: Sequence[str] = ()
    seen: ModelInput = field(default_factory=ModelInput.empty)
    taken: int = 0

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        """The question."""
        self.seen = self.renderer.build_generation_prompt([Message(role="user", content=self.question)])
        return self.seen, self.renderer.stop_sequences

    async def step(self, action: SampledSequence) -> StepResult:
        """The reward of this turn; the next observation goes on where this one ended."""
        self.taken += 1
        share = sum(token < PLAIN for token in action.tokens) / len(action.tokens)
        metrics = {"plain": share, "correct": float(share == 1)}
        result = StepResult(
            reward=share if self.paid else 0.0,
            episode_done=self.taken == self.turns,
            metrics=metrics,
            logs={"question": self.question},
        )
        if self.judge is not None:
            result = await self._judged(action, self.judge, result)
        more = self.renderer.tokenizer.encode("\n\nUser: more\n\nAssistant:")
        self.seen = ModelInput.from_ints([*self.seen.to_ints(), *action.tokens, *more])
        return replace(result, next_observation=self.seen, next_stop=self.renderer.stop_sequences)

    async def _judged(self, action: SampledSequence, judge: Grader, result: StepResult) -> StepResult:
        answer = self.answers[action.tokens[0] * len(self.answers) // self.renderer.tokenizer.vocab_size]
        verdict = await judge(answer)
        logs = {**result.logs, "answer": answer, "verdict": verdict.value}
        if verdict is Verdict.CANNOT_JUDGE:
            return replace(result, reward=None, metrics={"plain": result.metrics["plain"]}, logs=logs)
        correct = float(verdict is Verdict.CORRECT)
        return replace(result, reward=correct, metrics={**result.metrics, "correct": correct}, logs=logs)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterGroup:
    """Attempts at problem ``number``."""

    number: int
    members: int
    options: LettersOptions
    renderer: Renderer
    judge: Grader | None = None

    async def make_envs(self) -> Sequence[Env]:
        """A fresh environment per member, or the failure that was asked for."""
        failure = self.options.fails.get(str(self.number))
        if failure == "ours":
            raise DataError(what=f"problem {self.number} was to fail", where="letters")
        if failure == "other":
            raise KeyError(f"problem {self.number}")
        return [
            LetterEnv(
                question=QUESTION.format(self.number),
                renderer=self.renderer,
                turns=self.options.turns,
                paid=not self.options.pairwise,
                judge=_perplexed if failure == "unjudged" else self.judge,
                answers=self.options.answers or (RIGHT,),
            )
            for _ in range(self.members)
        ]

    async def compute_group_rewards(
        self, trajectories_G: Sequence[Trajectory], envs_G: Sequence[Env]
    ) -> Sequence[tuple[float, Mapping[str, float]]]:
        """Comparisons won less comparisons lost, by plain letters; nothing unless ``pairwise``."""
        if not self.options.pairwise:
            return [(0.0, {}) for _ in trajectories_G]
        shares = [sum(t.metrics["plain"] for t in one.transitions) for one in trajectories_G]
        won = [sum((mine > other) - (mine < other) for other in shares) for mine in shares]
        return [(float(score), {"won": float(score)}) for score in won]

    def logging_tags(self) -> Sequence[str]:
        """Whether the problem's number is even."""
        return ["letters", "odd" if self.number % 2 else "even"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterBatches:
    """Problems 0, 1, 2 … in batches of equal size."""

    options: LettersOptions
    material: Material
    judge: Grader | None

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of one batch."""
        size = self.material.groups_per_batch
        return [self.group(number) for number in range(index * size, (index + 1) * size)]

    def group(self, number: int, members: int | None = None) -> LetterGroup:
        """The group of one problem."""
        return LetterGroup(
            number=number,
            members=members or self.material.group_size,
            options=self.options,
            renderer=self.material.renderer,
            judge=self.judge,
        )

    def __len__(self) -> int:
        """Number of batches."""
        return self.options.batches


class Letters(Environment):
    """Answers are rewarded for their plain letters."""

    options_model = LettersOptions
    needs_bridge = True

    def build(self, material: Material) -> Environments:
        """Generated problems; held-out ones have numbers of their own."""
        options: LettersOptions = self.options
        judge = None
        if options.answers:
            if material.bridge is None:
                raise DataError(what="no judge", where="letters", remedy="name a python_bridge")
            grader = MathGrader(material.bridge, timeout_s=options.timeout_s)
            judge = _judge(grader, options.gold)
        train = LetterBatches(options=options, material=material, judge=judge)
        return Environments(
            train=train,
            held_out=[
                HeldOutProblem(example_id=f"held-{number}", builder=train.group(1000 + number, 1))
                for number in range(options.held_out)
            ],
        )


async def _perplexed(answer: str) -> Verdict:
    return Verdict.CANNOT_JUDGE


def _judge(grader: MathGrader, gold: str) -> Grader:
    async def judge(answer: str) -> Verdict:
        return (await grader.grade(answer, gold)).verdict

    return judge


class FaultyJudge(FakeBridge):
    """Knows which answer is right, and ends as an answer says that has the name of a fault."""

    def __init__(self) -> None:
        super().__init__(functions={"math_verify": _verdict})

    def call(
        self, function: str, arguments: Mapping[str, JsonValue], *, timeout_s: float | None = None
    ) -> Handle[BridgeReply]:
        """The verdict, or the fault."""
        answer = arguments["answer"]
        if answer in get_args(BridgeFault):
            self.calls.append((function, dict(arguments)))
            return Handle.completed(BridgeReply(fault=answer, message="planted"))
        return super().call(function, arguments, timeout_s=timeout_s)


def _verdict(answer: str, gold: str) -> JsonValue:
    return {"verdict": "correct" if answer == RIGHT else "incorrect", "reason": "planted"}
