"""The two ways a conversation is written as text: ChatML and role-colon."""

from collections.abc import Sequence

Message = dict[str, str]


def chatml(messages: Sequence[Message], *, empty_thought: bool = False) -> str:
    """ChatML as Qwen3 writes it; with `empty_thought`, assistant turns open with the empty think block."""
    thought = "<think>\n\n</think>\n\n" if empty_thought else ""
    return "".join(
        f"<|im_start|>{message['role']}\n{thought if message['role'] == 'assistant' else ''}"
        f"{message['content']}<|im_end|>\n"
        for message in messages
    )


def role_colon(messages: Sequence[Message]) -> str:
    """`Role: text` blocks, a blank line between, closed by the next `User:` so that a reader learns where to stop."""
    blocks = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n\n".join([*blocks, "User:"])
