"""Backends as files for other runtimes: traced, freed of complex numbers, translated, and compared with the original."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import unisep
from unisep import Backend, LiveBackend
from unisep.engine.device import Precision
from unisep.errors import BackendError, OptionError, UnisepError
from unisep.progress import ProgressReporter
from unisep.session.models import ModelPool
from unisep.weights.store import WeightsStore

from .backend import ExportedBackend, ExportedLive, backend_of, onnxruntime_network
from .description import KEY, MAX_BYTES, Description, StateTensor, described
from .real import InverseByProducts, RealProgram

OPSET = 18
TOLERANCE = 1e-4  # of the peak
_N_BATCH, _N_QUERIES, _N_HOPS = 2, 3, 12


@dataclass(frozen=True)
class Exported:
    """An exported model: its file, and how far it is from the original, as a part of the peak."""

    content: bytes
    description: Description
    largest_error: float
    agreement_db: float


def opened(model: str, space: str = "", offline: bool | None = None) -> tuple[Backend, str, str, str]:
    """Return a backend by its name, or "name@file", in float32 on the CPU; its name, the space of its queries, its licence.

    Raises as `Separator` does, and OptionError for a space that the backend does not know.
    """
    pool = ModelPool(WeightsStore(offline), Precision("float32", torch.device("cpu")))
    key = str(pool.open_backend(model))  # before the catalog, to which it adds a "name@file"
    entry = pool.catalog().backend(key)
    if space and space not in entry.spec.spaces:
        raise OptionError(f"--space {space}: '{entry.name}' knows {', '.join(entry.spec.spaces) or 'none'}.")
    space = space or next(iter(entry.spec.spaces), "")
    return pool.backend_for(entry, space, (), ProgressReporter()), entry.spec.name, space, entry.licence


def describe(backend: Backend, name: str, space: str, licence: str) -> Description:
    """Return the facts of a backend that is to be exported. Raises BackendError for one that takes any length, and is not live."""
    info, (module, query_dim) = backend.info, backend.exportable()
    length, latency, state = info.segment_samples, None, tuple[StateTensor, ...]()
    if isinstance(backend, LiveBackend):
        length, latency = backend.hop_samples, backend.latency_samples
        pairs = zip(module.initial(1), module.initial(2), strict=True)  # type: ignore[operator]
        state = tuple(StateTensor(shape=tuple(one.shape), per_query=one.shape != two.shape) for one, two in pairs)
    if length is None:
        raise BackendError(f"'{name}' has no segment, and an exported model takes one length. It cannot be exported.")
    return Description(
        name=name, sources=info.sources, space=space if query_dim else "", query_dim=query_dim,
        sample_rate_hz=info.sample_rate_hz, channels=info.channels, segment_samples=length, latency_samples=latency,
        state=state, normalisation=info.normalisation, licence=licence, made_with=f"unisep {unisep.__version__}",
    )  # fmt: skip


def as_onnx(backend: Backend, description: Description) -> Exported:
    """Return the backend as an ONNX file, its transforms inside, run once under onnxruntime.

    Raises:
        BackendError: It offers no module, holds steps that ONNX cannot express, or the file gives other results.
    """
    inputs = _traced_with(description)
    outputs = ["sources", *(["presence"] if description.query_dim else [])]
    outputs += [f"next_{index}" for index in range(len(description.state))]
    with _quietly(), _refused(description.name):
        complex_program = _traced(_module(backend), inputs, description).module()
        program = _traced(RealProgram(complex_program), inputs, description, starred=True)
        translated = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, verbose=False, input_names=list(inputs), output_names=outputs
        )
        assert translated is not None
        DeduplicateInitializersPass(size_limit=MAX_BYTES)(translated.model)
        content = described(translated.model_proto, description)
    with _refused(description.name):
        largest_error, agreement = _checked(backend, backend_of(onnxruntime_network(content), description))
    return Exported(content, description, largest_error, agreement)


def as_torch_export(backend: Backend, description: Description) -> Exported:
    """Return the backend as a file of `torch.export`; raises as `as_onnx` does."""
    inputs, file = _traced_with(description), io.BytesIO()
    with _quietly(), _refused(description.name):
        program = _traced(_module(backend), inputs, description)
        torch.export.save(program, file, extra_files={KEY: description.model_dump_json()})

    def network(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            results = program.module()(*(torch.from_numpy(arrays[name]) for name in inputs))
        return [each.numpy() for each in (results if isinstance(results, tuple) else [results])]

    return Exported(file.getvalue(), description, *_checked(backend, backend_of(network, description)))


def example(description: Description) -> dict[str, Tensor]:
    """Return a mixture of noise and chords at the level of music, and random queries, always the same."""
    generator = torch.Generator().manual_seed(0)
    n_samples = description.segment_samples * (_N_HOPS if description.is_live else 1)
    shape = (_N_BATCH, description.channels, n_samples)
    seconds = torch.arange(shape[-1]) / description.sample_rate_hz
    pitches = 55.0 * 2 ** torch.arange(5)
    chord = torch.sin(2 * torch.pi * pitches[:, None] * seconds).mean(0) * (1 - seconds % 0.5)
    inputs = {"mixture": 0.1 * torch.randn(shape, generator=generator) + 0.3 * chord}
    if description.query_dim:
        vectors = torch.randn(_N_QUERIES, description.query_dim, generator=generator)
        inputs["queries"] = nn.functional.normalize(vectors, dim=1)
    return inputs


def _traced_with(description: Description) -> dict[str, Tensor]:
    """Return inputs of a module by their names: an example, or of a live model its first hop and a state."""
    inputs = example(description)
    if description.is_live:
        inputs["mixture"] = inputs["mixture"][:1, :, : description.segment_samples]
    for index, tensor in enumerate(description.state):
        n_first = _N_QUERIES if tensor.per_query else tensor.shape[0]
        inputs[f"state_{index}"] = torch.zeros(n_first, *tensor.shape[1:])
    return inputs


def agreement_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the energy of `reference` over that of the difference, in dB."""
    error = float(np.square(reference.astype(np.float64) - other).sum())
    return 10 * float(np.log10(float(np.square(reference.astype(np.float64)).sum()) / max(error, 1e-30)))


def _module(backend: Backend) -> nn.Module:
    return backend.exportable()[0].eval().requires_grad_(False)


def _traced(
    module: nn.Module, inputs: dict[str, Tensor], description: Description, *, starred: bool = False
) -> ExportedProgram:
    """Trace a module for batches, and numbers of queries, of any size. With a gradient kept, models take no short cuts."""
    n_queries = {0: Dim("n_queries")} if description.query_dim else {}
    dynamic: dict[str, Any] = {"mixture": {} if description.is_live else {0: Dim.DYNAMIC}, "queries": n_queries}
    for index, tensor in enumerate(description.state):
        dynamic[f"state_{index}"] = n_queries if tensor.per_query else {}
    shapes: tuple[Any, ...] = tuple(dynamic[name] for name in inputs)
    with torch.enable_grad(), InverseByProducts():
        if starred:
            shapes = (shapes,)
        elif description.is_live:  # the module takes a state as its last, starred argument
            n_fixed = len(shapes) - len(description.state)
            shapes = (*shapes[:n_fixed], shapes[n_fixed:])
        return torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)


def _checked(backend: Backend, exported: ExportedBackend | ExportedLive) -> tuple[float, float]:
    """Return the largest error, as a part of the peak, and the agreement in dB. Raises BackendError where it is too large."""
    inputs = example(exported.description)
    with torch.inference_mode():
        expected, given = (each.separate(*inputs.values()) for each in (backend, exported))
    peak = float(expected.sources.abs().max())
    error = float((given.sources - expected.sources).abs().max()) / peak
    if expected.presence is not None and given.presence is not None:
        error = max(error, float((given.presence - expected.presence).abs().max()))
    if not error <= TOLERANCE:
        raise BackendError(
            f"The exported model differs by {error:.1e} of the peak, more than {TOLERANCE:.0e}: no file was written."
        )
    return error, agreement_db(expected.sources.numpy(), given.sources.numpy())


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Turn what the exporter cannot do into a BackendError."""
    try:
        yield
    except UnisepError:
        raise
    except Exception as error:  # of tracing, translating or building: dozens of types
        cause = error.__cause__ or error
        raise BackendError(
            f"'{name}' cannot be exported: {type(cause).__name__}: {str(cause).strip()[:500]}"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter from printing how far it is, and from warnings about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


FORMATS: dict[str, Callable[[Backend, Description], Exported]] = {"onnx": as_onnx, "torch-export": as_torch_export}
