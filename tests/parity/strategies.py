"""Generated conversations, answers and trajectories, in the JSON form that both sides read."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["answers", "conversations", "texts"]

SAID = (
    *(
        "",
        "Hello",
        " hi ",
        "\n\nx\n",
        "a\nb",
        "12 + 30 = 42.",
        "日本語",
        "👩‍🚀 ok",
        "\t",
        "  ",
        "é",
        '{"a": 1}',
    ),
    *(
        "<think>in</think>out",
        "x</think>y",
        "a</think>\n\nb",
        "<think>open",
        "</think>",
        "<think></think>",
        "<tool_call>",
    ),
    *("User: no", "a\n\nUser: b", "\\boxed{3}", "```py\nx\n```", "<|im_end|>", "<|eot_id|>", "<|end|>"),
    *("<｜end▁of▁sentence｜>", "<|return|>", "<|start|>assistant", "<UNUSED>", "<s>", "Assistant:"),
)
ARGUMENTS = (
    "{}",
    '{"q": "x"}',
    '{"a": 1, "b": [1, 2], "c": null, "d": true, "e": {"k": "v"}, "f": 1.5, "g": "two\\nlines"}',
    '{"é": "日本"}',
    '{"n": -0.0, "t": "<|im_end|>", "s": ""}',
)
BITS = (
    *("hi", " ", "\n", "\n\n", "é", "f", "json", "assistant", "5", "\ntrue\n", "12.5", "\\boxed{7}"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>"),
    *('{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arguments": {}, "id": "z"}', "{bad", "[1]"),
    *('{"name": 3, "arguments": {}}', '{"name": "f"}', '{"name": "f", "arguments": "{}"}', "null"),
    *("<function=f>", "</function>", "<parameter=a>", "</parameter>", "\n5\n"),
    *("\n\nUser:", "User:", "<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁sep｜>", "<|start|>", "<|channel|>", "analysis", "final", "commentary", "<|message|>"),
    *("<|end|>", " to=functions.f", "<|constrain|>"),
)
SHAPES = (
    "<tool_call>\n{call}\n</tool_call>",
    "<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>",
    "<think>\n{text}\n</think>\n\n{text}",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{call}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "<|channel|>analysis<|message|>{text}<|end|><|start|>assistant<|channel|>final<|message|>{text}",
    " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{call}",
)
CALLS = BITS[16:24]
STOPS = {
    "role_colon": "\n\nUser:",
    "llama3": "<|eot_id|>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gpt_oss": "<|return|>",
}

texts = st.sampled_from(SAID) | st.text("ab \n<>/{}é日'\".,1|", max_size=12)


@st.composite
def _calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "id": draw(st.sampled_from(("c", "call_1"))),
            "function": {
                "name": draw(st.sampled_from(("f", "search"))),
                "arguments": draw(st.sampled_from(ARGUMENTS)),
            },
        }
        for _ in range(draw(st.integers(1, 2)))
    ]


@st.composite
def _message(draw: st.DrawFn, roles: tuple[str, ...]) -> dict[str, Any]:
    role = draw(st.sampled_from(roles))
    row: dict[str, Any] = {"role": role}
    form = draw(st.integers(0, 9))
    if form < 6:
        row["content"] = draw(texts)
    else:
        kinds = ("text", "thinking") if role == "assistant" else ("text",)
        row["content"] = [
            {"type": kind, kind: draw(texts)}
            for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
        ]
    if role == "assistant" and draw(st.integers(0, 3)) == 0:
        row["tool_calls"] = draw(_calls())
    if role == "tool":
        row |= {"name": draw(st.sampled_from(("f", "search"))), "tool_call_id": "c"}
    return row


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One to eight messages, mostly as chats are: a system message first, an answer last."""
    rows = [draw(_message(("system",)))] if draw(st.booleans()) else []
    middle = ("user", "user", "assistant", "assistant", "tool")
    rows += draw(st.lists(_message(middle), min_size=1, max_size=5))
    if draw(st.integers(0, 3)):
        rows.append(draw(_message(("assistant",))))
    return rows


@st.composite
def answers(draw: st.DrawFn, name: str) -> str:
    """What a model may sample: marks in and out of place, calls, reasoning, mostly ended as the format ends."""
    said = ""
    for shape in draw(st.lists(st.sampled_from((*SHAPES * 8, *BITS)), min_size=1, max_size=6)):
        said += (
            shape.replace("{call}", draw(st.sampled_from(CALLS))).replace(
                "{text}", draw(st.sampled_from(("x", " y\n", "", "é")))
            )
            if shape in SHAPES
            else shape
        )
    stop = next((mark for start, mark in STOPS.items() if name.startswith(start)), "<|im_end|>")
    return said + (stop if draw(st.integers(0, 4)) else "")
