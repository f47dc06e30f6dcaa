"""The architecture: a Qwen3 of a million and a half parameters, its first weights drawn from a seed."""

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

MAX_POSITIONS = 1024


def new_model(vocabulary: int, *, eos: int, pad: int, seed: int) -> Qwen3ForCausalLM:
    """An untrained float32 model; the same seed draws the same weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    return model
