"""Between the bytes of the Tinker wire and the values of ``crucible_train``.

Layout: tokens are int32, float tensors float32, integer tensors int64, all little-endian; offsets of a batched tensor
are int64 bytes. A 2-D tensor may come as compressed sparse rows; what is left out of it is 0.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from crucible_gateway.tinker.schema import messages
from crucible_ir import DataError
from crucible_train.types import (
    Chunk,
    Datum,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageChunk,
    ModelInput,
    SampleResponse,
    TensorData,
)

__all__ = [
    "TrainingCall",
    "call_from_json",
    "call_from_proto",
    "call_ids",
    "output_to_json",
    "output_to_proto",
    "prompt_from_json",
    "sample_to_json",
    "sample_to_proto",
]

_MISSING_TOKEN, _MISSING_LOGPROB = 0, -99999.0
_OUTPUT_TYPE = "ArrayRecord"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCall:
    """A decoded ``forward_backward`` request, or one of ``forward`` (``forward_only``)."""

    model_id: str
    seq_id: int
    data: tuple[Datum, ...]
    loss_fn: str
    config: Mapping[str, float | str]
    forward_only: bool = False

    @property
    def tokens(self) -> int:
        """Positions of all inputs."""
        return sum(datum.model_input.length for datum in self.data)


def call_from_proto(body: bytes) -> TrainingCall:
    """Decode a ``ForwardBackwardRequest``.

    Raises:
        DataError: the bytes are no such message, or a tensor's bytes do not fit its shape.
    """
    message = _parsed(body)
    config: dict[str, float | str] = dict(message.loss_fn_config)
    for key, value in message.loss_fn_config_v2.items():
        config[key] = value.text if value.WhichOneof("of") == "text" else value.number
    return TrainingCall(
        model_id=message.model_id,
        seq_id=message.seq_id,
        data=tuple(_datum(item, index) for index, item in enumerate(message.data)),
        loss_fn=message.loss_fn,
        config=config,
        forward_only=message.forward_only,
    )


def call_ids(body: bytes) -> tuple[str, int]:
    """Model and number of a ``ForwardBackwardRequest``; nothing else of it is checked.

    Raises:
        DataError: the bytes are no such message.
    """
    message = _parsed(body)
    return message.model_id, message.seq_id


def call_from_json(body: Mapping[str, Any], *, forward_only: bool = False) -> TrainingCall:
    """Decode the JSON body that SDKs before 0.22.4 send to ``forward_backward`` and ``forward``.

    Raises:
        DataError: something is missing or does not fit.
    """
    work = body.get("forward_backward_input") or body.get("forward_input")
    if not isinstance(work, Mapping) or not isinstance(work.get("data"), list):
        raise _bad("forward_backward_input.data", "missing")
    data = []
    for index, item in enumerate(work["data"]):
        where = f"data[{index}]"
        try:
            inputs = {
                str(name): _tensor_from_json(value, f"{where}.loss_fn_inputs.{name}")
                for name, value in item["loss_fn_inputs"].items()
            }
            data.append(Datum(prompt_from_json(item["model_input"], f"{where}.model_input"), inputs))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _bad(where, f"not a datum ({type(error).__name__}: {error})") from error
    config = work.get("loss_fn_config") or {}
    return TrainingCall(
        model_id=str(body.get("model_id", "")),
        seq_id=int(body.get("seq_id") or 0),
        data=tuple(data),
        loss_fn=str(work.get("loss_fn", "")),
        config={str(k): v if isinstance(v, str) else float(v) for k, v in config.items()},
        forward_only=forward_only,
    )


def prompt_from_json(value: Mapping[str, Any], where: str = "prompt") -> ModelInput:
    """Decode ``{"chunks": [{"type": "encoded_text", "tokens": […]}, {"type": "image", …}]}``.

    Raises:
        DataError: a chunk of another kind, or one that lacks something.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("chunks"), list):
        raise _bad(f"{where}.chunks", "missing")
    chunks: list[Chunk] = []
    for index, chunk in enumerate(value["chunks"]):
        kind = chunk.get("type", "encoded_text") if isinstance(chunk, Mapping) else None
        place = f"{where}.chunks[{index}]"
        try:
            if kind == "encoded_text":
                tokens = tuple(map(int, chunk["tokens"]))
                if any(not 0 <= token < 2**31 for token in tokens):
                    raise _bad(place, "a token id that is negative or beyond 32 bits")
                chunks.append(EncodedTextChunk(tokens))
            elif kind == "image":
                data = base64.b64decode(chunk["data"], validate=True)
                chunks.append(_image(data, chunk["format"], chunk.get("expected_tokens"), place))
            else:
                raise _bad(place, f"a chunk of kind {kind!r}; text and images are read")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _bad(place, f"not a chunk ({type(error).__name__}: {error})") from error
    return ModelInput(tuple(chunks))


def output_to_proto(output: ForwardBackwardOutput) -> bytes:
    """Encode as ``ForwardBackwardOutput``: one record for each run of datums with equal trailing shapes."""
    pb = messages()
    message = pb.ForwardBackwardOutput(loss_fn_output_type=_OUTPUT_TYPE)
    for key, value in output.metrics.items():
        message.metrics[_metric_name(key)] = value
    for group in _runs(output.loss_fn_outputs, _layout):
        record = message.loss_fn_outputs.add(type_tag=_OUTPUT_TYPE, num_datums=len(group))
        for name in group[0]:
            arrays = [out[name].array for out in group]
            field = record.fields[name]
            integer = arrays[0].dtype == np.int64
            field.dtype = pb.DTYPE_INT64 if integer else pb.DTYPE_FLOAT32
            field.data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
            ends = np.cumsum([0, *(array.nbytes for array in arrays)], dtype=np.int64)
            field.offsets = ends.tobytes()
            field.trailing_shape.extend(arrays[0].shape[1:])
    return bytes(message.SerializeToString())


def sample_to_proto(response: SampleResponse) -> bytes:
    """Encode as ``SampleResponse``; a position of the prompt without a log-probability is NaN."""
    pb = messages()
    message = pb.SampleResponse()
    for sequence in response.sequences:
        message.sequences.add(
            stop_reason=pb.STOP_REASON_STOP if sequence.stop_reason == "stop" else pb.STOP_REASON_LENGTH,
            tokens=np.asarray(sequence.tokens, dtype=np.int32).tobytes(),
            logprobs=None
            if sequence.logprobs is None
            else np.asarray(sequence.logprobs, dtype=np.float32).tobytes(),
        )
    if response.prompt_logprobs is not None:
        values = [np.nan if value is None else value for value in response.prompt_logprobs]
        message.prompt_logprobs = np.asarray(values, dtype=np.float32).tobytes()
    top = response.topk_prompt_logprobs
    if top is not None:
        ids, logprobs = _top_tables(top)
        message.topk_prompt_logprobs.token_ids = ids.tobytes()
        message.topk_prompt_logprobs.logprobs = logprobs.tobytes()
        message.topk_prompt_logprobs.length, message.topk_prompt_logprobs.k = ids.shape
    return bytes(message.SerializeToString())


def output_to_json(body: bytes) -> dict[str, Any]:
    """An encoded ``ForwardBackwardOutput`` as JSON, for SDKs before 0.25."""
    message = messages().ForwardBackwardOutput.FromString(body)
    outputs: list[dict[str, Any]] = []
    for record in message.loss_fn_outputs:
        rows: list[dict[str, Any]] = [{} for _ in range(record.num_datums)]
        for name, field in record.fields.items():
            dtype = np.dtype(np.int64 if field.dtype == messages().DTYPE_INT64 else np.float32)
            values = np.frombuffer(field.data, dtype=dtype)
            ends = np.frombuffer(field.offsets, dtype=np.int64) // dtype.itemsize
            for row, start, end in zip(rows, ends[:-1], ends[1:], strict=True):
                piece = values[start:end].reshape(-1, *field.trailing_shape)
                row[name] = {"data": piece.ravel().tolist(), "dtype": dtype.name, "shape": list(piece.shape)}
        outputs += rows
    return {
        "loss_fn_output_type": message.loss_fn_output_type,
        "loss_fn_outputs": outputs,
        "metrics": dict(message.metrics),
    }


def sample_to_json(body: bytes) -> dict[str, Any]:
    """An encoded ``SampleResponse`` as JSON, for SDKs before 0.25."""
    pb = messages()
    message = pb.SampleResponse.FromString(body)
    prompt = np.frombuffer(message.prompt_logprobs, dtype=np.float32).tolist()
    top = message.topk_prompt_logprobs
    ids = np.frombuffer(top.token_ids, dtype=np.int32).reshape(top.length, top.k).tolist()
    logprobs = np.frombuffer(top.logprobs, dtype=np.float32).reshape(top.length, top.k).tolist()
    return {
        "type": "sample",
        "sequences": [
            {
                "tokens": np.frombuffer(sequence.tokens, dtype=np.int32).tolist(),
                "logprobs": np.frombuffer(sequence.logprobs, dtype=np.float32).tolist()
                if sequence.HasField("logprobs")
                else None,
                "stop_reason": "stop" if sequence.stop_reason == pb.STOP_REASON_STOP else "length",
            }
            for sequence in message.sequences
        ],
        "prompt_logprobs": [None if value != value else value for value in prompt]
        if message.HasField("prompt_logprobs")
        else None,
        "topk_prompt_logprobs": [
            [pair for pair in zip(*row, strict=True) if pair[1] != _MISSING_LOGPROB] or None
            for row in zip(ids, logprobs, strict=True)
        ]
        if message.HasField("topk_prompt_logprobs")
        else None,
    }


# --- pieces ------------------------------------------------------------------------------------------------


def _bad(where: str, what: str) -> DataError:
    return DataError(what=what, where=where, remedy="send what the Tinker SDK 0.38 sends")


def _parsed(body: bytes) -> Any:
    from google.protobuf.message import DecodeError

    message = messages().ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise _bad("the body", f"no ForwardBackwardRequest ({error})") from error
    return message


def _metric_name(name: str) -> str:
    """``name:reduction``, as the SDK wants it; a name without one is averaged over chunks."""
    return name if name.count(":") == 1 else f"{name.replace(':', '_')}:mean"


def _image(data: bytes, form: str, expected: int | None, where: str) -> ImageChunk:
    if form not in ("png", "jpeg"):
        raise _bad(where, f"an image of format {form!r}; png and jpeg are read")
    if expected is None:
        raise _bad(where, "an image without expected_tokens")
    return ImageChunk(data=data, format=cast(Literal["png", "jpeg"], form), expected_tokens=expected)


def _datum(message: Any, index: int) -> Datum:
    chunks: list[Chunk] = []
    for number, chunk in enumerate(message.model_input):
        kind, where = chunk.WhichOneof("of"), f"data[{index}].model_input[{number}]"
        if kind == "encoded_text":
            tokens = _array(chunk.encoded_text.tokens, np.int32, where)
            chunks.append(EncodedTextChunk(tuple(tokens.tolist())))
        elif kind == "image":
            image = chunk.image
            expected = image.expected_tokens if image.HasField("expected_tokens") else None
            chunks.append(_image(image.data, image.format, expected, where))
        else:
            raise _bad(where, f"a chunk of kind {kind!r}; text and images are read")
    inputs = {
        name: _tensor(tensor, f"data[{index}].loss_fn_inputs.{name}")
        for name, tensor in sorted(message.loss_fn_inputs.items())
    }
    return Datum(ModelInput(tuple(chunks)), inputs)


def _array(data: bytes, dtype: type[np.generic], where: str) -> NDArray[Any]:
    try:
        return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))
    except ValueError as error:
        raise _bad(where, f"{len(data)} bytes are no whole number of {np.dtype(dtype).name}") from error


def _tensor(message: Any, where: str) -> TensorData:
    pb = messages()
    types: dict[int, type[np.generic]] = {
        pb.DTYPE_FLOAT32: np.float32,
        pb.DTYPE_INT64: np.int64,
        pb.DTYPE_INT32: np.int32,
    }
    dtype = types.get(message.dtype)
    if dtype is None:
        raise _bad(where, f"a tensor of dtype {message.dtype}")
    shape = tuple(message.shape)
    if message.WhichOneof("of") == "sparse_csr":
        csr = message.sparse_csr
        array = _from_csr(
            _array(csr.values, dtype, where),
            _array(csr.crow_indices, np.int64, where),
            _array(csr.col_indices, np.int64, where),
            shape,
            where,
        )
    else:
        array = _array(message.dense, dtype, where)
    return _shaped(array, shape or (array.size,), where)


def _tensor_from_json(value: Any, where: str) -> TensorData:
    if isinstance(value, list):
        return TensorData.of(value)
    dtype = {"float32": np.float32, "int64": np.int64}.get(value.get("dtype"))
    if dtype is None:
        raise _bad(where, f"a tensor of dtype {value.get('dtype')!r}")
    array = np.asarray(value["data"], dtype=dtype)
    shape = tuple(value.get("shape") or array.shape)
    if value.get("sparse_crow_indices") is not None:
        rows = np.asarray(value["sparse_crow_indices"], dtype=np.int64)
        columns = np.asarray(value["sparse_col_indices"], dtype=np.int64)
        array = _from_csr(array.ravel(), rows, columns, shape, where)
    return _shaped(array, shape, where)


def _shaped(array: NDArray[Any], shape: tuple[int, ...], where: str) -> TensorData:
    if any(size < 0 for size in shape) or int(np.prod(shape, dtype=np.int64)) != array.size:
        raise _bad(where, f"{array.size} values for the shape {list(shape)}")
    return TensorData.of(array.reshape(shape))


def _from_csr(
    values: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, ...], where: str
) -> NDArray[Any]:
    if len(shape) != 2 or min(shape) < 0 or shape[0] * shape[1] > 2**31:
        raise _bad(where, f"sparse rows of the shape {list(shape)}")
    counts = np.diff(rows)
    fits = len(rows) == shape[0] + 1 and rows[0] == 0 and rows[-1] == len(values) == len(columns)
    if (
        not fits
        or (counts < 0).any()
        or (len(columns) and not 0 <= columns.min() <= columns.max() < shape[1])
    ):
        raise _bad(where, f"row or column indices that do not fit the shape {list(shape)}")
    array = np.zeros(shape, dtype=values.dtype)
    array[np.repeat(np.arange(shape[0]), counts), columns] = values
    return array


def _layout(output: Mapping[str, TensorData]) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    return tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in output.items())


def _runs(items: Sequence[Any], key: Callable[[Any], object]) -> list[list[Any]]:
    """Neighbours with equal keys together."""
    runs: list[list[Any]] = []
    last: object = None
    for item in items:
        this = key(item)
        if runs and this == last:
            runs[-1].append(item)
        else:
            runs.append([item])
        last = this
    return runs


def _top_tables(
    rows: Sequence[Sequence[tuple[int, float]] | None],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Token ids and log-probabilities as (positions, k); what is missing is the SDK's sentinel."""
    width = max((len(row) for row in rows if row), default=0)
    ids = np.full((len(rows), width), _MISSING_TOKEN, dtype=np.int32)
    logprobs = np.full((len(rows), width), _MISSING_LOGPROB, dtype=np.float32)
    for position, row in enumerate(rows):
        for place, (token, logprob) in enumerate(row or ()):
            ids[position, place], logprobs[position, place] = token, logprob
    return ids, logprobs
