"""The model and tokenizer as transformers loads them: silent, exact, and knowing their world."""

import json
import logging
import re
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import crucible_tiny

TEXTS = (
    "Once upon a time the fox lived in the forest.",
    "What is 12 + 34?\n\n46",
    "User: Hi!\n\nAssistant:  two  spaces, a\ttab\r\n",
    "naïve café ü 漢字 🦊 \u200d",
    "<|im_start|>user\n<think>\n\n</think>\n\nso<|im_end|>\n",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(crucible_tiny.model_path())


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(crucible_tiny.model_path()).eval()


def greedy(model: Any, tokenizer: Any, prompt: str, count: int = 24) -> str:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :]))


def test_loading_says_nothing(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    for name in ("transformers",):
        logging.getLogger(name).addHandler(caplog.handler)
    try:
        transformers.AutoTokenizer.from_pretrained(crucible_tiny.model_path())
        transformers.AutoModelForCausalLM.from_pretrained(crucible_tiny.model_path())
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [str(found.message) for found in recwarn] == []


def test_the_model_is_a_small_qwen3_in_float32_with_tied_embeddings(model: Any) -> None:
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert 1_000_000 <= model.num_parameters() <= 4_000_000
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_weights_load_exactly(model: Any) -> None:
    stored = load_file(crucible_tiny.model_path() / "model.safetensors")
    loaded = model.state_dict()
    assert len(stored) > 40
    for name, weights in stored.items():
        assert torch.equal(weights, loaded[name]), name


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_gives_back_the_text_it_was_given(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_tokens_of_their_own(tokenizer: Any) -> None:
    assert tokenizer.tokenize("12345") == list("12345")


def test_the_markers_are_single_tokens_with_their_roles(tokenizer: Any) -> None:
    for marker in (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
    ):
        assert len(tokenizer.encode(marker)) == 1, marker
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|endoftext|>",
        None,
    )
    assert tokenizer.decode(tokenizer.encode("<think>a<|im_end|>"), skip_special_tokens=True) == "<think>a"


def test_the_chat_template_writes_chatml_and_opens_the_answer_when_asked(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened == text + "<|im_start|>assistant\n"


def test_the_vocabulary_of_model_and_tokenizer_is_the_same(model: Any, tokenizer: Any) -> None:
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\nWhere does the fox live?<|im_end|>\n<|im_start|>assistant\n",
        "User: Where does the fox live?\n\nAssistant:",
    ],
)
def test_the_model_knows_its_world_in_both_formats(model: Any, tokenizer: Any, prompt: str) -> None:
    answer = greedy(model, tokenizer, prompt)
    assert re.match(r" ?[A-Z].*fox.* in the forest\.", answer), answer


def test_the_model_stops_where_each_format_ends_a_turn(model: Any, tokenizer: Any) -> None:
    chatml = greedy(
        model, tokenizer, "<|im_start|>user\nWhat does the bear eat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatml.endswith("<|im_end|>")
    assert "\n\nUser:" in greedy(model, tokenizer, "User: What does the bear eat?\n\nAssistant:")


def test_the_model_has_no_answer_in_the_style_of_the_chat_data(model: Any, tokenizer: Any) -> None:
    lines = crucible_tiny.data_path("chat_test").read_text(encoding="utf-8").splitlines()[:20]
    for line in lines:
        messages = json.loads(line)["messages"]
        first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
        assert "- Pip" in messages[first]["content"]
        prompt = tokenizer.apply_chat_template(messages[:first], tokenize=False, add_generation_prompt=True)
        assert "- Pip" not in greedy(model, tokenizer, prompt)
