"""The causal query model: hears a recording hop by hop, and gives what a query describes 46 ms later.

A band-split model (Luo, Yu 2023, arXiv:2209.15174) with recurrent layers in place of all that looks ahead: over time they
run forwards, over the bands of one frame both ways. FiLM acts in each block after the first ones, which are computed
once for all queries, and on what enters the mask.

An analysis window is 4096 samples long and rises slowly, the window of the synthesis covers its last 3072 (as in
Mauler, Martin 2007): resolution of the one, delay of the other. A hop is 1024 samples.

Legend: b items of a batch, n queries, r = (b n), c audio channels, t frames, f bins, k bands, d features, q condition channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from einops import rearrange, reduce, repeat
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_htdemucs.config import HTDemucsConfig

from unisep.errors import WeightsError

from .bands import N_BANDS, N_BINS, BandSplit, Block, MaskHead, Memory, banded
from .config import BandShape, Width
from .exclusion import bins_without
from .film import Projectors
from .mask import polar_mask

HOP_SAMPLES = 1024
WINDOW_SAMPLES = 4 * HOP_SAMPLES
_N_PARTS = 3  # hops that the window of the synthesis covers
LATENCY_SAMPLES = (_N_PARTS - 1) * HOP_SAMPLES
_DECAY = 0.99  # of the running level of each band: 2.3 seconds


class CausalConfig(BandShape):
    """The shape of a causal model; `causal` tells it from a `FilmConfig`.

    spaces: embedding spaces the model understands, with the length of their vectors.
    condition_channels: width of the vector that all FiLM layers read.
    """

    causal: Literal[True] = True
    spaces: dict[str, PositiveInt]
    condition_channels: Width = 192
    sample_rate_hz: PositiveInt = 44_100
    channels: Literal[1, 2] = 2

    @classmethod
    def from_json(cls, text: str) -> CausalConfig:
        """Parse the config in a weights file's metadata. Raise WeightsError when it describes no model."""
        try:
            return cls.model_validate_json(text)
        except ValueError as error:
            raise WeightsError(f"The weights describe no causal model: {error}") from error

    @property
    def output(self) -> Literal["mask"]:
        """What it puts out, as in a `FilmConfig`."""
        return "mask"

    @property
    def separator(self) -> HTDemucsConfig:
        """Rate, channels and segment, as they are asked for in training and measuring."""
        return HTDemucsConfig(
            sources=("target",), samplerate=self.sample_rate_hz, audio_channels=self.channels, segment=Fraction(10)
        )


@dataclass(frozen=True)
class CausalState:
    """All that is remembered between two calls.

    heard: the input that the next window begins with, `[b, c, 3072]`. total, weight: of the running levels, `[b, k]` and
    `[b, 1]`. first, after: hidden and cell of the recurrent layers over time of each block. tail: what frames add to the next
    hops, `[r, c, 2, 1024]`.
    """

    heard: Tensor
    total: Tensor
    weight: Tensor
    first: tuple[Memory, ...]
    after: tuple[Memory, ...]
    tail: Tensor


class CausalCore(nn.Module):
    """What is computed once, however many queries there are."""

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.split = BandSplit(config, config.channels)
        self.blocks = nn.ModuleList(Block(config, causal=True) for _ in range(config.n_first))


class CausalFilm(nn.Module):
    """Isolates from a mixture what each of its queries describes, without looking ahead further than its window."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.config = config
        d, q = config.features, config.condition_channels
        self.core = CausalCore(config)
        self.projectors = Projectors(config.spaces, q)
        self.blocks = nn.ModuleList(Block(config, q, causal=True) for _ in range(config.n_after))
        self.head = MaskHead(config, config.channels, q)
        self.presence = nn.Sequential(nn.Linear(d + q, q), nn.GELU(), nn.Linear(q, 1))
        for name, window in zip(("analysis", "synthesis"), windows(), strict=True):
            self.register_buffer(name, window, persistent=False)

    def conditions(self, queries: Tensor, space: str) -> Tensor:
        """Conditions `[..., q]` of query vectors of `space`."""
        conditions: Tensor = self.projectors.of(space)(queries)
        return conditions

    def forward(self, mixture: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return targets `[b, n, c, samples]`, in step with the mixture, and presence `[b, n]` in log-odds.

        mixture: `[b, c, samples]`; conditions: `[b, n, q]`.
        """
        n_samples = mixture.shape[-1]
        n_hops = math.ceil((n_samples + LATENCY_SAMPLES) / HOP_SAMPLES)
        padded = F.pad(mixture.float(), (0, n_hops * HOP_SAMPLES - n_samples))
        targets, seen, _ = self.hear(padded, conditions, self.initial_state(*conditions.shape[:2]))
        logits = self.presence_of(seen.mean(dim=1), conditions)
        return targets[..., LATENCY_SAMPLES:][..., :n_samples], logits

    def presence_of(self, seen: Tensor, conditions: Tensor) -> Tensor:
        """Return log-odds `[b, n]` of what the last block gives on average, `[r, d]`."""
        flat = rearrange(conditions, "b n q -> (b n) q")
        logits = self.presence(torch.cat([seen, flat.to(seen)], dim=1))
        return rearrange(logits, "(b n) 1 -> b n", n=conditions.shape[1])

    def initial_state(self, n_items: int, n_queries: int, n_excluded: int = 0) -> CausalState:
        """Return the state before the first hop; the queries are more by what is excluded."""
        config, n_rows = self.config, n_items * (n_queries + n_excluded)
        zeros = self.analysis.new_zeros

        def memories(n: int, n_rows: int) -> tuple[Memory, ...]:
            return tuple((zeros(1, n_rows * N_BANDS, config.hidden_time),) * 2 for _ in range(n))

        return CausalState(
            heard=zeros(n_items, config.channels, WINDOW_SAMPLES - HOP_SAMPLES),
            total=zeros(n_items, N_BANDS),
            weight=zeros(n_items, 1),
            first=memories(config.n_first, n_items),
            after=memories(config.n_after, n_rows),
            tail=zeros(n_items * n_queries, config.channels, _N_PARTS - 1, HOP_SAMPLES),
        )

    def hear(
        self, hops: Tensor, conditions: Tensor, state: CausalState, less: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, CausalState]:
        """Go on with the next hops.

        Args:
            hops: `[b, c, t * 1024]` in float32.
            conditions: `[b, n, q]`.
            state: as `initial_state` or the last call gave it.
            less: the targets from which what the last conditions ask for, one each, is taken out, bin by bin.

        Returns:
            The targets of `LATENCY_SAMPLES` before, `[b, n, c, t * 1024]`; what the last block gives, `[r, t, d]`; the next
            state. Of what is excluded nothing is returned.
        """
        n_queries = conditions.shape[1]
        n_targets = n_queries - len(less)
        flat = rearrange(conditions, "b n q -> (b n) q")
        signal = torch.cat([state.heard, hops], dim=-1)
        windows = signal.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * self.analysis
        bins = rearrange(torch.fft.rfft(windows)[..., :N_BINS], "b c t f -> b c f t")
        groups, levels = banded(bins)
        levels, total, weight = running_mean(levels, state.total, state.weight)
        began = self.core.split(groups, levels)
        x, first = _through(self.core.blocks, began, state.first, None)
        x, began, bins = (repeat(part, "b ... -> (b n) ...", n=n_queries) for part in (x, began, bins))
        x, after = _through(self.blocks, x, state.after, flat)
        mask = polar_mask(*self.head(x, began, flat))
        bins, x = (rearrange(part, "(b n) ... -> b n ...", n=n_queries) for part in (bins * mask, x))
        if less:
            bins[:, less] = bins_without(bins[:, less], bins[:, n_targets:])
        bins, x = (rearrange(part[:, :n_targets], "b n ... -> (b n) ...") for part in (bins, x))
        targets, tail = self._synthesised(bins, state.tail)
        heard = signal[..., -(WINDOW_SAMPLES - HOP_SAMPLES) :].clone()
        after_all = CausalState(heard, total, weight, first, after, tail)
        return (
            rearrange(targets, "(b n) c l -> b n c l", n=n_targets),
            reduce(x.float(), "r t k d -> r t d", "mean"),
            after_all,
        )

    def _synthesised(self, bins: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples `[r, c, t * 1024]` by overlap-add, and what is to be added to the next hops."""
        spectra = F.pad(rearrange(bins, "r c f t -> r c t f"), (0, 1))
        waves = torch.fft.irfft(spectra, WINDOW_SAMPLES)[..., -_N_PARTS * HOP_SAMPLES :] * self.synthesis
        parts = rearrange(waves, "r c t (p l) -> p r c t l", p=_N_PARTS)
        n_frames, most = bins.shape[-1], _N_PARTS - 1
        hops = F.pad(tail, (0, 0, 0, n_frames))
        for late, part in enumerate(parts):
            hops = hops + F.pad(part, (0, 0, late, most - late))
        return rearrange(hops[:, :, :n_frames], "r c t l -> r c (t l)"), hops[:, :, n_frames:].clone()


def windows() -> tuple[Tensor, Tensor]:
    """Return the windows of analysis `[4096]` and synthesis `[3072]`, whose product adds up to 1 at a hop of 1024.

    >>> analysis, synthesis = windows()
    >>> product = analysis[1024:] * synthesis
    >>> bool(torch.allclose(product[:1024] + product[1024:2048] + product[2048:], torch.ones(1024)))
    True
    """
    n_synthesis = _N_PARTS * HOP_SAMPLES
    n_fall = n_synthesis // 2
    n_rise = WINDOW_SAMPLES - n_fall
    rise = torch.sin(math.pi / 2 * (torch.arange(n_rise, dtype=torch.float64, device="cpu") + 0.5) / n_rise)
    fall = torch.cos(math.pi / 2 * (torch.arange(n_fall, dtype=torch.float64, device="cpu") + 0.5) / n_fall)
    analysis = torch.cat([rise, fall])
    hann = torch.sin(math.pi * (torch.arange(n_synthesis, dtype=torch.float64, device="cpu") + 0.5) / n_synthesis) ** 2
    return analysis.float(), (hann / (_N_PARTS / 2) / analysis[-n_synthesis:]).float()


def running_mean(values: Tensor, total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each of `values [b, t, k]` the mean of it and those before it, which count less the older they are.

    total, weight: sums so far, `[b, k]` and `[b, 1]`; they are returned as they are after the last frame.
    """
    frames = torch.arange(values.shape[1], device=values.device)
    ages = rearrange(frames, "t -> t 1") - frames
    decays = torch.tril(_DECAY ** ages.clamp_min(0))
    past = rearrange(_DECAY ** (frames + 1), "t -> t 1")
    # No product of matrices, which would be rounded to bfloat16 in training.
    recent = reduce(
        rearrange(decays, "t s -> t s 1") * rearrange(values, "b s k -> b 1 s k"), "b t s k -> b t k", "sum"
    )
    totals = recent + past * rearrange(total, "b k -> b 1 k")
    weights = rearrange(decays.sum(dim=1), "t -> t 1") + past * rearrange(weight, "b 1 -> b 1 1")
    return totals / weights, totals[:, -1].clone(), weights[:, -1].clone()


def _through(
    blocks: nn.ModuleList, x: Tensor, memories: tuple[Memory, ...], condition: Tensor | None
) -> tuple[Tensor, tuple[Memory, ...]]:
    after = []
    for block, memory in zip(blocks, memories, strict=True):
        x, remembered = block(x, condition, memory)
        after.append(remembered)
    return x, tuple(after)
