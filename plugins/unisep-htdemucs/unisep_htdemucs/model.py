"""HT Demucs, the hybrid transformer for source separation (Rouard, Massa, Defossez 2022, arXiv:2211.08553).

A U-Net on the spectrogram and a U-Net on the waveform share a cross-transformer at their bottom; their outputs
are summed. The four steps (`encode`, `bottleneck`, `decode_branches`, `combine`) can be used one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from unisep.errors import AudioError

from .blocks import DecoderLayer, EncoderLayer, ScaledEmbedding, rescale_convolutions
from .config import HTDemucsConfig
from .kernels import pointwise
from .spectrogram import spectrogram, waveform
from .transformer import CrossTransformer

# (index of the decoder layer, innermost 0; its input x; its skip connection) -> the same two, changed
BeforeLayer = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Encoded:
    """What the encoders make of a mixture: all that the later steps need.

    Axes: b batch, c channels, f frequencies, t frames, s steps of the time branch. Skips are outermost first.
    """

    x: Tensor  # bottom of the frequency branch [b, c, f, t]
    xt: Tensor  # bottom of the time branch [b, c, s]
    skips: tuple[Tensor, ...]  # [b, c, f, t] each
    skips_t: tuple[Tensor, ...]  # [b, c, s] each
    n_freqs: tuple[int, ...]  # frequencies that enter each encoder layer
    lengths_t: tuple[int, ...]  # steps that enter each layer of the time encoder
    mean: Tensor  # [b, 1, 1, 1], of the spectrogram's parts
    std: Tensor
    mean_t: Tensor  # [b, 1, 1], of the waveform
    std_t: Tensor
    bins: Tensor  # the mixture's complex spectrogram [b, channels, f, t]
    n_samples: int


class HTDemucs(nn.Module):
    """A model that separates a mixture into `config.sources`; parameters are named as in published checkpoints.

    Axes: b batch, s sources, c audio channels, r real and imaginary part, f frequencies, t frames, l samples.
    Between `encode` and `combine` a batch may grow to n items for each encoded one (one for each query, say),
    laid out "(b n)": the decoder repeats skips and statistics to match.
    """

    def __init__(self, config: HTDemucsConfig) -> None:
        super().__init__()
        self.config = config
        self._build_unet(config)
        if config.rescale:
            rescale_convolutions(self, config.rescale)
        outer, inner = config.encoder_channels[-1], config.bottom_channels
        if inner:
            self.channel_upsampler = nn.Conv1d(outer, inner, 1)
            self.channel_downsampler = nn.Conv1d(inner, outer, 1)
            self.channel_upsampler_t = nn.Conv1d(outer, inner, 1)
            self.channel_downsampler_t = nn.Conv1d(inner, outer, 1)
        self.crosstransformer = CrossTransformer(config) if config.t_layers else None

    def _build_unet(self, config: HTDemucsConfig) -> None:
        heard, n_sources = config.audio_channels, len(config.sources)
        widths = config.encoder_channels
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.tencoder, self.tdecoder = nn.ModuleList(), nn.ModuleList()
        for index, width in enumerate(widths):
            above = widths[index - 1] if index else 0
            self.encoder.append(EncoderLayer(config, index, above or 2 * heard, width, True))
            self.tencoder.append(EncoderLayer(config, index, above or heard, width, False))
            self.decoder.insert(0, DecoderLayer(config, index, width, above or 2 * heard * n_sources, True))
            self.tdecoder.insert(0, DecoderLayer(config, index, width, above or heard * n_sources, False))
        self.freq_emb: ScaledEmbedding | None = None
        if config.freq_emb:
            n_freqs = config.nfft // 2 // config.stride
            self.freq_emb = ScaledEmbedding(n_freqs, widths[0], config.emb_scale, config.emb_smooth)

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Channels of input and skip of each decoder layer, innermost first; both branches have the same."""
        return self.config.encoder_channels[::-1]

    def encode(self, mixture: Tensor) -> Encoded:
        """Encode `mixture [b, c, l]` of any length by both encoders, each branch normalised on its own."""
        dtype = next(self.parameters()).dtype
        bins = spectrogram(mixture.float(), self.config.nfft)
        parts = rearrange(torch.view_as_real(bins), "b c f t r -> b (c r) f t").contiguous()
        std, mean = torch.std_mean(parts, dim=(1, 2, 3), keepdim=True)
        std_t, mean_t = torch.std_mean(mixture.float(), dim=(1, 2), keepdim=True)
        x = ((parts - mean) / (1e-5 + std)).to(dtype)
        xt = ((mixture.float() - mean_t) / (1e-5 + std_t)).to(dtype)
        skips, skips_t, n_freqs, lengths_t = [], [], [], []
        for index, (layer, layer_t) in enumerate(zip(self.encoder, self.tencoder, strict=True)):
            n_freqs.append(x.shape[2])
            lengths_t.append(xt.shape[-1])
            x, xt = layer(x), layer_t(xt)
            if index == 0 and self.freq_emb is not None:
                x = x + self.config.freq_emb * self.freq_emb()[:, :, None]
            skips.append(x)
            skips_t.append(xt)
        return Encoded(x, xt, tuple(skips), tuple(skips_t), tuple(n_freqs), tuple(lengths_t),
                       mean, std, mean_t, std_t, bins, mixture.shape[-1])  # fmt: skip

    def bottleneck(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the cross-transformer and its 1x1 convolutions to both branches `[b, c, f, t]`, `[b, c, s]`."""
        if self.crosstransformer is None:
            return x, xt
        return self.narrowed(*self.crosstransformer(*self.widened(x, xt)))

    def widened(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches with as many channels as the cross-transformer has."""
        if not self.config.bottom_channels:
            return x, xt
        return _flat(self.channel_upsampler, x), pointwise(self.channel_upsampler_t, xt)

    def narrowed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches with as many channels as the encoders gave."""
        if not self.config.bottom_channels:
            return x, xt
        return _flat(self.channel_downsampler, x), pointwise(self.channel_downsampler_t, xt)

    def decode_branches(
        self,
        x: Tensor,
        xt: Tensor,
        encoded: Encoded,
        on_freq: BeforeLayer | None = None,
        on_time: BeforeLayer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode both branches, still normalised: spectrogram parts `[b, s, (c r), f, t]`, waves `[b, s, c, l]`.

        `on_freq` and `on_time` are called with (index, x, skip) before each layer and return x and skip.
        """
        n_sources = len(self.config.sources)
        depth = self.config.depth
        for index in range(depth):
            level = depth - 1 - index
            skip = _repeated(encoded.skips[level], x)
            skip_t = _repeated(encoded.skips_t[level], xt)
            if on_freq is not None:
                x, skip = on_freq(index, x, skip)
            if on_time is not None:
                xt, skip_t = on_time(index, xt, skip_t)
            x = self.decoder[index](x, skip, encoded.n_freqs[level])
            xt = self.tdecoder[index](xt, skip_t, encoded.lengths_t[level])
        parts = rearrange(x, "b (s cr) f t -> b s cr f t", s=n_sources)
        return parts, rearrange(xt, "b (s c) l -> b s c l", s=n_sources)

    def combine(self, parts: Tensor, waves: Tensor, encoded: Encoded) -> Tensor:
        """Bring both branches back to the mixture's scale and sum them: sources `[b, s, c, l]`."""
        std, mean = _repeated(encoded.std, parts), _repeated(encoded.mean, parts)
        std_t, mean_t = _repeated(encoded.std_t, waves)[:, None], _repeated(encoded.mean_t, waves)[:, None]
        heard = []  # one source at a time: all of them together would make the largest buffers of the model
        for part in parts.float().unbind(1):
            real, imaginary = rearrange(torch.addcmul(mean, part, std), "b (c r) f t -> r b c f t", r=2)
            heard.append(waveform(torch.complex(real, imaginary), encoded.n_samples))
        return torch.stack(heard, dim=1) + torch.addcmul(mean_t, waves.float(), std_t)

    def decode(
        self,
        x: Tensor,
        xt: Tensor,
        encoded: Encoded,
        on_freq: BeforeLayer | None = None,
        on_time: BeforeLayer | None = None,
    ) -> Tensor:
        """Return sources `[b, s, c, l]` from the bottom of both branches: `decode_branches`, then `combine`."""
        return self.combine(*self.decode_branches(x, xt, encoded, on_freq, on_time), encoded)

    def padded(self, mixture: Tensor) -> Tensor:
        """Pad `mixture` with silence to the length that the model was trained on; in training leave it as it is.

        Raises:
            AudioError: The mixture is longer than that: cut it into segments first.
        """
        if self.training or not self.config.use_train_segment:
            return mixture
        missing = self.config.segment_samples - mixture.shape[-1]
        if missing < 0:
            raise AudioError(
                f"Got {mixture.shape[-1]} samples at once; this model takes at most "
                f"{self.config.segment_samples}. Cut the recording into segments of that length."
            )
        return F.pad(mixture, (0, missing))

    @property
    def can_give_fewer(self) -> bool:
        """Whether each source has channels of its own to the very end, as in all released models."""
        return all(isinstance(branch[-1].norm2, nn.Identity) for branch in (self.decoder, self.tdecoder))

    def giving(self, sources: tuple[str, ...]) -> HTDemucs:
        """Return this model for some of its sources, sharing the parameters: its last layers compute no others.

        Ask `can_give_fewer` first.
        """
        rows = [self.config.sources.index(name) for name in sources]
        state = self.state_dict()
        for name in (f"{branch}.{self.config.depth - 1}.conv_tr" for branch in ("decoder", "tdecoder")):
            for kind, axis in (("weight", 1), ("bias", 0)):
                parts = state[f"{name}.{kind}"].chunk(len(self.config.sources), dim=axis)
                state[f"{name}.{kind}"] = torch.cat([parts[row] for row in rows], dim=axis)
        with torch.device("meta"):
            model = HTDemucs(replace(self.config, sources=sources))
        model.load_state_dict(state, assign=True)
        return model.train(self.training).requires_grad_(False)

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate `mixture [b, c, l]` into `[b, s, c, l]`; when not training, `l` is a segment at most."""
        encoded = self.encode(self.padded(mixture))
        sources = self.decode(*self.bottleneck(encoded.x, encoded.xt), encoded)
        return sources[..., : mixture.shape[-1]]


def _flat(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply a 1-wide 1-D convolution to `x [b, c, f, t]`."""
    flat = pointwise(convolution, rearrange(x, "b c f t -> b c (f t)"))
    return rearrange(flat, "b c (f t) -> b c f t", f=x.shape[2])


def _repeated(value: Tensor, like: Tensor) -> Tensor:
    """Repeat `value [b, ...]` to `[(b n), ...]`, as many items as `like` has."""
    n = like.shape[0] // value.shape[0]
    return value if n == 1 else repeat(value, "b ... -> (b n) ...", n=n)
