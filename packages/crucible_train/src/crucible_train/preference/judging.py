"""A comparison as a conversation that ends with the question which is better, for models that judge."""

from __future__ import annotations

import numpy as np

from crucible_ir.errors import ConfigError
from crucible_train.preference.comparison import Comparison, LabeledComparison
from crucible_train.renderers import Message, Renderer, SupervisedExample, TrainOnWhat
from crucible_train.types import ModelInput

__all__ = ["ComparisonRenderer"]

_LABELS = ("A", "B", "Tie")


class ComparisonRenderer:
    """Puts both completions, under headings, after the prompt; the answer is one label: ``A``, ``B`` or ``Tie``.

    Raises:
        ConfigError: two labels begin with the same token, so that one token could not tell them apart.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        first = {label: self._first_token(label) for label in _LABELS}
        if len(set(first.values())) < len(_LABELS):
            raise ConfigError(
                what=f"the labels begin with the tokens {first}",
                where="ComparisonRenderer",
                remedy="use a renderer and a tokenizer in which A, B and Tie begin differently",
            )

    def _first_token(self, label: str) -> int:
        """The first trained token of an answer that is this label."""
        messages = [Message(role="user", content="?"), Message(role="assistant", content=label)]
        example = self.renderer.build_supervised_example(messages, TrainOnWhat.LAST_ASSISTANT_MESSAGE)
        return example.model_input.to_ints()[int(np.flatnonzero(example.weights)[0])]

    def conversation(self, comparison: Comparison) -> list[Message]:
        """The messages before the label."""
        return [
            *comparison.prompt_conversation,
            Message(role="system", content="==== Completion A ===="),
            *comparison.completion_a,
            Message(role="system", content="==== Completion B ===="),
            *comparison.completion_b,
            Message(role="system", content="==== Preference ===="),
        ]

    def build_generation_prompt(self, comparison: Comparison) -> ModelInput:
        """What a judge reads before it gives its label.

        Raises:
            RenderError: the renderer cannot express a message.
        """
        return self.renderer.build_generation_prompt(self.conversation(comparison))

    def build_supervised_example(self, labeled: LabeledComparison) -> SupervisedExample:
        """The conversation up to the first token of the label, which alone has weight 1.

        Raises:
            RenderError: the renderer cannot express a message.
        """
        messages = [
            *self.conversation(labeled.comparison),
            Message(role="assistant", content=labeled.label),
        ]
        whole = self.renderer.build_supervised_example(messages, TrainOnWhat.LAST_ASSISTANT_MESSAGE)
        place = int(np.flatnonzero(whole.weights)[0])
        tokens = whole.model_input.to_ints()[: place + 1]
        weights = np.zeros(len(tokens), dtype=np.float32)
        weights[place] = 1.0
        return SupervisedExample(ModelInput.from_ints(tokens), weights)
