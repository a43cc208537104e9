"""What an exported file says of itself, and files read without trusting them.

Nothing in an ONNX file can be run by reading it. What a runtime would do on its behalf, before anybody asked for a result, is
refused here: open other files, load operators of somebody's own, reserve memory for numbers that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import onnx
from google.protobuf.message import DecodeError
from pydantic import BaseModel, Field, ValidationError

from unisep.errors import WeightsError, reasons

KEY = "unisep"

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_DESCRIPTION_CHARACTERS = 1 << 16
_STANDARD = {"", "ai.onnx"}
_Name = Annotated[str, Field(min_length=1, max_length=150)]


class StateTensor(BaseModel, frozen=True, extra="forbid"):
    """A tensor that a live model takes and gives back: its shape for one query, and whether its first axis is the queries."""

    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...], Field(min_length=1, max_length=6)]
    per_query: bool = False


class Description(BaseModel, frozen=True, extra="forbid"):
    """The facts of an exported model, written into its file as JSON; they mean what they mean in `BackendInfo`.

    A file gives either `sources`, or answers queries of `query_dim` values in `space`; `segment_samples` is the one length it takes.
    A live model takes hops of that length, one recording at a time, gives what came `latency_samples` before, and has a `state`, which begins with zeros.
    """

    format: Literal[1] = 1
    name: _Name
    sources: Annotated[tuple[_Name, ...], Field(max_length=64)] = ()
    space: Annotated[str, Field(max_length=300)] = ""
    query_dim: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    sample_rate_hz: Annotated[int, Field(ge=1_000, le=768_000)]
    channels: Annotated[int, Field(ge=1, le=2)]
    segment_samples: Annotated[int, Field(ge=1, le=1 << 25)]
    latency_samples: Annotated[int, Field(ge=0, le=1 << 25)] | None = None
    state: Annotated[tuple[StateTensor, ...], Field(max_length=256)] = ()
    normalisation: Literal["none", "song"] = "none"
    precision: Literal["float32", "float16", "int8"] = "float32"
    licence: Annotated[str, Field(max_length=300)] = "not stated"
    made_with: Annotated[str, Field(max_length=300)] = ""

    @property
    def is_live(self) -> bool:
        """Whether it takes hops and a state."""
        return self.latency_samples is not None


def described(model: onnx.ModelProto, description: Description) -> bytes:
    """Return the file of `model` with its description inside, and without what the exporter notes of places in the source."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(model, {KEY: description.model_dump_json()})
    return model.SerializeToString()


def read(path: Path) -> tuple[bytes, Description]:
    """Return the content of an exported ONNX file, and what it says of itself, both checked. Raises WeightsError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise WeightsError(f"{path} is larger than 2 GiB, which no ONNX file is.")
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}). Give a file that `unisep export` wrote.") from error
    except DecodeError as error:
        raise WeightsError(f"{path} is no ONNX file, or is cut short. Export it again.") from error
    description = _description(path, model)
    if wrong := _foreign(model) or _misshapen(model.graph, description):
        raise WeightsError(f"{path} is refused: {wrong}. Nothing of it was run. Export it again.")
    return content, description


def _description(path: Path, model: onnx.ModelProto) -> Description:
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(texts) != 1 or len(texts[0]) > MAX_DESCRIPTION_CHARACTERS:
        raise WeightsError(f"{path} does not say what it is: it was not written by `unisep export`, or is cut short.")
    try:
        description = Description.model_validate_json(texts[0])
    except ValidationError as error:
        raise WeightsError(f"{path} says of itself what cannot be right: {reasons(error):.500}.") from error
    if bool(description.sources) == bool(description.space) or bool(description.space) != bool(description.query_dim):
        raise WeightsError(f"{path} must give either sources, or a space and the size of its vectors.")
    if bool(description.state) != description.is_live:
        raise WeightsError(f"{path} must be live, with a latency and a state, or have neither.")
    return description


def _foreign(model: onnx.ModelProto) -> str:
    """Return what in the file is not plain operators and numbers of its own, or ""."""
    if model.functions or model.training_info:
        return "it holds functions or training steps of its own"
    for domain in (entry.domain for entry in model.opset_import if entry.domain not in _STANDARD):
        return f"it uses operators of {domain!r}, which are not ONNX's own"
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in _STANDARD:
                return f"the operator {node.op_type!r} of {node.domain!r} is not one of ONNX's own"
        if graph.sparse_initializer:
            return "it holds sparse numbers"
        for tensor in _tensors(graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                return f"the numbers of {tensor.name!r:.100} are to be read from another file"
            if not _is_whole(tensor):
                return f"{tensor.name!r:.100} claims {prod(tensor.dims)} numbers, and holds others"
    return ""


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and all those inside its nodes."""
    pending = [graph]
    while pending:
        graph = pending.pop()
        yield graph
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            pending += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]


def _is_whole(tensor: onnx.TensorProto) -> bool:
    """Tell whether a tensor holds as many numbers as it claims."""
    n_values = prod(tensor.dims)
    if min(tensor.dims, default=1) < 0:
        return False
    if tensor.raw_data:
        try:
            return len(tensor.raw_data) == n_values * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, TypeError, ValueError):
            return False
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return any(len(values) == n_values for values in (*fields, tensor.string_data))


def _misshapen(graph: onnx.GraphProto, description: Description) -> str:
    """Return which input or output is not as the description has it, or ""."""
    n_items = 1 if description.is_live else None  # a state is one recording's
    shape = [n_items, description.channels, description.segment_samples]
    inputs: dict[str, list[int | None]] = {"mixture": shape}
    outputs: dict[str, list[int | None]] = {"sources": [n_items, len(description.sources) or None, *shape[1:]]}
    if description.query_dim:
        inputs["queries"], outputs["presence"] = [None, description.query_dim], [n_items, None]
    for index, tensor in enumerate(description.state):
        of_one = [None if tensor.per_query else tensor.shape[0], *tensor.shape[1:]]
        inputs[f"state_{index}"] = outputs[f"next_{index}"] = of_one
    for kind, values, expected in (("inputs", graph.input, inputs), ("outputs", graph.output, outputs)):
        if [value.name for value in values] != list(expected):
            return f"its {kind} are not {' and '.join(expected)}"
        for value in values:
            dims = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
            wanted = expected[value.name]
            sizes_fit = all(size in (None, want) for size, want in zip(dims, wanted, strict=False))
            if len(dims) != len(wanted) or not sizes_fit or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
                return f"{value.name!r} is not float32 of the shape that it describes"
    return ""
