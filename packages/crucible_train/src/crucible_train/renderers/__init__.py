"""Chat formats: from messages to tokens with loss weights, and from sampled tokens back to a message."""

from crucible_train.renderers.base import Renderer
from crucible_train.renderers.errors import RenderError
from crucible_train.renderers.expressible import Feature
from crucible_train.renderers.jsonable import message_from_dict, message_to_dict, messages_from_dicts
from crucible_train.renderers.llama3 import Llama3Renderer
from crucible_train.renderers.message import (
    Content,
    ContentPart,
    ImagePart,
    MarkupPart,
    Message,
    Role,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolCallPart,
    ToolSpec,
    UnparsedToolCall,
)
from crucible_train.renderers.options import ImageProcessor, RendererOptions
from crucible_train.renderers.qwen3 import (
    Qwen3DisableThinkingRenderer,
    Qwen3InstructRenderer,
    Qwen3Renderer,
)
from crucible_train.renderers.recommend import recommended_renderer, recommended_renderers
from crucible_train.renderers.registry import (
    RendererFactory,
    RendererRegistry,
    find_renderer,
    get_renderer,
    renderer_names,
)
from crucible_train.renderers.rendered import (
    ParseTermination,
    RenderContext,
    RenderedMessage,
    SupervisedExample,
)
from crucible_train.renderers.role_colon import RoleColonRenderer
from crucible_train.renderers.train_on_what import TrainOnWhat

__all__ = [
    "Content",
    "ContentPart",
    "Feature",
    "ImagePart",
    "ImageProcessor",
    "Llama3Renderer",
    "MarkupPart",
    "Message",
    "ParseTermination",
    "Qwen3DisableThinkingRenderer",
    "Qwen3InstructRenderer",
    "Qwen3Renderer",
    "RenderContext",
    "RenderError",
    "RenderedMessage",
    "Renderer",
    "RendererFactory",
    "RendererOptions",
    "RendererRegistry",
    "Role",
    "RoleColonRenderer",
    "SupervisedExample",
    "TextPart",
    "ThinkingPart",
    "ToolCall",
    "ToolCallPart",
    "ToolSpec",
    "TrainOnWhat",
    "UnparsedToolCall",
    "find_renderer",
    "get_renderer",
    "message_from_dict",
    "message_to_dict",
    "messages_from_dicts",
    "recommended_renderer",
    "recommended_renderers",
    "renderer_names",
]
