"""A loaded causal language model: its body, its head, its limits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from crucible_ir.errors import ConfigError, IntegrityError
from crucible_torch.adapter import Adapter
from crucible_torch.attention import ATTENTION_NAME, PackedPlan, RowPlan, register_attention
from crucible_torch.decoder_files import read_decoder
from crucible_torch.fused import FusedDecoder
from crucible_torch.layers import (
    ActiveAdapter,
    AdaptedLinear,
    LayerKind,
    adaptable_layers,
    install,
    wanted_layers,
)
from crucible_torch.location import ModelFiles
from crucible_torch.prefixes import PrefixCache
from crucible_train.types import LoraConfig

__all__ = ["LoadedModel", "choose_device", "choose_dtype", "load_model", "no_progress_bars"]


@dataclass(slots=True, kw_only=True)
class LoadedModel:
    """A model on its device, in evaluation mode.

    A shared base is frozen and applies the adapter that ``using`` names; a copy of one's own has none
    and trains all its weights.
    """

    files: ModelFiles
    digest: str
    module: Any
    device: torch.device
    dtype: torch.dtype
    active: ActiveAdapter = field(default_factory=ActiveAdapter)
    kinds: dict[str, LayerKind] = field(default_factory=dict)
    layers: dict[str, AdaptedLinear] = field(default_factory=dict)
    prefixes: PrefixCache | None = None
    _decoder: FusedDecoder | None = None

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the model has positions for."""
        return self.files.max_positions

    @property
    def vocab_size(self) -> int:
        """Rows of the output embedding."""
        return int(self.module.get_output_embeddings().weight.shape[0])

    @property
    def eos_ids(self) -> frozenset[int]:
        """Token ids at which a generation ends unless the caller says otherwise."""
        for source in (getattr(self.module, "generation_config", None), self.module.config):
            ids = getattr(source, "eos_token_id", None)
            if ids is not None:
                return frozenset([ids] if isinstance(ids, int) else ids)
        return frozenset()

    def hidden(
        self, tokens: torch.Tensor, positions: torch.Tensor, plan: PackedPlan | RowPlan
    ) -> torch.Tensor:
        """Last hidden states [rows, tokens, width] of token ids and positions [rows, tokens]."""
        out = self.module.base_model(
            input_ids=tokens, position_ids=positions, use_cache=False, crucible_plan=plan
        )
        states: torch.Tensor = out.last_hidden_state
        return states

    def steady(self) -> None:
        """Let every product of a model that is only sampled from go through an ``AdaptedLinear``."""
        if not self.layers:
            self.layers = install(self.module, self.active)

    def decoder(self) -> FusedDecoder:
        """The weights as they are at the first call, laid out for decoding; what is sampled from never changes."""
        if self._decoder is None:
            self._decoder = FusedDecoder(self.module)
        return self._decoder

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of every token, in the model's dtype."""
        scores: torch.Tensor = self.module.get_output_embeddings()(states)
        return scores

    @contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[None]:
        """Apply ``adapter`` inside the block; the engine's one thread is the only caller."""
        if adapter is not None:
            self.active.pairs, self.active.scale = adapter.pairs, adapter.scale
        try:
            yield
        finally:
            self.active.pairs, self.active.scale = {}, 1.0

    def shapes(self, lora: LoraConfig) -> dict[str, tuple[int, int]]:
        """(out, in) of each layer that ``lora`` trains."""
        paths = wanted_layers(self.kinds, lora)
        return {path: tuple(self.layers[path].matrix.shape) for path in paths}  # type: ignore[misc]

    def own_copy(self) -> LoadedModel:
        """A second model of the same values, all of them trainable, that shares nothing with this one.

        Raises:
            ConfigError: this model is a shared base, whose layers are adapted.
        """
        if self.layers:
            raise ConfigError(what="a shared base has no copy", where="LoadedModel", remedy="load it again")
        return LoadedModel(
            files=self.files,
            digest=self.digest,
            module=copy.deepcopy(self.module),
            device=self.device,
            dtype=self.dtype,
        )


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            what="device = 'cuda', but torch sees no GPU",
            where="local engine: device",
            remedy="set device to 'cpu' or 'auto', or install torch with CUDA",
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_dtype(device: torch.device, wish: str) -> torch.dtype:
    """The dtype that is wished for; "auto" is float32 on a CPU and bfloat16 on a GPU that has it."""
    if wish == "auto":
        gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        wish = "bfloat16" if gpu else "float32"
    return torch.bfloat16 if wish == "bfloat16" else torch.float32


def load_model(
    files: ModelFiles,
    *,
    digest: str,
    device: torch.device,
    dtype: torch.dtype,
    shared: bool,
    portable: bool = False,
) -> LoadedModel:
    """Read weights from disk; ``shared`` freezes them and makes every linear layer adaptable.

    Plain decoders are computed here (``crucible_torch.decoder``), all other models by transformers, as are
    ``portable`` ones, which can be saved in its format.

    Raises:
        ConfigError: transformers knows no such causal language model.
        IntegrityError: weights are damaged, or do not fit the config.
    """
    module: Any = None if portable else read_decoder(files, dtype, device)
    if module is None:
        module = _read_with_transformers(files, dtype)
    module = module.to(device).eval().requires_grad_(not shared)
    model = LoadedModel(files=files, digest=digest, module=module, device=device, dtype=dtype)
    if shared:
        model.kinds = adaptable_layers(module)
        model.layers = install(module, model.active)
    return model


def _read_with_transformers(files: ModelFiles, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    register_attention()
    try:
        with no_progress_bars():
            module, report = AutoModelForCausalLM.from_pretrained(
                str(files.folder),
                dtype=dtype,
                attn_implementation=ATTENTION_NAME,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except ValueError as error:
        raise ConfigError(
            what=f"transformers cannot load {files.name} ({str(error).splitlines()[0]})",
            where="base_model",
            remedy="give a causal language model that transformers has code for; remote code is never run",
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _unreadable(files, str(error).splitlines()[0]) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise _unreadable(files, f"{len(missing)} tensors are missing, such as {missing[0]}")
    return module


def _unreadable(files: ModelFiles, why: str) -> IntegrityError:
    return IntegrityError(
        what=f"weights of {files.name} cannot be read ({why})",
        where="base_model",
        remedy="restore the model's folder",
    )


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars off the terminal inside the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
