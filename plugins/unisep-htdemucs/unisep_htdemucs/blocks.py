"""The convolutional layers of HT Demucs: encoder, decoder, and the residual branch inside them.

Parameter names are those of the published checkpoints. Axes: b batch, c channels, f frequencies, t time.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import HTDemucsConfig
from .kernels import by_frequency, pointwise, strided, transposed


class LayerScale(nn.Module):
    """A learnt factor a channel, started small (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, channels: int, init: float, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.scale = nn.Parameter(torch.full((channels,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x`: `[b, c, t]`, or `[b, t, c]` with `channels_last`."""
        return x * self._factors()

    def added(self, stream: Tensor, branch: Tensor) -> Tensor:
        """Return `stream` plus `branch` scaled, in one pass."""
        return torch.addcmul(stream, branch, self._factors())

    def _factors(self) -> Tensor:
        return self.scale if self.channels_last else self.scale[:, None]


class DConv(nn.Module):
    """Dilated convolutions through a narrow waist, added to its input (arXiv:2111.03600, section 3.2)."""

    def __init__(self, channels: int, compress: float, depth: int, init: float) -> None:
        super().__init__()
        hidden = int(channels / compress)
        self.layers = nn.ModuleList()
        for index in range(abs(depth)):
            dilation = 2**index if depth > 0 else 1
            self.layers.append(
                nn.Sequential(
                    nn.Conv1d(channels, hidden, 3, dilation=dilation, padding=dilation),
                    nn.GroupNorm(1, hidden),
                    nn.GELU(),
                    nn.Conv1d(hidden, 2 * channels, 1),
                    nn.GroupNorm(1, 2 * channels),
                    nn.GLU(1),
                    LayerScale(channels, init),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Add every branch to `x`: `[b, c, t]`, or `[b, c, f, t]` taken one frequency at a time."""
        if x.dim() == 3:
            return self._added(x)
        y = self._added(rearrange(x, "b c f t -> (b f) c t"))
        return rearrange(y, "(b f) c t -> b c f t", f=x.shape[2])

    def _added(self, y: Tensor) -> Tensor:
        for layer in self.layers:
            narrow, norm1, gelu, widen, norm2, glu, scale = layer.children()
            branch = glu(norm2(pointwise(widen, gelu(norm1(narrow(y))))))
            assert isinstance(scale, LayerScale)
            y = scale.added(y, branch)
        return y


class ScaledEmbedding(nn.Module):
    """A vector for each frequency, stored `scale` times smaller so that it learns that much faster."""

    def __init__(self, n_vectors: int, channels: int, scale: float, smooth: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.empty(n_vectors, channels), freeze=False)
        self.scale = scale
        if not self.embedding.weight.is_meta:  # see `rescale_convolutions`
            self._draw(smooth)

    @torch.no_grad()
    def _draw(self, smooth: bool) -> None:
        weight = self.embedding.weight
        nn.init.normal_(weight)
        if smooth:
            # A random walk over frequency; dividing by the square root keeps its variance level.
            counts = torch.arange(1, len(weight) + 1, dtype=weight.dtype, device=weight.device)
            weight.copy_(weight.cumsum(dim=0) / counts.sqrt()[:, None])
        weight.div_(self.scale)

    def forward(self) -> Tensor:
        """Return all vectors, `[c, f]`."""
        return self.embedding.weight.t() * self.scale


class _Maker:
    """Makes the convolutions of one branch: over frequency (2-D kernels, one frame wide) or over time."""

    def __init__(self, config: HTDemucsConfig, index: int, over_frequency: bool) -> None:
        self.config = config
        self.over_frequency = over_frequency
        self.has_norm = index >= config.norm_starts
        # A norm looks at all frequencies, and time has none.
        self.in_parts = over_frequency and not self.has_norm

    def strided(self, channels_in: int, channels_out: int) -> nn.Module:
        kernel, stride, pad = self.config.kernel_size, self.config.stride, self.config.kernel_size // 4
        if self.over_frequency:
            return nn.Conv2d(channels_in, channels_out, (kernel, 1), (stride, 1), (pad, 0))
        return nn.Conv1d(channels_in, channels_out, kernel, stride, pad)

    def transposed(self, channels_in: int, channels_out: int) -> nn.Module:
        kernel, stride = self.config.kernel_size, self.config.stride
        if self.over_frequency:
            return nn.ConvTranspose2d(channels_in, channels_out, (kernel, 1), (stride, 1))
        return nn.ConvTranspose1d(channels_in, channels_out, kernel, stride)

    def gated(self, channels: int, context: int) -> nn.Module:
        convolution = nn.Conv2d if self.over_frequency else nn.Conv1d
        return convolution(channels, 2 * channels, 1 + 2 * context, 1, context)

    def norm(self, channels: int) -> nn.Module:
        return nn.GroupNorm(self.config.norm_groups, channels) if self.has_norm else nn.Identity()

    def residual(self, channels: int, mode: int) -> nn.Module | None:
        config = self.config
        if not config.dconv_mode & mode:
            return None
        return DConv(channels, config.dconv_comp, config.dconv_depth, config.dconv_init)


class EncoderLayer(nn.Module):
    """Strided convolution, residual branch, gated 1x1 convolution."""

    def __init__(
        self, config: HTDemucsConfig, index: int, channels_in: int, channels_out: int, over_frequency: bool
    ) -> None:
        super().__init__()
        make = _Maker(config, index, over_frequency)
        self.over_frequency = over_frequency
        self.in_parts = make.in_parts
        self.n_widest, self.context = 2 * channels_out, config.context_enc
        self.stride = config.stride
        self.conv = make.strided(channels_in, channels_out)
        self.norm1 = make.norm(channels_out)
        self.rewrite = make.gated(channels_out, config.context_enc)
        self.norm2 = make.norm(2 * channels_out)
        self.dconv = make.residual(channels_out, mode=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[b, c, f, t]` to `[b, c, f/stride, t]`, or `[b, c, t]` to `[b, c, ceil(t/stride)]`."""
        if not self.over_frequency:
            x = F.pad(x, (0, -x.shape[-1] % self.stride))
        y = F.gelu(self.norm1(strided(self.conv, x)))
        if self.in_parts:
            return by_frequency(self._refined, y, self.n_widest, self.context)
        return self._refined(y)

    def _refined(self, y: Tensor) -> Tensor:
        if self.dconv is not None:
            y = self.dconv(y)
        return F.glu(self.norm2(pointwise(self.rewrite, y)), dim=1)


class DecoderLayer(nn.Module):
    """Skip connection, gated convolution, residual branch, transposed convolution."""

    def __init__(
        self, config: HTDemucsConfig, index: int, channels_in: int, channels_out: int, over_frequency: bool
    ) -> None:
        super().__init__()
        make = _Maker(config, index, over_frequency)
        self.in_parts = make.in_parts
        self.n_widest, self.context = 2 * channels_in, config.context
        self.is_last = index == 0
        self.pad = config.kernel_size // 4
        self.conv_tr = make.transposed(channels_in, channels_out)
        self.norm2 = make.norm(channels_out)
        self.rewrite = make.gated(channels_in, config.context)
        self.norm1 = make.norm(2 * channels_in)
        self.dconv = make.residual(channels_in, mode=2)

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        """Upsample `x + skip` and cut it to `length`: frequencies of `[b, c, f, t]`, else samples."""
        y = x + skip
        y = by_frequency(self._refined, y, self.n_widest, self.context) if self.in_parts else self._refined(y)
        z = self.norm2(transposed(self.conv_tr, y)).narrow(2, self.pad, length)
        return z if self.is_last else F.gelu(z)

    def _refined(self, y: Tensor) -> Tensor:
        gated = self.rewrite(y.to(next(self.rewrite.parameters()).dtype)).to(y.dtype)
        y = F.glu(self.norm1(gated), dim=1)
        return y if self.dconv is None else self.dconv(y)


def rescale_convolutions(module: nn.Module, reference: float) -> None:
    """Bring every convolution's initial weights closer to the deviation `reference` (arXiv:1911.13254)."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    for layer in module.modules():
        # Where parameters are to come from a file there are no values yet, and the deviation of what has none
        # would make torch import its compiler, which takes longer than all the rest of loading.
        if isinstance(layer, kinds) and not layer.weight.is_meta:
            with torch.no_grad():
                factor = (layer.weight.std() / reference) ** 0.5
                layer.weight.div_(factor)
                if layer.bias is not None:
                    layer.bias.div_(factor)
