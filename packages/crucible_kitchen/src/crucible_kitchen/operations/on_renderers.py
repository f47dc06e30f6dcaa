"""What looks at renderers: what they make of conversations, and whether it is what the model's own template makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crucible_ir import ConfigError, DataError
from crucible_kitchen.blocking import run_to_end
from crucible_kitchen.manifests.loading import load_manifest
from crucible_kitchen.manifests.ports import ManifestPorts
from crucible_kitchen.operations.admission import admit_manifest, admit_model
from crucible_kitchen.operations.bundled import BUNDLED, bundled_or
from crucible_kitchen.operations.render_models import (
    CheckedConversation,
    CheckedSequence,
    GivenConversation,
    RenderCheck,
    RenderedConversation,
    RenderedConversations,
    RenderReport,
    RenderRequest,
    ShownToken,
    Verdict,
)
from crucible_kitchen.operations.service import Service
from crucible_kitchen.stages.init_tokenizer import renderer_problems
from crucible_train.ports import Tokenizer
from crucible_train.renderers import (
    Renderer,
    RendererOptions,
    RenderError,
    ToolSpec,
    get_renderer,
    messages_from_dicts,
    recommended_renderer,
)
from crucible_train.renderers.chat_template_compare import (
    CONVERSATIONS,
    Comparison,
    Conversation,
    Written,
    compare_with_template,
    example_of,
)

__all__ = ["render_check", "render_show"]

_BUNDLED_RENDERER = "qwen3_instruct"
_BEFORE, _BEHIND = 12, 12
_TOOL_KEYS = ("name", "description", "parameters")


def render_check(service: Service, request: RenderCheck) -> RenderReport:
    """Hold a renderer against the chat template of a model's tokenizer.

    Raises:
        ConfigError: the renderer is unknown or none is recommended, or the tokenizer has no template.
        NotFoundError: there is no such model.
        DataError: a conversation that was given is none.
    """
    renderer = _renderer(service, request)
    found = [
        _checked(renderer.tokenizer, compare_with_template(renderer, conversation, request.train_on_what))
        for conversation in _conversations(request)
    ]
    verdicts = {one.verdict for one in found}
    return RenderReport(
        model=request.model,
        renderer=renderer.name,
        equal="equal" in verdicts and "different" not in verdicts,
        conversations=tuple(found),
    )


def render_show(service: Service, request: RenderRequest) -> RenderedConversations:
    """The tokens that training would see, with their weights.

    Raises:
        ConfigError, NotFoundError, DataError: as ``render_check``; no template is needed.
    """
    renderer = _renderer(service, request)
    return RenderedConversations(
        model=request.model,
        renderer=renderer.name,
        conversations=tuple(_rendered(renderer, one, request) for one in _conversations(request)),
    )


def _rendered(renderer: Renderer, conversation: Conversation, request: RenderRequest) -> RenderedConversation:
    try:
        example = example_of(renderer, conversation, request.train_on_what)
    except RenderError as error:
        return RenderedConversation(name=conversation.name, reason=str(error))
    ids = example.model_input.all_tokens(image_id=-1)
    tokens = _shown(renderer.tokenizer, ids, example.weights.tolist())
    return RenderedConversation(name=conversation.name, tokens=tokens)


def _renderer(service: Service, request: RenderRequest) -> Renderer:
    """The renderer over the model's tokenizer."""
    name = _BUNDLED_RENDERER if request.model == BUNDLED and request.renderer is None else request.renderer
    problems = renderer_problems(name, request.model, where="renderer")
    if not service.trusted:
        problems += admit_manifest(request.manifest, where="manifest")
        problems += admit_model(request.model, roots=service.allowed_roots)
    if problems:
        raise ConfigError(problems=problems)
    place = bundled_or(request.model)
    ports = ManifestPorts(load_manifest(request.manifest), home=service.home.root, environ=service.environ)
    try:
        tokenizer: Tokenizer = run_to_end(ports.get("training_backend").load_tokenizer, place)
    finally:
        ports.close()
    options = RendererOptions(current_date=request.current_date)
    return get_renderer(name or recommended_renderer(request.model), tokenizer, options)


def _conversations(request: RenderRequest) -> Sequence[Conversation]:
    if not request.conversations:
        return CONVERSATIONS
    return [_given(number, given) for number, given in enumerate(request.conversations)]


def _given(number: int, given: GivenConversation) -> Conversation:
    where = f"conversations[{number}]"
    return Conversation(
        name=given.name or str(number + 1),
        messages=tuple(messages_from_dicts(given.messages, where=f"{where}.messages")),
        tools=tuple(_tool(tool, f"{where}.tools[{i}]") for i, tool in enumerate(given.tools)),
    )


def _tool(row: dict[str, Any], where: str) -> ToolSpec:
    row = row["function"] if isinstance(row.get("function"), dict) else row
    name, parameters = row.get("name"), row.get("parameters", {})
    if not isinstance(name, str) or not isinstance(parameters, dict) or set(row) - set(_TOOL_KEYS):
        raise DataError(
            what=f"a tool with {', '.join(map(str, row)) or 'nothing'}",
            where=where,
            remedy="give name, description, and parameters as a JSON Schema",
        )
    return ToolSpec(name=name, description=str(row.get("description", "")), parameters=parameters)


def _checked(tokenizer: Tokenizer, found: Comparison) -> CheckedConversation:
    reasons = [reason for reason in (found.renderer_refuses, found.template_refuses) if reason is not None]
    verdict: Verdict = "equal" if all(one.at is None for one in found.written) else "different"
    if len(reasons) == 2:
        verdict = "both_refuse"
    elif reasons:
        verdict = "renderer_refuses" if found.renderer_refuses is not None else "template_refuses"
    return CheckedConversation(
        name=found.name,
        verdict=verdict,
        reason="; ".join(reasons),
        sequences=tuple(_sequence(tokenizer, one) for one in found.written),
    )


def _sequence(tokenizer: Tokenizer, one: Written) -> CheckedSequence:
    """Tokens around the first difference; all tokens where there is none."""
    if one.at is None:
        shown = _shown(tokenizer, one.ours, one.weights)
        return CheckedSequence(part=one.part, equal=True, renderer=shown, template=())
    start, end = max(one.at - _BEFORE, 0), one.at + _BEHIND
    return CheckedSequence(
        part=one.part,
        equal=False,
        at=one.at,
        from_position=start,
        renderer=_shown(tokenizer, one.ours[start:end], one.weights[start:end]),
        template=_shown(tokenizer, one.theirs[start:end], ()),
    )


def _shown(tokenizer: Tokenizer, ids: Sequence[int], weights: Sequence[float]) -> tuple[ShownToken, ...]:
    """Tokens with their text; the text of a character that several tokens spell stands with the last of them."""
    found: list[ShownToken] = []
    waiting: list[int] = []
    for number, token in enumerate(ids):
        waiting.append(token)
        text = "[image]" if token < 0 else tokenizer.decode([one for one in waiting if one >= 0])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(waiting) < 4 and number + 1 < len(ids):
            text = ""
        else:
            waiting = []
        found.append(
            ShownToken(id=token, text=text, weight=weights[number] if number < len(weights) else 0.0)
        )
    return tuple(found)
