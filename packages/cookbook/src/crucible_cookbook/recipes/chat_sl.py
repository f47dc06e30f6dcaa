"""Supervised fine-tuning on the chat datasets that upstream names, or on a file of conversations."""

from __future__ import annotations

import sys

from pydantic import Field

from crucible_cookbook.data import BUNDLED, ConversationData
from crucible_cookbook.supervised import SupervisedConfig, supervised_experiment
from crucible_ir import Experiment
from crucible_kitchen.recipes import Recipe
from crucible_train.renderers import TrainOnWhat

__all__ = ["ChatSl", "ChatSlConfig"]

_NO_ROBOTS = ConversationData(path="HuggingFaceH4/no_robots", eval_split="test")
_TULU3 = ConversationData(path="allenai/tulu-3-sft-mixture", test_size=1024)


class ChatSlConfig(SupervisedConfig):
    """Settings of ``chat_sl``."""

    dataset: str = "no_robots"
    """``no_robots``, ``tulu3``, ``tiny``, or the path of a file of conversations."""
    test_size: int = Field(default=0, ge=0)
    """Held-out rows of a file of conversations."""
    shuffle_seed: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    eval_limit: int | None = Field(default=None, ge=1)
    train_on_what: TrainOnWhat | None = None  # type: ignore[assignment]
    """None takes the dataset's own: the last assistant message for Tulu3, all of them otherwise."""
    max_length: int = Field(default=16384, ge=2)
    batch_size: int = Field(default=256, ge=1)
    eval_every: int = Field(default=20, ge=0)

    def conversations(self) -> ConversationData:
        """Where the rows are."""
        match self.dataset:
            case "no_robots":
                data = _NO_ROBOTS
            case "tulu3":
                data = _TULU3
            case name if name == BUNDLED:
                data = ConversationData(path=BUNDLED)
            case path:
                data = ConversationData(path=path, test_size=self.test_size)
        return data.model_copy(
            update={"shuffle_seed": self.shuffle_seed, "limit": self.limit, "eval_limit": self.eval_limit}
        )


class ChatSl(Recipe[ChatSlConfig]):
    """Chat fine-tuning on NoRobots, Tulu3 or a JSONL file of conversations."""

    name = "chat_sl"
    config_model = ChatSlConfig

    def experiment(self, config: ChatSlConfig) -> Experiment:
        """Train on the chosen conversations, watch held-out loss, save and register."""
        default = (
            TrainOnWhat.LAST_ASSISTANT_MESSAGE
            if config.dataset == "tulu3"
            else TrainOnWhat.ALL_ASSISTANT_MESSAGES
        )
        config = config.model_copy(update={"train_on_what": config.train_on_what or default})
        return supervised_experiment(self.name, config, config.conversations())


if __name__ == "__main__":
    from crucible_kitchen.cli.main import main

    sys.exit(main(["run", ChatSl.name, *sys.argv[1:]]))
