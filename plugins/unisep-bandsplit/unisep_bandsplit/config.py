"""The options of SCNet and Band-Split RNN checkpoints, named as the community's YAML files name them."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from torch import nn
from unisep_roformer.described import ModelConfig

# From 1 to what makes sense: a damaged file must not make us build a giant.
_Few = Annotated[int, Field(strict=True, ge=1, le=64)]
_Many = Annotated[int, Field(strict=True, ge=1, le=1 << 15)]
_Share = Annotated[float, Field(gt=0, lt=1)]
# Names become names of modules, which hold no dots.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9 _-]{1,60}$")]
_Names = Annotated[tuple[_Name, ...], Field(min_length=1, max_length=64)]

# The tables of Band-Split RNN (arXiv:2209.15174, section III-B, for vocals its version 7): from 0 Hz on, bands of so many
# Hz up to so many Hz; what lies above is one band more.
_STEPS_HZ = {
    "vocals": ((100, 1000), (250, 4000), (500, 8000), (1000, 16000), (2000, 20000)),
    "bass": ((50, 500), (100, 1000), (500, 4000), (1000, 8000), (2000, 16000)),
    "drums": ((50, 1000), (100, 2000), (250, 4000), (500, 8000), (1000, 16000)),
}
_TABLES = {
    "dnr:speech": "vocals", "dnr:vox7": "vocals", "musdb:vox7": "vocals", "musdb:vocals": "vocals",
    "musdb:other": "vocals", "musdb:bass": "bass", "musdb:drums": "drums",
}  # fmt: skip


class BandSizes(NamedTuple):
    """Bins of the three bands of one level of an SCNet: `wide` before they are made sparse, `sparse` after."""

    wide: tuple[int, ...]
    sparse: tuple[int, ...]


class SCNetConfig(ModelConfig):
    """The shape of one SCNet; names and defaults are those of the published checkpoints.

    `dims` are channels before, between and after the levels; `band_SR` the shares of the three bands (low, mid, high) of
    the bins, `band_stride` how much sparser each becomes at a level.

    >>> SCNetConfig(sources=("drums", "vocals")).levels()[0]
    BandSizes(wide=(359, 803, 887), sparse=(359, 201, 56))
    """

    loaded: ClassVar[str] = "Loaded are plain SCNets, not the variants Tran, Masked and unofficial."

    sources: _Names
    audio_channels: Literal[1, 2] = 2
    dims: Annotated[tuple[_Many, ...], Field(min_length=2, max_length=9)] = (4, 32, 64, 128)
    nfft: _Many = 4096
    hop_size: _Many = 1024
    win_size: _Many = 4096
    normalized: bool = True
    band_SR: tuple[_Share, _Share, _Share] = (0.175, 0.392, 0.433)
    band_stride: tuple[_Few, _Few, _Few] = (1, 4, 16)
    band_kernel: tuple[_Few, _Few, _Few] = (3, 4, 16)
    conv_depths: tuple[_Few, _Few, _Few] = (3, 2, 1)
    compress: _Few = 4
    conv_kernel: _Few = 3
    num_dplayer: _Few = 6
    expand: _Few = 1

    @model_validator(mode="after")
    def _consistent(self) -> SCNetConfig:
        if self.dims[0] != 2 * self.audio_channels:
            raise ValueError(f"dims must begin with {2 * self.audio_channels}: two parts of each audio channel")
        if min(self.dims[1:]) < self.compress:
            raise ValueError("compress must not exceed any of dims")
        if self.num_dplayer % 2:
            raise ValueError("num_dplayer must be even: layers over frames and over their frequencies take turns")
        if self.conv_kernel % 2 == 0:
            raise ValueError("conv_kernel must be odd")
        if not 2 * self.hop_size <= self.win_size <= self.nfft:
            raise ValueError("hop_size must be at most half of win_size, and that at most nfft")
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("a source is named twice")
        for level in self.levels():
            if min(level.wide + level.sparse) < 1:
                raise ValueError(f"the bands have no bins left after {len(self.dims) - 1} levels")
            rows = zip(level.wide, level.sparse, self.band_stride, self.band_kernel, strict=True)
            if any((sparse - 1) * stride + kernel < wide for wide, sparse, stride, kernel in rows):
                raise ValueError("band_kernel and band_stride do not give a band all its bins back")
        return self

    @property
    def n_outputs(self) -> int:
        """Sources that the network gives."""
        return len(self.sources)

    @property
    def n_channels(self) -> int | None:
        """Channels of the mixture and of each source."""
        return self.audio_channels

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.hop_size

    @property
    def default_rate_hz(self) -> int:
        """The rate of a model whose file does not say it."""
        return 44_100

    def levels(self) -> list[BandSizes]:
        """Compute the sizes of the bands at each level, from the spectrogram down."""
        low, mid, _ = self.band_SR
        n_bins, levels = self.nfft // 2 + 1, []
        for _ in pairwise(self.dims):
            edges = (0, ceil(n_bins * low), ceil(n_bins * (low + mid)), n_bins)
            wide = tuple(end - start for start, end in pairwise(edges))
            rows = zip(wide, self.band_stride, self.band_kernel, strict=True)
            sparse = tuple((size + self.padding(size, *row) - row[1]) // row[0] + 1 for size, *row in rows)
            levels.append(BandSizes(wide, sparse))
            n_bins = sum(sparse)
        return levels

    @staticmethod
    def padding(n_bins: int, stride: int, kernel: int) -> int:
        """Count the bins of silence around a band, so that its convolution gives one value a stride."""
        return kernel - 1 if stride == 1 else -n_bins % stride


class BSRNNConfig(ModelConfig):
    """The shape of one Band-Split RNN; names and defaults are those of the published checkpoints.

    `band_specs` names the bands: a table of the paper, or "musical", `n_bands` overlapping ones spaced by octaves.

    >>> BSRNNConfig(stems=("speech",), band_specs="dnr:vox7").bands()[:2]
    [(0, 5), (5, 10)]
    """

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"require_no_overlap", "require_no_gap", "treat_channel_as_feature", "freeze_encoder"}
    )
    loaded: ClassVar[str] = "Loaded are Band-Split RNNs with recurrent layers, BandIt's too, not BandIt v2."

    stems: _Names
    band_specs: str
    n_bands: Annotated[int, Field(strict=True, ge=2, le=512)] | None = None
    fs: Annotated[int, Field(ge=1000, le=1 << 20)] = 44_100
    in_channel: Literal[1] = 1
    n_sqm_modules: _Few = 12
    emb_dim: _Many = 128
    rnn_dim: _Many = 256
    rnn_type: Literal["LSTM", "GRU"] = "LSTM"
    mlp_dim: _Many = 512
    hidden_activation: Literal["Tanh"] = "Tanh"
    n_fft: _Many = 2048
    win_length: _Many = 2048
    hop_length: _Many = 512
    window_fn: Literal["hann_window"] = "hann_window"
    pad_mode: Literal["constant"] = "constant"
    normalized: bool = True
    bidirectional: Literal[True] = True
    complex_mask: Literal[True] = True
    use_freq_weights: Literal[True] = True
    center: Literal[True] = True
    onesided: Literal[True] = True

    @model_validator(mode="after")
    def _consistent(self) -> BSRNNConfig:
        if not 2 * self.hop_length <= self.win_length <= self.n_fft or self.n_fft % 2:
            raise ValueError("hop_length must be at most half of win_length, and that at most an even n_fft")
        if "musical" in self.band_specs and self.n_bands is None:
            raise ValueError("musical bands need n_bands")
        if self.band_specs not in _TABLES and "musical" not in self.band_specs:
            raise ValueError(f"band_specs {self.band_specs!r:.60} is none of musical, {', '.join(sorted(_TABLES))}")
        if len(set(self.stems)) < len(self.stems):
            raise ValueError("a stem is named twice")
        if taken := set(self.stems) & set(dir(nn.ModuleDict())):
            raise ValueError(f"a stem cannot be named {', '.join(sorted(taken))}")
        if any(end <= start for start, end in self.bands()):
            raise ValueError(f"bands without bins: {self.n_fft} points at {self.fs} Hz are too few for band_specs")
        return self

    @property
    def n_outputs(self) -> int:
        """Sources that the network gives."""
        return len(self.stems)

    @property
    def n_channels(self) -> int | None:
        """None: each channel is taken by itself."""
        return None

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.hop_length

    @property
    def default_rate_hz(self) -> int:
        """The rate of a model whose file does not say it."""
        return self.fs

    @property
    def n_bins(self) -> int:
        """Frequencies of the spectrogram, from 0 to half the sample rate."""
        return self.n_fft // 2 + 1

    def bands(self) -> list[tuple[int, int]]:
        """Return the first bin of each band, and the one after its last."""
        return self._table(_STEPS_HZ[_TABLES[self.band_specs]]) if self.band_specs in _TABLES else self._musical()

    def _table(self, steps_hz: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
        edges = [0]
        for width_hz, end_hz in steps_hz:
            width, end = (round(hz * self.n_fft / self.fs) for hz in (width_hz, end_hz))
            # No step at all shows as a band without bins.
            edges += [*range(edges[-1] + width, end, width), end] if width else [edges[-1]]
        return list(pairwise([*edges, self.n_bins]))

    def _musical(self) -> list[tuple[int, int]]:
        """Space the bands' centres evenly in semitones, each reaching a band's width down and up (arXiv:2309.02539)."""
        bin_hz, top_hz, n_bands = self.fs / self.n_fft, self.fs / 2, self.n_bands or 2
        reach = (top_hz / bin_hz) ** (1 / n_bands)
        semitones = np.linspace(max(0, 69 + 12 * np.log2(bin_hz / 440)), 69 + 12 * np.log2(top_hz / 440), n_bands)
        centres = 440 * 2 ** ((semitones - 69) / 12) / bin_hz
        starts = np.floor(centres / reach).astype(int)
        ends = np.minimum(np.ceil(centres * reach).astype(int) + 1, self.n_bins)
        starts[0], ends[-1] = 0, self.n_bins
        return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]
