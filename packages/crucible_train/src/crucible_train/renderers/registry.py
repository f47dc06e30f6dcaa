"""Renderers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from crucible_ir.errors import AdapterError, ConfigError, nearest
from crucible_train.ports.tokenizer import Tokenizer
from crucible_train.renderers.base import Renderer
from crucible_train.renderers.chat_template import ChatTemplateRenderer
from crucible_train.renderers.deepseek_v3 import DeepSeekV3Renderer, DeepSeekV3ThinkingRenderer
from crucible_train.renderers.gpt_oss import (
    GptOssHighReasoningRenderer,
    GptOssLowReasoningRenderer,
    GptOssMediumReasoningRenderer,
    GptOssRenderer,
)
from crucible_train.renderers.llama3 import Llama3Renderer
from crucible_train.renderers.nemotron3 import (
    Nemotron3DisableThinkingRenderer,
    Nemotron3PreserveThinkingRenderer,
    Nemotron3Renderer,
)
from crucible_train.renderers.options import RendererOptions
from crucible_train.renderers.qwen3 import (
    Qwen3DisableThinkingRenderer,
    Qwen3InstructRenderer,
    Qwen3Renderer,
)
from crucible_train.renderers.qwen3_5 import (
    Qwen3_5DisableThinkingRenderer,
    Qwen3_5PreserveThinkingRenderer,
    Qwen3_5Renderer,
)
from crucible_train.renderers.qwen3_8 import (
    Qwen3_8DisableThinkingRenderer,
    Qwen3_8LowReasoningRenderer,
    Qwen3_8MediumReasoningRenderer,
    Qwen3_8Renderer,
)
from crucible_train.renderers.qwen3_vl import Qwen3VLInstructRenderer, Qwen3VLRenderer
from crucible_train.renderers.role_colon import RoleColonRenderer

__all__ = ["RendererFactory", "RendererRegistry", "find_renderer", "get_renderer", "renderer_names"]

RendererFactory = Callable[[Tokenizer, RendererOptions | None], Renderer]

_BUILT_IN: Mapping[str, RendererFactory] = MappingProxyType(
    {
        renderer.name: renderer
        for renderer in (
            RoleColonRenderer,
            Llama3Renderer,
            Qwen3Renderer,
            Qwen3DisableThinkingRenderer,
            Qwen3InstructRenderer,
            Qwen3VLRenderer,
            Qwen3VLInstructRenderer,
            Qwen3_5Renderer,
            Qwen3_5DisableThinkingRenderer,
            Qwen3_5PreserveThinkingRenderer,
            Qwen3_8Renderer,
            Qwen3_8MediumReasoningRenderer,
            Qwen3_8LowReasoningRenderer,
            Qwen3_8DisableThinkingRenderer,
            DeepSeekV3Renderer,
            DeepSeekV3ThinkingRenderer,
            GptOssRenderer,
            GptOssLowReasoningRenderer,
            GptOssMediumReasoningRenderer,
            GptOssHighReasoningRenderer,
            Nemotron3Renderer,
            Nemotron3DisableThinkingRenderer,
            Nemotron3PreserveThinkingRenderer,
            ChatTemplateRenderer,
        )
    }
)


class RendererRegistry:
    """Names and what makes a renderer; immutable: ``with_renderer`` gives a new one."""

    def __init__(self, factories: Mapping[str, RendererFactory] = _BUILT_IN) -> None:
        self._factories = dict(factories)

    @property
    def names(self) -> tuple[str, ...]:
        """Known names, sorted."""
        return tuple(sorted(self._factories))

    def with_renderer(self, name: str, factory: RendererFactory) -> RendererRegistry:
        """A registry that knows ``name`` too.

        Raises:
            AdapterError: the name is taken; nothing is ever replaced silently.
        """
        if name in self._factories:
            raise AdapterError(
                what=f"two renderers are called {name!r}",
                where="RendererRegistry.with_renderer",
                remedy="give the new one another name",
            )
        return RendererRegistry({**self._factories, name: factory})

    def find(self, name: str) -> RendererFactory:
        """What makes renderers of this name.

        Raises:
            ConfigError: no renderer has this name; says the nearest one.
        """
        factory = self._factories.get(name)
        if factory is None:
            near = nearest(name, self._factories)
            raise ConfigError(
                what=f"no renderer is called {name!r}",
                where="renderer",
                remedy=f"did you mean {near!r}?" if near else f"valid: {', '.join(self.names)}",
            )
        return factory

    def create(self, name: str, tokenizer: Tokenizer, options: RendererOptions | None = None) -> Renderer:
        """A renderer of this name over ``tokenizer``.

        Raises:
            ConfigError: no renderer has this name; says the nearest one.
        """
        return self.find(name)(tokenizer, options)


_REGISTRY = RendererRegistry()


def find_renderer(name: str) -> RendererFactory:
    """What makes built-in renderers of this name.

    Raises:
        ConfigError: there is none; says the nearest name.
    """
    return _REGISTRY.find(name)


def get_renderer(name: str, tokenizer: Tokenizer, options: RendererOptions | None = None) -> Renderer:
    """The built-in renderer of this name over ``tokenizer``.

    Raises:
        ConfigError: there is none; says the nearest name.
    """
    return _REGISTRY.create(name, tokenizer, options)


def renderer_names() -> tuple[str, ...]:
    """Names of the built-in renderers, sorted."""
    return _REGISTRY.names
