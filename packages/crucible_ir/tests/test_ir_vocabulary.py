"""One home for every vocabulary, and the neighbours' words that it takes."""

from __future__ import annotations

from enum import StrEnum

import pytest

from crucible_ir import (
    ArtifactType,
    DeployStrategy,
    FeedbackEvent,
    FeedbackType,
    LineageType,
    ModelRef,
    ModelStage,
    SignalType,
    StatTest,
    TraceType,
    vocabulary,
)

ALL = [getattr(vocabulary, name) for name in vocabulary.__all__]


@pytest.mark.parametrize("enum", ALL, ids=lambda enum: enum.__name__)
def test_a_member_is_its_word_and_an_unknown_word_is_refused(enum: type[StrEnum]) -> None:
    for member in enum:
        assert enum(str(member.value)) is member
        assert str(member) == member.value
    for word in ("no such word", "", None, 3):
        with pytest.raises(ValueError, match="is not a valid"):
            enum(word)


@pytest.mark.parametrize("enum", ALL, ids=lambda enum: enum.__name__)
def test_a_synonym_means_a_member_and_is_none_itself(enum: type[vocabulary.ModelStage]) -> None:
    values = {member.value for member in enum}
    for word, value in enum.synonyms().items():
        assert word not in values
        assert enum(word).value == value


@pytest.mark.parametrize(
    ("enum", "words"),
    [
        (ModelStage, "experiment staging production archived development"),
        (DeployStrategy, "rolling blue_green canary recreate replace ab_test"),
        (FeedbackType, "thumbs rating correction label flag"),
        (FeedbackType, "thumbs_up thumbs_down regenerate edit copy share report"),
        (SignalType, "thumbs_up thumbs_down regenerate edit copy share report"),
        (SignalType, "rating correction label flag"),
        (LineageType, "fine_tuned_from distilled_from rl_trained_from dpo_trained_from"),
        (LineageType, "fine_tune distillation merge"),
        (ArtifactType, "checkpoint config tokenizer merged gguf onnx tensorrt weights"),
        (TraceType, "stage_start stage_complete stage_failed decision_made hypothesis_formed early_stopped"),
        (StatTest, "t_test welch_t_test mann_whitney paired_t_test wilcoxon anova kruskal_wallis bootstrap"),
    ],
)
def test_the_words_of_every_neighbour_are_taken(enum: type[StrEnum], words: str) -> None:
    for word in words.split():
        assert isinstance(enum(word), enum)


def test_a_neighbours_word_is_written_as_ours() -> None:
    assert ModelStage("experiment") is ModelStage.DEVELOPMENT
    assert (
        ModelRef.parse({"id": "m", "stage": "experiment"}).model_dump(mode="json")["stage"] == "development"
    )


def test_starting_first_and_stopping_first_are_two_strategies() -> None:
    assert DeployStrategy("replace") is not DeployStrategy("recreate")


@pytest.mark.parametrize(
    ("signal", "kind"),
    [
        ("thumbs_up", "thumbs"),
        ("thumbs_down", "thumbs"),
        ("edit", "correction"),
        ("report", "flag"),
        ("regenerate", "behaviour"),
        ("copy", "behaviour"),
        ("share", "behaviour"),
        ("rating", "rating"),
        ("label", "label"),
    ],
)
def test_every_signal_is_of_one_kind_of_feedback(signal: str, kind: str) -> None:
    assert SignalType(signal).feedback_type is FeedbackType(kind)
    event = FeedbackEvent.parse({"id": "f", "feedback_type": kind, "signal": signal})
    assert event.signal is SignalType(signal)


def test_thumbs_alone_does_not_say_which_signal_it_was() -> None:
    with pytest.raises(ValueError, match="thumbs"):
        SignalType("thumbs")


def test_every_trace_type_of_the_family_is_there() -> None:
    assert len(TraceType) == 26 + 2  # stage_failed and decision_made are new; the other two are synonyms
