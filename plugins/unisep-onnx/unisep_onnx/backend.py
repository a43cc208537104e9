"""Exported files as backends of unisep, without the plugin or the weights they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisep import Backend, BackendInfo, LiveBackend, Output
from unisep.errors import BackendError, OptionError, PluginError, WeightsError

from .description import Description, read

Network = Callable[[dict[str, NDArray[np.float32]]], list[NDArray[np.float32]]]


class ExportedBackend(Backend):
    """A backend that computes segments by a network in another runtime, on the CPU."""

    def __init__(self, network: Network, description: Description) -> None:
        self._network, self.description = network, description
        self.info = _info(description, description.segment_samples / description.sample_rate_hz)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return sources, and presence for queries; a mixture shorter than a segment lies in the middle of silence.

        What a negative names is isolated in the same run, and taken from the target as `unisep_film.exclusion` does.
        """
        self.check_input(mixture, queries, negatives, self.description.query_dim)
        if queries is None or negatives is None or not negatives.any():
            return self._answered(mixture, queries)
        return _exclusion().answered(partial(self._answered, mixture), queries, negatives)  # type: ignore[no-any-return]

    def _answered(self, mixture: Tensor, queries: Tensor | None) -> Output:
        n_samples = mixture.shape[-1]
        missing = self.description.segment_samples - n_samples
        before = missing // 2
        inputs = {"mixture": F.pad(mixture, (before, missing - before))}
        if queries is not None:
            inputs["queries"] = queries
        outputs = self._network({name: _as_array(value) for name, value in inputs.items()})
        tensors = [torch.from_numpy(array).to(mixture.device) for array in outputs]
        return Output(tensors[0][..., before : before + n_samples], tensors[1] if len(tensors) > 1 else None)


@dataclass(frozen=True)
class LiveState:
    """The query vectors `[n, dim]`, if any, and what the model remembers."""

    queries: Tensor | None
    tensors: tuple[Tensor, ...]


class ExportedLive(LiveBackend):
    """A live backend that computes hops by a network in another runtime, on the CPU."""

    def __init__(self, network: Network, description: Description) -> None:
        self._network, self.description = network, description
        self.hop_samples, self.latency_samples = description.segment_samples, description.latency_samples or 0
        self.info = _info(description)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return sources in step with the mixture, and presence for queries: what comes live, hop by hop."""
        self.check_input(mixture, queries, negatives, self.description.query_dim)
        n_samples, late = mixture.shape[-1], self.latency_samples
        padded = F.pad(mixture, (0, late + -(n_samples + late) % self.hop_samples))
        answers = [self._heard(self.open(queries, negatives), item) for item in padded]
        sources = torch.stack([sources for sources, _, _ in answers])[..., late:][..., :n_samples]
        presences = [presence for _, presence, _ in answers if presence is not None]
        return Output(sources, torch.stack(presences) if presences else None)

    def open(self, queries: Tensor | None = None, negatives: Tensor | None = None) -> LiveState:
        """Return the state before the first hop. Raise BackendError for what is to be left out."""
        like = torch.zeros(1, self.info.channels, 1)
        self.check_input(like, queries, negatives, self.description.query_dim)
        if negatives is not None and negatives.any():
            raise BackendError(
                "An exported live model cannot leave a sound out of another. Ask without `exclude`, or ask the model it was "
                f"made from, '{self.description.name}'."
            )
        n_queries = 1 if queries is None else len(queries)
        shapes = [(n_queries, *each.shape[1:]) if each.per_query else each.shape for each in self.description.state]
        return LiveState(queries, tuple(torch.zeros(shape) for shape in shapes))

    def push(self, state: LiveState, block: Tensor) -> tuple[Tensor, LiveState]:
        """Return the sources of a latency before, and the next state."""
        sources, _, after = self._heard(state, block)
        return sources, after

    def _heard(self, state: LiveState, block: Tensor) -> tuple[Tensor, Tensor | None, LiveState]:
        """Return sources of a block, presence of all that was heard, for queries, and the next state."""
        fixed = {} if state.queries is None else {"queries": _as_array(state.queries)}
        kept = [_as_array(tensor) for tensor in state.tensors]
        sources: list[NDArray[np.float32]] = []
        presence = None
        for hop in block.split(self.hop_samples, dim=-1):
            names = {f"state_{index}": array for index, array in enumerate(kept)}
            first, *kept = self._network({"mixture": _as_array(hop[None]), **fixed, **names})
            sources.append(first[0])
            if fixed:
                presence, *kept = kept
        tensors = tuple(torch.from_numpy(array) for array in kept)
        found = torch.from_numpy(np.concatenate(sources, axis=-1)).to(block.device)
        return found, None if presence is None else torch.from_numpy(presence)[0], LiveState(state.queries, tensors)


def backend_of(network: Network, description: Description) -> ExportedBackend | ExportedLive:
    """Return the backend that a file describes."""
    return (ExportedLive if description.is_live else ExportedBackend)(network, description)


def _info(description: Description, segment_seconds: float | None = None) -> BackendInfo:
    return BackendInfo(
        sources=description.sources,
        sample_rate_hz=description.sample_rate_hz,
        channels=description.channels,
        segment_seconds=segment_seconds,
        normalisation=description.normalisation,
        spaces=(description.space,) if description.space else (),
    )


def _exclusion() -> Any:
    try:
        return import_module("unisep_film.exclusion")
    except ImportError as error:
        raise PluginError("Leaving a sound out needs unisep-film. Run: pip install unisep-film") from error


def _as_array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)


def load_onnx(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load an exported file to be run by onnxruntime."""
    return _load(onnxruntime_network, weights, dtype)


def load_openvino(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load an exported file to be run by OpenVINO."""
    return _load(openvino_network, weights, dtype)


def _load(opened: Callable[[bytes], Network], weights: Path | None, dtype: torch.dtype) -> Backend:
    if weights is None:
        raise WeightsError("Name the exported file: 'onnx@model.onnx'. `unisep export MODEL -o model.onnx` writes one.")
    if dtype != torch.float32:
        raise OptionError(
            "An exported model computes in the precision that it was exported in. Leave precision as it is, and give "
            "`unisep export` another --precision."
        )
    content, description = read(weights)
    try:
        return backend_of(opened(content), description)
    except (RuntimeError, ValueError, TypeError) as error:  # what the two runtimes raise for a graph they cannot build
        raise WeightsError(f"{weights} cannot be opened by this runtime: {str(error).strip()[:500]}.") from error


def onnxruntime_network(content: bytes, n_threads: int = 1) -> Network:
    """Return an ONNX file as a function, run by onnxruntime. One thread is enough for unisep, which computes segments side by side."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.log_severity_level = 4  # what matters is raised
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types share no base
        raise RuntimeError(str(error)) from error
    return lambda inputs: session.run(None, inputs)  # type: ignore[no-any-return]


def openvino_network(content: bytes, n_threads: int = 1) -> Network:
    """Return an ONNX file as a function, run by OpenVINO in float32. Raises PluginError where it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise PluginError("OpenVINO is not installed. Run: pip install 'unisep-onnx[openvino]'") from error
    core: Any = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": n_threads}
    model = core.compile_model(core.read_model(content), "CPU", options)

    def network(inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        results = model.create_infer_request().infer(inputs)  # a request of its own: several threads may call
        return [np.array(results[output]) for output in model.outputs]

    return network
