"""Exported models with numbers of 16 or 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from unisep import Audio, Backend, files
from unisep.engine.device import Precision
from unisep.engine.resample import to_model
from unisep.errors import BackendError
from unisep.progress import ProgressReporter
from unisep.session.models import ModelPool
from unisep.weights.store import WeightsStore

from .backend import backend_of, onnxruntime_network
from .description import Description, described
from .export import Exported, agreement_db, example

LEAST_AGREEMENT_DB = 10.0
_LEAST_VALUES = 1024  # of what is worth making smaller
_MOST_SEGMENTS = 8  # of the recordings that ranges are measured on
_SOUNDS = ("drums", "bass", "lead vocal", "electric guitar", "piano", "speech", "strings", "rain")
_QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def smaller(exported: Exported, backend: Backend, precision: str, recordings: Sequence[Path] = ()) -> Exported:
    """Return the model with numbers of another precision, and how far it agrees with `backend` on `recordings`.

    "float16" keeps the weights so and computes in float32; "int8" computes convolutions and products with whole numbers of
    8 bits, weights with a scale a channel, signals with a range measured on the recordings.

    Raises:
        BackendError: What is left agrees by less than 10 dB, or int8 of a live model, whose state would drift.
        AudioFileError: A recording cannot be read.
    """
    if precision == "int8" and exported.description.is_live:
        raise BackendError("A live model is not exported in int8: what it remembers would drift. Use float16.")
    model = onnx.load_model_from_string(exported.content)
    description = exported.description.model_copy(update={"precision": precision})
    inputs = segments(description, recordings) if recordings else [example(description)]
    content = described(in_half(model) if precision == "float16" else in_int8(model, inputs), description)
    small, expected, outputs = backend_of(onnxruntime_network(content), description), [], []
    with torch.inference_mode():
        for tensors in inputs:
            expected.append(backend.separate(*tensors.values()).sources.numpy())
            outputs.append(small.separate(*tensors.values()).sources.numpy())
    reference, result = np.concatenate(expected), np.concatenate(outputs)
    agreement = agreement_db(reference, result)
    if not agreement >= LEAST_AGREEMENT_DB:
        raise BackendError(
            f"In {precision} this model agrees with itself by {agreement:.1f} dB only: no file was written. Use float16."
        )
    largest_error = float(np.abs(reference - result).max() / np.abs(reference).max())
    return Exported(content, description, largest_error, agreement)


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its large weights in float16, from which they are turned back when it is opened."""
    kept, casts = [], []
    for tensor in model.graph.initializer:
        values = _values(tensor)
        if values is None:
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=TensorProto.FLOAT))
    return _with(model, kept, casts)


def in_int8(model: onnx.ModelProto, inputs: Sequence[dict[str, Tensor]]) -> onnx.ModelProto:
    """Return the model with convolutions and products of learnt weights in whole numbers of 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([_arrays(tensors) for tensors in inputs])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._left, None)

    helper.set_model_props(
        model, {"onnx.quant.pre_process": "onnxruntime.quant"}
    )  # or it advises to simplify the graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        quantize_static(
            model, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QInt8,
            op_types_to_quantize=_QUANTISED, nodes_to_quantize=learnt(model),
        )  # fmt: skip
        return onnx.load(path)


def learnt(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions and products with learnt weights, which attention and transforms have not.

    The tables of transforms begin with a row of ones, or of zeros.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    chosen = []
    for node in model.graph.node:
        constants = [weights[name] for name in node.input[:2] if name in weights]
        if node.op_type in _QUANTISED and constants and np.ptp(numpy_helper.to_array(constants[0])[0]) > 0:
            chosen.append(node.name)
    return chosen


def segments(description: Description, recordings: Sequence[Path]) -> list[dict[str, Tensor]]:
    """Return inputs from recordings: the first segments of each, as the engine would cut them, and a query with each."""
    length, queries, parts = description.segment_samples, _queries(description), []
    for path in recordings[:_MOST_SEGMENTS]:
        samples = torch.from_numpy(_heard(files.read(path), description))
        if description.normalisation == "song":
            mono = samples.mean(0)
            samples = (samples - mono.mean()) / (mono.std() + 1e-8)
        for start in range(0, samples.shape[1], length)[: max(1, _MOST_SEGMENTS // len(recordings))]:
            part = samples[:, start : start + length]
            parts.append(F.pad(part, (0, length - part.shape[1]))[None])
    if queries is None:
        return [{"mixture": part} for part in parts]
    places = range(max(len(parts), len(queries)))
    pairs = [(parts[place % len(parts)], queries[place % len(queries)][None]) for place in places]
    return [{"mixture": part, "queries": query} for part, query in pairs]


def _queries(description: Description) -> Tensor | None:
    """Return vectors of usual sounds, where an encoder of the space is here; else random ones; None for fixed sources."""
    pool = ModelPool(WeightsStore(offline=True), Precision("float32", torch.device("cpu")))
    for entry in pool.catalog().usable_encoders():
        if entry.spec.space == description.space and entry.is_here and "text" in entry.spec.modalities:
            return pool.encoder(entry, ProgressReporter()).encode_text(list(_SOUNDS)).clone()
    return example(description).get("queries")


def _heard(audio: Audio, description: Description) -> NDArray[np.float32]:
    return to_model(audio.samples, audio.sample_rate_hz, description.sample_rate_hz, description.channels)


def _arrays(inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}


def _values(tensor: onnx.TensorProto) -> NDArray[np.float32] | None:
    """Return the numbers of a weight that is worth making smaller, else None."""
    is_large = tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= _LEAST_VALUES
    return numpy_helper.to_array(tensor) if is_large else None


def _with(model: onnx.ModelProto, initializers: list[TensorProto], first: list[onnx.NodeProto]) -> onnx.ModelProto:
    nodes = [*first, *model.graph.node]
    for field, values in ((model.graph.initializer, initializers), (model.graph.node, nodes)):
        copies = [value.SerializeToString() for value in values]
        del field[:]
        for copy in copies:
            field.add().ParseFromString(copy)
    return model
