"""The causal query model: hears a recording hop by hop, and gives what a query describes 46 ms later.

A band-split model (Luo, Yu 2023, arXiv:2209.15174) with recurrent layers in place of all that looks ahead: over time they
run forwards, over the bands of one frame both ways. FiLM acts in each block after the first ones, which are computed
once for all queries, and on what enters the mask.

An analysis window is 4096 samples long and rises slowly, the window of the synthesis covers its last 3072 (as in
Mauler, Martin 2007): resolution of the one, delay of the other. A hop is 1024 samples.

Frames come first: so a frame, or the bands of one, need no moving about where recurrent layers take them.

Legend: b items of a batch, n queries, r = (b n), c audio channels, t frames, f bins, k bands, d features, q condition channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_htdemucs.config import HTDemucsConfig

from unisep.errors import WeightsError

from .exclusion import bins_without
from .film import FiLM, Projectors
from .mask import COMPRESSION, polar_mask
from .presence import PresenceOfLevel

HOP_SAMPLES = 1024
WINDOW_SAMPLES = 4 * HOP_SAMPLES
_N_PARTS = 3  # hops that the window of the synthesis covers
LATENCY_SAMPLES = (_N_PARTS - 1) * HOP_SAMPLES
_N_BINS = WINDOW_SAMPLES // 2  # the highest, at half the rate, is left out
_BANDS = ((16, 8), (8, 16), (4, 64), (2, 128), (2, 128))  # from low to high: bands, and merged bins in each
_MERGED = (1, 1, 1, 2, 4)  # how many bins count as one there
_N_BANDS = sum(n for n, _ in _BANDS)
_N_FEATURES = 3  # of a merged bin and channel: compressed magnitude, and it times cosine and sine
_DECAY = 0.99  # of the running level of each band: 2.3 seconds
_QUIETEST = 0.05  # compressed: what is below is silence

Memory = tuple[Tensor, Tensor]
Modulation = tuple[Tensor, Tensor]  # a factor and a summand for each feature, [r, 1, d]
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
    `[b, 1]`. first, after: hidden and cell of the recurrent layers over time of each block. tail: the last frames as they
    were put out, which lie in the next hops too, `[r, 2, c, 3072]`.
    """

    heard: Tensor
    total: Tensor
    weight: Tensor
    first: tuple[Memory, ...]
    after: tuple[Memory, ...]
    tail: Tensor


@dataclass(frozen=True)
class Asked:
    """Queries as the model takes them: their conditions `[b, n, q]`, and what these make of each FiLM layer, in order."""

    conditions: Tensor
    modulations: tuple[Modulation, ...]


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
        """Return features `[t, b, k, d]` of complex `bins [t, b, c, f]`, and the running level after them."""
        n_frames, n_items, n_channels = bins.shape[:3]
        magnitude = bins.abs().clamp_min(1e-9)
        loudness = magnitude.pow(COMPRESSION)
        parts = torch.view_as_real(bins) * (loudness / magnitude)[..., None]
        values = torch.cat([loudness[..., None], parts], dim=-1)
        values = rearrange(values, "t b c f p -> (t b) f (p c)")
        levels, features = [], []
        sizes = [n * width * merged for (n, width), merged in zip(_BANDS, _MERGED, strict=True)]
        for group, (n, width), merged, layer in zip(
            values.split(sizes, dim=1), _BANDS, _MERGED, self.per_band, strict=True
        ):
            if merged > 1:
                group = group.unflatten(1, (n * width, merged)).mean(dim=2)
            group = group.unflatten(1, (n, width))
            levels.append(group[..., :n_channels].mean(dim=(2, 3)))
            features.append(torch.bmm(group.flatten(2).transpose(0, 1), layer))
        means, total, weight = running_mean(torch.cat(levels, dim=1).view(n_frames, n_items, -1), total, weight)
        x = torch.cat(features).transpose(0, 1).unflatten(0, (n_frames, n_items))
        return x / (means + _QUIETEST)[..., None] + self.band_embedding, total, weight


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
        self.lstm_time = nn.LSTM(d, config.hidden_time)
        self.lstm_bands = nn.LSTM(d, config.hidden_bands, batch_first=True, bidirectional=True)
        self.from_time = nn.Linear(config.hidden_time, d)
        self.from_bands = nn.Linear(2 * config.hidden_bands, d)

    def forward(self, x: Tensor, memory: Memory, modulations: Sequence[Modulation] = ()) -> tuple[Tensor, Memory]:
        """Return `x [t, r, k, d]` and what is remembered; with FiLM, `modulations` are those of both layers."""
        time, bands = modulations or (None, None)
        over_time, memory = _recurrent(self.lstm_time, _normed(x, self.norm_time, time).flatten(1, 2), memory)
        x = x + self.from_time(over_time).view(x.shape)
        frames = _normed(x, self.norm_bands, bands).flatten(0, 1)
        start = frames.new_zeros(2, frames.shape[0], self.lstm_bands.hidden_size)
        over_bands, _ = _recurrent(self.lstm_bands, frames, (start, start))
        return x + self.from_bands(over_bands).view(x.shape), memory

    def modulations(self, conditions: Tensor) -> tuple[Modulation, Modulation]:
        """Return what `forward` takes for conditions `[r, q]`."""
        assert self.film_time is not None and self.film_bands is not None
        return (
            _modulation(self.norm_time, self.film_time, conditions),
            _modulation(self.norm_bands, self.film_bands, conditions),
        )


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

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Return the mask `[t, r, c, f]` of features `[t, r, k, 2 d]`."""
        n_frames, n_rows = x.shape[:2]  # not its len, which a tracer takes for fixed
        x = _normed(x, self.norm, modulation).flatten(0, 1).transpose(0, 1)
        x = F.gelu(torch.baddbmm(self.bias, x, self.per_band))
        parts = []
        for group, layer, bias, (n, width), merged in zip(
            x.split([n for n, _ in _BANDS]), self.last, self.last_bias, _BANDS, _MERGED, strict=True
        ):
            part = torch.baddbmm(bias, group, layer).transpose(0, 1).reshape(n_frames * n_rows, n * width, 1, -1)
            parts.append(part.expand(-1, -1, merged, -1).flatten(1, 2))
        polar = rearrange(torch.cat(parts, dim=1).float(), "(t r) f (c p) -> p t r c f", t=n_frames, p=2)
        return polar_mask(polar[0], polar[1])


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
        self.presence_of_level = PresenceOfLevel()
        for name, window in zip(("analysis", "synthesis"), windows(), strict=True):
            self.register_buffer(name, window, persistent=False)

    def conditions(self, queries: Tensor, space: str) -> Tensor:
        """Conditions `[..., q]` of query vectors of `space`."""
        conditions: Tensor = self.projectors.of(space)(queries)
        return conditions

    def asked(self, conditions: Tensor) -> Asked:
        """Return what `hear` takes for conditions `[b, n, q]`: once, however often it is called."""
        flat = conditions.flatten(0, 1)
        modulations: list[Modulation] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            modulations += block.modulations(flat)
        return Asked(conditions, (*modulations, _modulation(self.head.norm, self.head.film, flat)))

    def forward(self, mixture: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return targets `[b, n, c, samples]`, in step with the mixture, and presence `[b, n]` in log-odds.

        mixture: `[b, c, samples]`; conditions: `[b, n, q]`.
        """
        n_samples = mixture.shape[-1]
        n_hops = math.ceil((n_samples + LATENCY_SAMPLES) / HOP_SAMPLES)
        padded = F.pad(mixture.float(), (0, n_hops * HOP_SAMPLES - n_samples))
        targets, seen, _ = self.hear(padded, self.asked(conditions), self.initial_state(*conditions.shape[:2]))
        logits = self.presence_of(seen.mean(dim=1), conditions)
        return targets[..., LATENCY_SAMPLES:][..., :n_samples], logits

    def presence_of(self, seen: Tensor, conditions: Tensor) -> Tensor:
        """Return log-odds `[b, n]` of what `hear` gives on average, `[r, d + 1]`."""
        features, level = seen[:, :-1], seen[:, -1]
        flat = rearrange(conditions, "b n q -> (b n) q")
        logits = self.presence(torch.cat([features, flat.to(features)], dim=1))[:, 0]
        return rearrange(logits + self.presence_of_level(level), "(b n) -> b n", n=conditions.shape[1])

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
            tail=zeros(n_items * n_queries, _N_PARTS - 1, config.channels, _N_PARTS * HOP_SAMPLES),
        )

    def hear(
        self, hops: Tensor, asked: Asked, state: CausalState, less: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, CausalState]:
        """Go on with the next hops.

        Args:
            hops: `[b, c, t * 1024]` in float32.
            asked: the queries.
            state: as `initial_state` or the last call gave it.
            less: the targets from which what the last queries ask for, one each, is taken out, bin by bin.

        Returns:
            The targets of `LATENCY_SAMPLES` before, `[b, n, c, t * 1024]`; what the last block gives, and the level of the
            target, `[r, t, d + 1]`; the next state. Of what is excluded nothing is returned.
        """
        n_items, n_queries = asked.conditions.shape[:2]
        n_targets = n_queries - len(less)
        signal = torch.cat([state.heard, hops], dim=-1)
        windows = signal.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * self.analysis
        bins = torch.fft.rfft(windows)[..., :_N_BINS].permute(2, 0, 1, 3)
        began, total, weight = self.core.split(bins, state.total, state.weight)
        x, first = _through(self.core.blocks, began, state.first)
        x, began, bins = (_for_each(part, n_queries) for part in (x, began, bins))
        x, after = _through(self.blocks, x, state.after, asked.modulations)
        mask = self.head(torch.cat([x, began.to(x)], dim=-1), asked.modulations[-1])
        masked = bins * mask
        seen = torch.cat([x.float().mean(dim=2), _level(masked, bins)], dim=-1)
        if less:
            masked, seen = (part.unflatten(1, (n_items, n_queries)) for part in (masked, seen))
            masked[:, :, less] = bins_without(masked[:, :, less], masked[:, :, n_targets:])
            masked, seen = (part[:, :, :n_targets].flatten(1, 2) for part in (masked, seen))
        targets, tail = self._synthesised(masked, state.tail)
        heard = signal[..., -(WINDOW_SAMPLES - HOP_SAMPLES) :].clone()
        after_all = CausalState(heard, total, weight, first, after, tail)
        return targets.unflatten(0, (n_items, n_targets)), seen.transpose(0, 1), after_all

    def _synthesised(self, bins: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples `[r, c, t * 1024]` by overlap-add of `bins [t, r, c, f]`, and what also lies in the next hops."""
        n_frames = bins.shape[0]
        waves = torch.fft.irfft(F.pad(bins, (0, 1)), WINDOW_SAMPLES)[..., -_N_PARTS * HOP_SAMPLES :] * self.synthesis
        waves = torch.cat([tail, waves.transpose(0, 1)], dim=1)
        parts = waves.split(HOP_SAMPLES, dim=-1)
        hops = parts[0][:, _N_PARTS - 1 :]
        for late, part in enumerate(parts[1:], start=1):
            hops = hops + part[:, _N_PARTS - 1 - late :][:, :n_frames]
        return hops.transpose(1, 2).flatten(2), waves[:, n_frames:].clone()


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
    """Return for each of `values [t, b, k]` the mean of it and those before it, which count less the older they are.

    total, weight: sums so far, `[b, k]` and `[b, 1]`; they are returned as they are after the last frame.
    """
    totals, weights = [], []
    for value in values:
        total, weight = torch.add(value, total, alpha=_DECAY), _DECAY * weight + 1
        totals.append(total)
        weights.append(weight)
    return torch.stack(totals) / torch.stack(weights), total, weight


def _recurrent(lstm: nn.LSTM, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Return what the layer gives and remembers, without its checks, and for one step without setting up a sequence."""
    weights: list[Tensor] = [weight for direction in lstm.all_weights for weight in direction]
    if x.shape[0] == 1 and not lstm.batch_first:
        hidden, cell = torch.lstm_cell(x[0], (memory[0][0], memory[1][0]), *weights)
        return hidden[None], (hidden[None], cell[None])
    out, hidden, cell = torch.lstm(
        x, memory, weights, True, 1, 0.0, lstm.training, lstm.bidirectional, lstm.batch_first
    )
    return out, (hidden, cell)


def _level(masked: Tensor, bins: Tensor) -> Tensor:
    """Return the decimal logarithm `[t, r, 1]` of the energy of each frame `[t, r, c, f]` over that of the mixture's; -6 where all is silent."""
    energy, of_mixture = (torch.view_as_real(part.detach()).square().sum(dim=(-3, -2, -1)) for part in (masked, bins))
    return torch.log10((energy + 1e-9) / (of_mixture + 1e-3)).clamp(-6, 1)[..., None]


def _through(
    blocks: nn.ModuleList, x: Tensor, memories: tuple[Memory, ...], modulations: Sequence[Modulation] = ()
) -> tuple[Tensor, tuple[Memory, ...]]:
    after = []
    for index, (block, memory) in enumerate(zip(blocks, memories, strict=True)):
        x, remembered = block(x, memory, modulations[2 * index : 2 * index + 2])
        after.append(remembered)
    return x, tuple(after)


def _for_each(x: Tensor, n_queries: int) -> Tensor:
    """Return `[t, (b n), ...]` of `[t, b, ...]`."""
    return x.unsqueeze(2).expand(-1, -1, n_queries, *x.shape[2:]).flatten(1, 2)


def _modulation(norm: nn.LayerNorm, film: FiLM, conditions: Tensor) -> Modulation:
    """Return what a norm and the FiLM behind it do after standardising, `[r, 1, d]` each, for conditions `[r, q]`."""
    factor = 1 + film.scale(conditions)[:, None]
    return norm.weight * factor, norm.bias * factor + film.shift(conditions)[:, None]


def _normed(x: Tensor, norm: nn.LayerNorm, modulation: Modulation | None) -> Tensor:
    """Return `x [t, r, k, d]` with features standardised, then scaled and shifted."""
    if modulation is None:
        return norm(x)
    factor, summand = modulation
    return torch.addcmul(summand, F.layer_norm(x, x.shape[-1:]), factor)
