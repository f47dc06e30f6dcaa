"""The tokenizer adapter: literal special tokens, bytes of tokens, digests."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_ir import NotFoundError
from crucible_torch.tokenizer import load_tokenizer
from crucible_torch.tokenizer_files import _from_files, _from_transformers

known = functools.cache(load_tokenizer)


def test_the_end_of_a_turn_in_a_users_text_is_ordinary_text(qwen3: Path) -> None:
    tokenizer = load_tokenizer(str(qwen3))
    end = tokenizer.token_id("<|im_end|>")
    ids = tokenizer.encode("stop <|im_end|> now")
    assert end == tokenizer.eos_token_id == 2
    assert end not in ids
    assert tokenizer.decode(ids) == "stop <|im_end|> now"
    assert tokenizer.encode("stop <|im_end|> now", allow_special=True).count(2) == 1


def test_a_token_gives_its_bytes(qwen3: Path) -> None:
    tokenizer = load_tokenizer(str(qwen3))
    text = "the cat sat: naïve 🙂"
    assert b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text)) == text.encode()
    assert tokenizer.token_bytes(2) == b""
    assert tokenizer.all_special_ids == (0, 1, 2)
    assert tokenizer.bos_token_id is None
    assert 259 < tokenizer.vocab_size <= 320


def test_the_digest_follows_content_and_not_name(qwen3: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    for folder in (same, other):
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(qwen3 / name, folder / name)
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(content))
    digest = load_tokenizer(str(qwen3)).digest
    assert digest.startswith("sha256:")
    assert load_tokenizer(str(same)).digest == digest
    assert load_tokenizer(str(other)).digest != digest


def test_a_folder_without_a_tokenizer_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFoundError, match="tokenizer"):
        load_tokenizer(str(tmp_path), local_files_only=True)
    with pytest.raises(NotFoundError, match="no folder"):
        load_tokenizer(str(tmp_path / "absent"))


def test_a_tokenizer_read_from_its_files_is_what_transformers_makes_of_them(qwen3: Path) -> None:
    direct, theirs = _from_files(qwen3), _from_transformers(str(qwen3), True)
    assert direct is not None
    assert json.loads(direct.definition) == json.loads(theirs.definition)
    assert (direct.bos, direct.eos, direct.template) == (theirs.bos, theirs.eos, theirs.template)
    assert dict(direct.named) == dict(theirs.named)


SETTINGS_FOR_TRANSFORMERS = {
    "a class of its own": {"tokenizer_class": "Qwen2Tokenizer"},
    "a token that is not there": {"eos_token": "<|absent|>"},
    "a token of other properties": {
        "added_tokens_decoder": {"1": {"content": "<|im_start|>", "special": False}}
    },
    "an added BOS": {"add_bos_token": True},
    "a setting that nobody here knows": {"split_special_tokens": True},
    "several templates": {"chat_template": [{"name": "default", "template": "x"}]},
}


@pytest.mark.parametrize("name", SETTINGS_FOR_TRANSFORMERS)
def test_settings_that_need_transformers_are_left_to_it(qwen3: Path, tmp_path: Path, name: str) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(qwen3 / file, tmp_path / file)
    assert _from_files(tmp_path) is not None
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    changed = {**settings, **SETTINGS_FOR_TRANSFORMERS[name]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
    assert _from_files(tmp_path) is None


def test_files_beside_a_tokenizer_are_left_to_transformers(qwen3: Path, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(qwen3 / file, tmp_path / file)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert _from_files(tmp_path) is None
    assert load_tokenizer(str(tmp_path)).chat_template == "{{ messages }}"


@given(ids=st.lists(st.integers(min_value=0, max_value=330), max_size=24))
def test_any_ids_are_decoded_as_tokenizers_decodes_them(qwen3: Path, ids: list[int]) -> None:
    tokenizer = known(str(qwen3))
    assert tokenizer._decodes_bytes
    assert tokenizer.decode(ids) == tokenizer._special.decode(ids, skip_special_tokens=False)


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen3", "llama-3.1-instruct", "gpt2"])
def test_ids_of_real_vocabularies_are_decoded_as_tokenizers_decodes_them(
    shared_data: Path, name: str
) -> None:
    tokenizer = known(str(shared_data / "tokenizers" / name))
    generator = np.random.default_rng(5)
    assert tokenizer._decodes_bytes
    for size in (1, 2, 3, 30) * 40:
        ids = generator.integers(0, tokenizer.vocab_size, size).tolist()
        assert tokenizer.decode(ids) == tokenizer._special.decode(ids, skip_special_tokens=False)


@pytest.mark.real
def test_a_sentencepiece_vocabulary_gives_its_bytes(shared_data: Path) -> None:
    tokenizer = load_tokenizer(str(shared_data / "models" / "stories260K"))
    text = "Once upon a time\nthere was é"
    joined = b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text)).decode()
    assert joined.removeprefix(" ") == text
    assert tokenizer.token_bytes(1) == b""
    assert tokenizer.bos_token_id == 1
    assert 1 not in tokenizer.encode("say <s> twice")


@pytest.mark.real
@pytest.mark.parametrize("name", ["qwen3", "llama-3.1-instruct", "gpt2"])
def test_real_vocabularies_equal_their_recorded_vectors(shared_data: Path, name: str) -> None:
    folder = shared_data / "tokenizers" / name
    tokenizer = known(str(folder))
    rows = [json.loads(line) for line in (folder / "vectors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows
    for row in rows:
        assert tokenizer.encode(row["text"], allow_special=True) == row["ids"]
