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
from typing import Annotated, Literal

import torch
from einops import rearrange, reduce, repeat
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_htdemucs.config import HTDemucsConfig

from unisep.errors import WeightsError

from .exclusion import bins_without
from .film import FiLM, Projectors
from .mask import COMPRESSION, merge_bins, polar_mask, split_bins

HOP_SAMPLES = 1024
WINDOW_SAMPLES = 4 * HOP_SAMPLES
_N_PARTS = 3  # hops that the window of the synthesis covers
LATENCY_SAMPLES = (_N_PARTS - 1) * HOP_SAMPLES
_N_BINS = WINDOW_SAMPLES // 2  # the highest, at half the rate, is left out
_MERGED = ((512, 1), (512, 2), (1024, 4))  # from low to high: bins, and how many count as one
_BANDS = ((16, 8), (8, 16), (4, 64), (2, 128), (2, 128))  # bands, and merged bins in each
_N_BANDS = sum(n for n, _ in _BANDS)
_N_FEATURES = 3  # of a merged bin and channel: compressed magnitude, and it times cosine and sine
_DECAY = 0.99  # of the running level of each band: 2.3 seconds
_QUIETEST = 0.05  # compressed: what is below is silence

Memory = tuple[Tensor, Tensor]
_Width = Annotated[int, Field(ge=1, le=4096)]
_Depth = Annotated[int, Field(ge=1, le=64)]


class CausalConfig(BaseModel):
    """The shape of a causal model; `causal` tells it from a `FilmConfig`.

    spaces: embedding spaces the model understands, with the length of their vectors.
    condition_channels: width of the vector that all FiLM layers read.
    features: of each band, in all blocks.
    n_first, n_after: blocks before the query enters, and after.
    hidden_time, hidden_bands: of the recurrent layers.
    hidden_mask: of the layer before the mask.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    causal: Literal[True] = True
    spaces: dict[str, PositiveInt]
    condition_channels: _Width = 192
    features: _Width = 64
    n_first: _Depth = 2
    n_after: _Depth = 3
    hidden_time: _Width = 96
    hidden_bands: _Width = 64
    hidden_mask: _Width = 128
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


class BandSplit(nn.Module):
    """A spectrogram to features of each band, at its own running level."""

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        n_in = _N_FEATURES * config.channels
        self.per_band = nn.ParameterList(
            nn.Parameter(torch.randn(n, width * n_in, config.features) * (width * n_in) ** -0.5) for n, width in _BANDS
        )
        self.band_embedding = nn.Parameter(0.3 * torch.randn(_N_BANDS, config.features))

    def forward(self, bins: Tensor, total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features `[b, t, k, d]` of complex `bins [b, c, f, t]`, and the running level after them."""
        magnitude = bins.abs().clamp_min(1e-9)
        loudness = magnitude.pow(COMPRESSION)
        parts = torch.view_as_real(bins) * (loudness / magnitude)[..., None]
        stacked = rearrange(torch.cat([loudness[..., None], parts], dim=-1), "b c f t p -> b p c f t")
        merged = rearrange(
            merge_bins(rearrange(stacked, "b p c f t -> b (p c) f t"), _MERGED), "b (p c) f t -> b p c f t", p=3
        )
        groups = merged.split([n * width for n, width in _BANDS], dim=3)
        banded = [
            rearrange(group, "b p c (k w) t -> b k t w p c", k=n) for group, (n, _) in zip(groups, _BANDS, strict=True)
        ]
        levels = torch.cat([reduce(group[..., 0, :], "b k t w c -> b t k", "mean") for group in banded], dim=2)
        means, total, weight = running_mean(levels, total, weight)
        features = []
        for group, mean, layer in zip(banded, means.split([n for n, _ in _BANDS], dim=2), self.per_band, strict=True):
            scaled = group / rearrange(mean + _QUIETEST, "b t k -> b k t 1 1 1")
            flat = rearrange(scaled, "b k t w p c -> k (b t) (w p c)")
            features.append(rearrange(torch.bmm(flat, layer), "k (b t) d -> b t k d", b=bins.shape[0]))
        return torch.cat(features, dim=2) + self.band_embedding, total, weight


class Block(nn.Module):
    """Recurrent layers over time in each band, then over the bands of each frame, both added to what they read.

    With `condition_channels` each reads through a FiLM.
    """

    def __init__(self, config: CausalConfig, condition_channels: int = 0) -> None:
        super().__init__()
        d = config.features
        self.norm_time, self.norm_bands = nn.LayerNorm(d), nn.LayerNorm(d)
        self.film_time = FiLM(condition_channels, d) if condition_channels else None
        self.film_bands = FiLM(condition_channels, d) if condition_channels else None
        self.lstm_time = nn.LSTM(d, config.hidden_time, batch_first=True)
        self.lstm_bands = nn.LSTM(d, config.hidden_bands, batch_first=True, bidirectional=True)
        self.from_time = nn.Linear(config.hidden_time, d)
        self.from_bands = nn.Linear(2 * config.hidden_bands, d)

    def forward(self, x: Tensor, memory: Memory | None, condition: Tensor | None = None) -> tuple[Tensor, Memory]:
        """Return `x [r, t, k, d]` and what is remembered, with `condition [r, q]`."""
        n_rows, n_frames = x.shape[:2]
        heard = rearrange(_filmed(self.norm_time(x), self.film_time, condition), "r t k d -> (r k) t d")
        over_time, memory = self.lstm_time(heard, memory)
        x = x + rearrange(self.from_time(over_time), "(r k) t d -> r t k d", r=n_rows)
        heard = rearrange(_filmed(self.norm_bands(x), self.film_bands, condition), "r t k d -> (r t) k d")
        over_bands, _ = self.lstm_bands(heard)
        return x + rearrange(self.from_bands(over_bands), "(r t) k d -> r t k d", t=n_frames), memory


class MaskHead(nn.Module):
    """Features, and what they began as, to one complex mask."""

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        d, hidden, n_out = 2 * config.features, config.hidden_mask, 2 * config.channels
        self.norm, self.film = nn.LayerNorm(d), FiLM(config.condition_channels, d)
        self.per_band = nn.Parameter(torch.randn(_N_BANDS, d, hidden) * d**-0.5)
        self.bias = nn.Parameter(torch.zeros(_N_BANDS, 1, hidden))
        self.last = nn.ParameterList(
            nn.Parameter(torch.randn(n, hidden, width * n_out) * 0.1 * hidden**-0.5) for n, width in _BANDS
        )
        self.last_bias = nn.ParameterList(nn.Parameter(torch.zeros(n, 1, width * n_out)) for n, width in _BANDS)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the mask `[r, c, f, t]` of features `[r, t, k, 2 d]`."""
        n_rows = x.shape[0]  # not its len, which a tracer takes for fixed
        x = rearrange(_filmed(self.norm(x), self.film, condition), "r t k d -> k (r t) d")
        x = F.gelu(torch.bmm(x, self.per_band) + self.bias)
        groups = zip(x.split([n for n, _ in _BANDS]), self.last, self.last_bias, _BANDS, strict=True)
        parts = [
            rearrange((torch.bmm(group, layer) + bias).float(), "k (r t) (w o) -> r o (k w) t", r=n_rows, w=width)
            for group, layer, bias, (_, width) in groups
        ]
        odds, angle = rearrange(split_bins(torch.cat(parts, dim=2), _MERGED), "r (c p) f t -> p r c f t", p=2)
        return polar_mask(odds, angle)


class CausalCore(nn.Module):
    """What is computed once, however many queries there are."""

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.split = BandSplit(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_first))


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
        self.blocks = nn.ModuleList(Block(config, q) for _ in range(config.n_after))
        self.head = MaskHead(config)
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
            return tuple((zeros(1, n_rows * _N_BANDS, config.hidden_time),) * 2 for _ in range(n))

        return CausalState(
            heard=zeros(n_items, config.channels, WINDOW_SAMPLES - HOP_SAMPLES),
            total=zeros(n_items, _N_BANDS),
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
        bins = rearrange(torch.fft.rfft(windows)[..., :_N_BINS], "b c t f -> b c f t")
        began, total, weight = self.core.split(bins, state.total, state.weight)
        x, first = _through(self.core.blocks, began, state.first, None)
        x, began, bins = (repeat(part, "b ... -> (b n) ...", n=n_queries) for part in (x, began, bins))
        x, after = _through(self.blocks, x, state.after, flat)
        mask = self.head(torch.cat([x, began.to(x)], dim=-1), flat)
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
        x, remembered = block(x, memory, condition)
        after.append(remembered)
    return x, tuple(after)


def _filmed(x: Tensor, film: FiLM | None, condition: Tensor | None) -> Tensor:
    return x if film is None or condition is None else film(x, condition, channel_axis=3)
