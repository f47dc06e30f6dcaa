"""Tool calls as nested XML-like elements, the notation of Qwen3.5 and Nemotron 3."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from crucible_train.renderers.message import ToolCall, ToolSpec, UnparsedToolCall

__all__ = ["offer_tools", "read_xml_call", "write_xml_call"]

_FUNCTION = re.compile(r"\s*<function=(?P<name>[^>\n]+)>\s*(?P<body>.*?)\s*</function>\s*\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=(?P<name>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>", re.DOTALL)

_HOW_TO_CALL = """If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested \
within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, \
but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and \
do not tell the user about function calls
</IMPORTANT>"""
"""The wording that the models were trained on (their tokenizers' own templates)."""


def offer_tools(tools: Sequence[ToolSpec], declare: Callable[[ToolSpec], str]) -> str:
    """The text that offers tools; empty without any."""
    if not tools:
        return ""
    declared = "\n".join(declare(tool) for tool in tools)
    return (
        "# Tools\n\nYou have access to the following functions:\n\n"
        f"<tools>\n{declared}\n</tools>\n\n{_HOW_TO_CALL}"
    )


def write_xml_call(call: ToolCall, write_value: Callable[[object], str]) -> str:
    """One call; ``write_value`` spells an argument that may be text, number, list, …"""
    lines = [f"<tool_call>\n<function={call.name}>"]
    for name, value in call.decoded_arguments().items():
        lines.append(f"<parameter={name}>\n{write_value(value)}\n</parameter>")
    return "\n".join([*lines, "</function>\n</tool_call>"])


def read_xml_call(text: str, raw_text: str) -> ToolCall | UnparsedToolCall:
    """The call that ``text`` (between the ``tool_call`` marks) spells, or why it is none.

    A value that is JSON is read as such, any other is text.
    """
    function = _FUNCTION.match(text)
    if function is None:
        return UnparsedToolCall(raw_text=raw_text, error="no <function=…> element fills the block")
    arguments: dict[str, object] = {}
    body, position = function["body"], 0
    for parameter in _PARAMETER.finditer(body):
        if body[position : parameter.start()].strip():
            return UnparsedToolCall(raw_text=raw_text, error="text between parameters")
        value = parameter["value"].strip("\n")
        try:
            arguments[parameter["name"].strip()] = json.loads(value)
        except json.JSONDecodeError:
            arguments[parameter["name"].strip()] = value
        position = parameter.end()
    if body[position:].strip():
        return UnparsedToolCall(raw_text=raw_text, error="text after the last parameter")
    return ToolCall(name=function["name"].strip(), arguments=json.dumps(arguments))
