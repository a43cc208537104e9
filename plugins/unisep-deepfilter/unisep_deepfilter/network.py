"""The network of DeepFilterNet3: Schröter, Rosenkranz, Escalante-B., Maier 2023, arXiv:2305.08227.

It looks at features of a spectrogram, frame by frame, and gives two things: gains in 32 bands, and for the lowest 96 bins
a complex filter over five frames. Every layer that looks back in time takes its past and returns it, so that any number
of frames at a time gives the same.

Legend: r rows (channels of a batch), c channels of the network, t frames, f bins or bands, g groups.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

N_BANDS = 32
N_FILTERED_BINS = 96
FILTER_FRAMES = 5
_CONV_CHANNELS = 64
_HIDDEN = 256
_EMBEDDING = _CONV_CHANNELS * N_BANDS // 4


@dataclass(frozen=True)
class NetworkState:
    """What the network remembers of the frames before: past inputs of convolutions, and hidden states."""

    bands: Tensor
    bins: Tensor
    paths: Tensor
    encoder: Tensor
    gains: Tensor
    filters: Tensor

    @staticmethod
    def initial(n_rows: int, like: Tensor) -> NetworkState:
        """Return the state before the first frame, on the device of `like`."""
        return NetworkState(
            bands=like.new_zeros(n_rows, 1, 2, N_BANDS),
            bins=like.new_zeros(n_rows, 2, 2, N_FILTERED_BINS),
            paths=like.new_zeros(n_rows, _CONV_CHANNELS, FILTER_FRAMES - 1, N_FILTERED_BINS),
            encoder=like.new_zeros(1, n_rows, _HIDDEN),
            gains=like.new_zeros(2, n_rows, _HIDDEN),
            filters=like.new_zeros(2, n_rows, _HIDDEN),
        )

    def copied(self) -> NetworkState:
        """Return a state that shares no memory with this one."""
        return NetworkState(*(getattr(self, field.name).clone() for field in fields(self)))


class GroupedLinear(nn.Module):
    """A linear layer without bias whose inputs and outputs are cut into groups that do not mix."""

    def __init__(self, n_in: int, n_out: int, n_groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_groups, n_in // n_groups, n_out // n_groups))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[r, t, n_out]` of `[r, t, n_in]`."""
        grouped = rearrange(x, "r t (g i) -> r t g i", g=len(self.weight))
        return rearrange(einsum(grouped, self.weight, "r t g i, g i o -> r t g o"), "r t g o -> r t (g o)")


class GroupedGru(nn.Module):
    """Recurrent layers between two grouped linear ones; without `n_out` there is no second."""

    def __init__(self, n_layers: int, n_out: int = 0, n_groups: int = 16) -> None:
        super().__init__()
        self.linear_in = GroupedLinear(_EMBEDDING, _HIDDEN, n_groups)
        self.gru = nn.GRU(_HIDDEN, _HIDDEN, n_layers, batch_first=True)
        self.linear_out = GroupedLinear(_HIDDEN, n_out, n_groups) if n_out else None

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return `[r, t, n_out]` of `[r, t, 512]`, and the hidden state after it."""
        x, hidden = self.gru(F.relu(self.linear_in(x)), hidden)
        return (x if self.linear_out is None else F.relu(self.linear_out(x))), hidden


class Convolution(nn.Module):
    """A convolution in groups of channels, then one over channels alone, with ReLU.

    `kernel` is frames by bins. Nothing is added to frames: the caller gives the past. `stride` halves the bins at 2;
    `doubles` is its transpose, which doubles them.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: tuple[int, int], n_groups: int, stride: int = 1, doubles: bool = False
    ) -> None:
        super().__init__()
        padding = (0, kernel[1] // 2)
        if doubles:
            self.depth: nn.Module = nn.ConvTranspose2d(
                n_in, n_out, kernel, (1, 2), padding, output_padding=(0, 1), groups=n_groups, bias=False
            )
        else:
            self.depth = nn.Conv2d(n_in, n_out, kernel, (1, stride), padding, groups=n_groups, bias=False)
        self.point = nn.Conv2d(n_out, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[r, c, t, f]` of `[r, c, t and what lies before, f]`."""
        return F.relu(self.point(self.depth(x)))


class Encoder(nn.Module):
    """Features of bands and bins to one embedding a frame, and what the decoders take from its layers."""

    def __init__(self) -> None:
        super().__init__()
        c = _CONV_CHANNELS
        self.erb_conv0 = nn.Conv2d(1, c, (3, 3), padding=(0, 1))
        self.erb_conv1 = Convolution(c, c, (1, 3), c, stride=2)
        self.erb_conv2 = Convolution(c, c, (1, 3), c, stride=2)
        self.erb_conv3 = Convolution(c, c, (1, 3), c)
        self.df_conv0 = Convolution(2, c, (3, 3), 2)
        self.df_conv1 = Convolution(c, c, (1, 3), c, stride=2)
        self.df_fc_emb = GroupedLinear(c * N_FILTERED_BINS // 2, _EMBEDDING, 32)
        self.emb_gru = GroupedGru(1, _EMBEDDING)

    def forward(self, bands: Tensor, bins: Tensor, hidden: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Return four layers over bands, one over bins, the embedding `[r, t, 512]`, and the hidden state."""
        e0 = F.relu(self.erb_conv0(bands))
        e1 = self.erb_conv1(e0)
        e2 = self.erb_conv2(e1)
        e3 = self.erb_conv3(e2)
        c0 = self.df_conv0(bins)
        from_bins = F.relu(self.df_fc_emb(rearrange(self.df_conv1(c0), "r c t f -> r t (f c)")))
        embedding = rearrange(e3, "r c t f -> r t (f c)") + from_bins
        embedding, hidden = self.emb_gru(embedding, hidden)
        return [e0, e1, e2, e3], c0, embedding, hidden


class GainDecoder(nn.Module):
    """The embedding to a gain from 0 to 1 for each band."""

    def __init__(self) -> None:
        super().__init__()
        c = _CONV_CHANNELS
        self.emb_gru = GroupedGru(2, _EMBEDDING)
        self.conv3p, self.conv2p, self.conv1p, self.conv0p = (nn.Conv2d(c, c, 1, groups=c) for _ in range(4))
        self.convt3 = Convolution(c, c, (1, 3), c)
        self.convt2 = Convolution(c, c, (1, 3), c, doubles=True)
        self.convt1 = Convolution(c, c, (1, 3), c, doubles=True)
        self.conv0_out = nn.Conv2d(c, 1, (1, 3), padding=(0, 1))

    def forward(self, embedding: Tensor, layers: list[Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains `[r, t, 32]` and the hidden state."""
        e0, e1, e2, e3 = layers
        x, hidden = self.emb_gru(embedding, hidden)
        x = rearrange(x, "r t (f c) -> r c t f", c=_CONV_CHANNELS)
        x = self.convt3(F.relu(self.conv3p(e3)) + x)
        x = self.convt2(F.relu(self.conv2p(e2)) + x)
        x = self.convt1(F.relu(self.conv1p(e1)) + x)
        x = self.conv0_out(F.relu(self.conv0p(e0)) + x)
        return torch.sigmoid(rearrange(x, "r 1 t f -> r t f")), hidden


class FilterDecoder(nn.Module):
    """The embedding to a complex filter over five frames for each of the lowest bins."""

    def __init__(self) -> None:
        super().__init__()
        n_values = 2 * FILTER_FRAMES
        self.df_gru = GroupedGru(2, n_groups=8)
        self.df_skip = GroupedLinear(_EMBEDDING, _HIDDEN, 16)
        self.df_convp = Convolution(_CONV_CHANNELS, n_values, (FILTER_FRAMES, 1), 2)
        self.df_out = GroupedLinear(_HIDDEN, N_FILTERED_BINS * n_values, 16)

    def forward(self, embedding: Tensor, paths: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return complex coefficients `[r, t, 96, 5]`, the oldest frame first, and the hidden state."""
        x, hidden = self.df_gru(embedding, hidden)
        x = torch.tanh(self.df_out(x + self.df_skip(embedding)))
        x = rearrange(x, "r t (f values) -> r t f values", f=N_FILTERED_BINS)
        x = x + rearrange(self.df_convp(paths), "r values t f -> r t f values")
        return torch.view_as_complex(rearrange(x, "r t f (n parts) -> r t f n parts", parts=2).contiguous()), hidden


class DeepFilterNet(nn.Module):
    """Encoder and both decoders."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = Encoder()
        self.erb_dec = GainDecoder()
        self.df_dec = FilterDecoder()

    def forward(self, bands: Tensor, bins: Tensor, state: NetworkState) -> tuple[Tensor, Tensor, NetworkState]:
        """Return gains `[r, t, 32]`, complex filters `[r, t, 96, 5]` and the state after these frames.

        Args:
            bands: Levels in bands, `[r, t, 32]`.
            bins: The lowest bins, complex, `[r, t, 96]`.
            state: What the frames before left.
        """
        parts = rearrange(torch.view_as_real(bins), "r t f parts -> r parts t f")
        seen_bands = torch.cat([state.bands, rearrange(bands, "r t f -> r 1 t f")], dim=2)
        seen_bins = torch.cat([state.bins, parts], dim=2)
        layers, c0, embedding, encoder = self.enc(seen_bands, seen_bins, state.encoder)
        seen_paths = torch.cat([state.paths, c0], dim=2)
        gains, gain_hidden = self.erb_dec(embedding, layers, state.gains)
        filters, filter_hidden = self.df_dec(embedding, seen_paths, state.filters)
        after = NetworkState(
            bands=seen_bands[:, :, -2:],
            bins=seen_bins[:, :, -2:],
            paths=seen_paths[:, :, 1 - FILTER_FRAMES :],
            encoder=encoder,
            gains=gain_hidden,
            filters=filter_hidden,
        )
        return gains, filters, after
