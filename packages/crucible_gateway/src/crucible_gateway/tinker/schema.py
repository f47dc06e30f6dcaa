"""The protobuf messages of the Tinker wire, SDK 0.38: names, numbers and types of fields as the SDK has them.

Written as a table, so that no generated code and no compiler is needed. A line of a message is
``number type name``; the types are those of protobuf, a message's name, ``map<T>`` (string keys), with
``repeated``, ``optional`` or ``oneof`` before them.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

__all__ = ["PACKAGE", "messages"]

PACKAGE = "tinker_public"

_ENUMS = {
    "StopReason": ("STOP_REASON_STOP", "STOP_REASON_LENGTH"),
    "DType": ("DTYPE_UNSPECIFIED", "DTYPE_FLOAT32", "DTYPE_INT64", "DTYPE_INT32", "DTYPE_BFLOAT16"),
}

_MESSAGES = {
    "SampleResponse": """
        1 repeated SampledSequence sequences
        2 optional bytes prompt_logprobs
        3 optional TopkLogprobs topk_prompt_logprobs
        4 int32 prompt_cache_hit_tokens
        5 optional Tensor target_prompt_logprobs
        6 optional PromptAltTokens prompt_alt_tokens
    """,
    "PromptAltTokens": """
        1 Tensor tokens
        2 Tensor logprobs
    """,
    "SampledSequence": """
        1 StopReason stop_reason
        2 bytes tokens
        3 optional bytes logprobs
        4 optional TopkLogprobs topk_sampled_logprobs
    """,
    "TopkLogprobs": """
        1 bytes token_ids
        2 bytes logprobs
        3 uint32 k
        4 uint32 length
    """,
    "SparseCsr": """
        1 bytes values
        2 bytes crow_indices
        3 bytes col_indices
    """,
    "Tensor": """
        1 oneof bytes dense
        2 oneof SparseCsr sparse_csr
        3 DType dtype
        4 repeated int64 shape
    """,
    "BatchedTensor": """
        1 bytes data
        2 bytes offsets
        3 DType dtype
        4 repeated int64 trailing_shape
    """,
    "ArrayRecord": """
        1 string type_tag
        2 map<BatchedTensor> fields
        3 int64 num_datums
    """,
    "ForwardBackwardOutput": """
        1 string loss_fn_output_type
        2 repeated ArrayRecord loss_fn_outputs
        3 map<double> metrics
    """,
    "ForwardBackwardRequest": """
        1 string model_id
        2 int32 seq_id
        3 repeated Datum data
        4 string loss_fn
        5 map<double> loss_fn_config
        6 bool forward_only
        7 map<LossConfigValue> loss_fn_config_v2
    """,
    "LossConfigValue": """
        1 oneof double number
        2 oneof string text
    """,
    "Datum": """
        1 repeated Chunk model_input
        2 map<Tensor> loss_fn_inputs
        3 repeated ProvenanceSpan model_input_spans
        4 repeated ProvenanceSpan loss_fn_input_spans
    """,
    "ProvenanceSpan": """
        1 oneof PromptProvenanceSpan prompt_tokens
        2 oneof SampledProvenanceSpan sampled_tokens
    """,
    "PromptProvenanceSpan": """
        1 string sequence_id
        2 int64 offset
        3 int64 length
    """,
    "SampledProvenanceSpan": """
        1 string sequence_id
        2 int64 offset
        3 int64 length
    """,
    "Chunk": """
        1 oneof EncodedTextChunk encoded_text
        2 oneof ImageChunk image
        3 oneof DmelChunk dmel
    """,
    "EncodedTextChunk": """
        1 bytes tokens
    """,
    "ImageChunk": """
        1 bytes data
        2 string format
        3 optional int32 expected_tokens
        4 optional ImageDimensions override_dimensions
    """,
    "ImageDimensions": """
        1 uint32 width
        2 uint32 height
    """,
    "DmelChunk": """
        1 bytes dmel
    """,
}


@cache
def messages() -> Any:
    """The message classes by name, and the values of the enums (``STOP_REASON_STOP`` …) beside them."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="crucible_gateway/tinker_public.proto", package=PACKAGE, syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, lines in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in lines.split("\n"):
            if line.strip():
                _add_field(message, line.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _MESSAGES
    }
    numbers = {value: number for values in _ENUMS.values() for number, value in enumerate(values)}
    return SimpleNamespace(**classes, **numbers)


def _add_field(message: Any, words: list[str]) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Proto

    number, kind, name = int(words[0]), words[-2], words[-1]
    rule = words[1] if len(words) == 4 else ""
    field = message.field.add(name=name, number=number, label=Proto.LABEL_OPTIONAL)
    if kind.startswith("map<"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, ["1", "string", "key"])
        _add_field(entry, ["2", kind[4:-1], "value"])
        field.label, field.type = Proto.LABEL_REPEATED, Proto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
        return
    if kind in _ENUMS or kind in _MESSAGES:
        field.type = Proto.TYPE_ENUM if kind in _ENUMS else Proto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(Proto, f"TYPE_{kind.upper()}")
    if rule == "repeated":
        field.label = Proto.LABEL_REPEATED
    elif rule == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="of")
        field.oneof_index = 0
    elif rule == "optional":
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")
