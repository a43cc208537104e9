"""One live backend on the blocks of a recording: to its rate, through it hop by hop, and back, in step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from unisep.audio import Samples
from unisep.engine.resample import LiveResampler, with_channels
from unisep.errors import BackendError
from unisep.plugins.backend import LiveBackend
from unisep.query.encode import Conditions

_CPU = torch.device("cpu")


class Pipeline:
    """Takes blocks of any size. What it gives begins with the first sample of the recording, as soon as it is known."""

    def __init__(
        self, backend: LiveBackend, sample_rate_hz: int, channels: int, outputs: Sequence[int] | None = None,
        conditions: Conditions | None = None, device: torch.device = _CPU,
    ) -> None:  # fmt: skip
        """Open the backend for its fixed sources, of which `outputs` are kept, or for the queries of `conditions`."""
        info, vectors = backend.info, None if conditions is None else conditions.to(device)
        self._backend, self._channels, self._device = backend, channels, device
        self._n_sources = len(info.sources) if vectors is None else len(vectors.queries)
        self._outputs = list(range(self._n_sources) if outputs is None else outputs)
        self._state = backend.open() if vectors is None else backend.open(vectors.queries, vectors.negatives)
        self._ratio = sample_rate_hz / info.sample_rate_hz
        self._to_model = LiveResampler(sample_rate_hz, info.sample_rate_hz, info.channels)
        self._to_source = LiveResampler(info.sample_rate_hz, sample_rate_hz, len(self._outputs) * channels)
        self._heard = np.zeros((info.channels, 0), dtype=np.float32)
        self._n_to_skip = backend.latency_samples
        self.hop_samples = math.ceil(backend.hop_samples * self._ratio)

    def lag_samples(self, block_samples: int) -> int:
        """Return how much later than a sample its targets are known, at the most, with blocks of one size."""
        hop, latency = self._backend.hop_samples, self._backend.latency_samples
        if self._ratio == 1:
            return latency + hop - math.gcd(hop, block_samples)
        return math.ceil((latency + hop + self._to_source.reach_samples) * self._ratio) + self._to_model.reach_samples

    def push(self, block: Samples) -> Samples:
        """Return the targets `[targets, channels, samples]` that became known with a block `[channels, samples]`."""
        hop, n_targets = self._backend.hop_samples, len(self._outputs)
        heard = self._to_model.push(with_channels(block, self._backend.info.channels))
        heard = np.concatenate([self._heard, heard], axis=1)
        n_whole = heard.shape[1] // hop * hop
        self._heard = heard[:, n_whole:].copy()
        if not n_whole:
            return np.zeros((n_targets, self._channels, 0), dtype=np.float32)
        sources = self._separated(np.ascontiguousarray(heard[:, :n_whole]))[..., self._n_to_skip :]
        self._n_to_skip -= min(self._n_to_skip, n_whole)
        known = self._to_source.push(sources.reshape(n_targets * self._channels, sources.shape[-1]))
        return known.reshape(n_targets, self._channels, known.shape[-1])

    def _separated(self, hops: Samples) -> Samples:
        """Return the sources of some hops. Raise BackendError where they are not what the contract promises."""
        sources, self._state = self._backend.push(self._state, torch.from_numpy(hops).to(self._device))
        expected = (self._n_sources, *hops.shape)
        if tuple(sources.shape) != expected or not bool(torch.isfinite(sources).all()):
            shape = tuple(sources.shape)
            raise BackendError(
                f"A live backend gave {shape}, or some not finite, for {expected}. Try it with LiveContract."
            )
        return with_channels(sources[self._outputs].float().cpu().numpy(), self._channels)
