"""A band-split front end around the cross-transformer: what learns most in a second of training on a CPU.

The frequency branch splits the spectrogram into bands, with recurrent blocks before the cross-transformer and, hearing the
query, behind it; the time branch is three strided convolutions. As in `MaskHTDemucs` a complex mask is all that is put out.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_htdemucs.model import BeforeLayer
from unisep_htdemucs.spectrogram import spectrogram
from unisep_htdemucs.transformer import CrossTransformer

from .bands import N_BINS, BandSplit, Block, MaskHead, banded
from .config import FilmConfig
from .core import Core
from .mask import analysis_fade, resynthesised, standardised

_N_TOGETHER = 8  # bands that become one token of the transformer
_STRIDES = (8, 8, 16)  # of the time branch: one step a frame
_TIME_CHANNELS = (32, 64)


@dataclass(frozen=True)
class BandEncoded:
    """What is made of a mixture. Axes: b batch, c channels, f tokens of a frame, t frames, k bands, d features."""

    x: Tensor  # bottom of the frequency branch [b, c, f, t]
    xt: Tensor  # bottom of the time branch [b, c, t]
    began: Tensor  # features of the bands [b, t, k, d]
    heard: Tensor  # the same after the first blocks
    bins: Tensor  # the mixture's complex spectrogram [b, channels, bins, t]
    fade: Tensor  # what is left of a constant after analysis and synthesis [l]


class BandHTDemucs(Core):
    """Bands and recurrent blocks on both sides of the cross-transformer of HT Demucs, one complex mask behind."""

    n_decoders = 1
    film_widths = ()

    def __init__(self, config: FilmConfig) -> None:
        super().__init__()
        assert config.band_split is not None
        shape, around = config.band_split, config.separator
        width, in_token = around.transformer_channels, _N_TOGETHER * shape.features
        self.bottom_channels = width
        self.split = BandSplit(shape, around.audio_channels)
        self.before = nn.ModuleList(Block(shape) for _ in range(shape.n_first))
        self.down = nn.Linear(in_token, width)
        widths = (around.audio_channels, *_TIME_CHANNELS, width)
        self.wave = nn.ModuleList(
            nn.Conv1d(n_in, n_out, 2 * stride, stride, stride // 2)
            for n_in, n_out, stride in zip(widths, widths[1:], _STRIDES, strict=False)
        )
        self.crosstransformer = CrossTransformer(around)
        self.up = nn.Linear(width, in_token)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.after = nn.ModuleList(Block(shape, config.condition_channels) for _ in range(shape.n_after))
        self.head = MaskHead(shape, around.audio_channels, config.condition_channels)

    def encode(self, mixture: Tensor) -> BandEncoded:
        """Both branches' bottoms for `mixture [b, c, l]`."""
        bins = spectrogram(mixture.float(), 2 * N_BINS).contiguous()
        dtype = self.down.weight.dtype
        groups, levels = banded(bins)
        level = levels.mean(dim=1, keepdim=True).to(dtype)
        began = self.split([group.to(dtype) for group in groups], level)
        heard = began
        for block in self.before:
            heard, _ = block(heard)
        x = rearrange(self.down(rearrange(heard, "b t (f k) d -> b t f (k d)", k=_N_TOGETHER)), "b t f c -> b c f t")
        hop_samples = N_BINS // 2
        xt = F.pad(standardised(mixture.float()), (0, -mixture.shape[-1] % hop_samples)).to(dtype)
        for index, layer in enumerate(self.wave):
            xt = layer(F.gelu(xt) if index else xt)
        return BandEncoded(x, xt, began, heard, bins, analysis_fade(bins, mixture.shape[-1]))

    @property
    def transformer(self) -> CrossTransformer:
        """The one between the blocks."""
        return self.crosstransformer

    def widened(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are: they have the transformer's width."""
        return x, xt

    def narrowed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are."""
        return x, xt

    def decode(
        self, x: Tensor, xt: Tensor, encoded: BandEncoded, mix: Tensor, condition: Tensor,
        before_layer: tuple[BeforeLayer, ...],
    ) -> Tensor:  # fmt: skip
        """Targets `[(b n), c, l]` from the bottom of the frequency branch; `mix [(b n), 1]` is their gain.

        The blocks and the mask have FiLMs of their own, which hear `condition [(b n), k]`.
        """
        n_queries = x.shape[0] // encoded.bins.shape[0]
        began, heard, bins = (
            repeat(each, "b ... -> (b n) ...", n=n_queries) for each in (encoded.began, encoded.heard, encoded.bins)
        )
        x = heard + rearrange(self.up(rearrange(x, "b c f t -> b t f c")), "b t f (k d) -> b t (f k) d", k=_N_TOGETHER)
        for block in self.after:
            x, _ = block(x, condition)
        mask = self.head(x, began, condition)
        return mix.float()[..., None] * resynthesised(bins * mask, encoded.fade)
