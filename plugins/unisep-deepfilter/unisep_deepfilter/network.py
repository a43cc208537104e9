"""The network of DeepFilterNet3: Schröter, Rosenkranz, Escalante-B., Maier 2023, arXiv:2305.08227.

It looks at features of a spectrogram, frame by frame, and gives two things: gains in 32 bands, and for the lowest 96 bins
a complex filter over five frames. Every layer that looks back in time takes its past and returns it, so that any number
of frames at a time gives the same.

Legend: r rows (channels of a batch), t frames, f bins or bands, c channels of the network, the last axis, g groups.
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
_N_VALUES = 2 * FILTER_FRAMES
_EMBEDDING = _CONV_CHANNELS * N_BANDS // 4


@dataclass(frozen=True)
class NetworkState:
    """What the network remembers of the frames before.

    bands, bins: past inputs of convolutions. paths: their shares in filters to come. The others are hidden states.
    """

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
            bands=like.new_zeros(n_rows, 2, N_BANDS),
            bins=like.new_zeros(n_rows, 2, N_FILTERED_BINS, 2),
            paths=like.new_zeros(n_rows, FILTER_FRAMES - 1, N_FILTERED_BINS, FILTER_FRAMES, _N_VALUES),
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
        grouped = x.reshape(-1, *self.weight.shape[:2]).transpose(0, 1)
        return torch.bmm(grouped, self.weight).transpose(0, 1).reshape(*x.shape[:2], -1)


class Gru(nn.GRU):
    """Recurrent layers, without what nn.GRU takes anew for each call."""

    @torch.no_grad()
    def fold(self) -> None:
        """Prepare `hear`."""
        names = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
        self.layers = [
            tuple(self.get_parameter(f"{name}_l{layer}").t().contiguous() for name in names)
            for layer in range(self.num_layers)
        ]

    def hear(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return `[r, t, 256]` of the same, and the hidden state `[layers, r, 256]` after it."""
        hidden_after = []
        for (weight, bias, weight_back, bias_back), h in zip(self.layers, hidden, strict=True):
            heard = torch.addmm(bias, x.flatten(0, 1), weight).view(*x.shape[:2], -1)
            outputs = []
            for gates, new in zip(*(part.unbind(1) for part in heard.split([2 * _HIDDEN, _HIDDEN], -1)), strict=True):
                gates_back, new_back = torch.addmm(bias_back, h, weight_back).split([2 * _HIDDEN, _HIDDEN], 1)
                reset, update = (gates + gates_back).sigmoid_().chunk(2, 1)
                h = torch.lerp(torch.addcmul(new, reset, new_back).tanh_(), h, update)
                outputs.append(h)
            x = torch.stack(outputs, dim=1)
            hidden_after.append(h)
        return x, torch.stack(hidden_after)


class GroupedGru(nn.Module):
    """Recurrent layers between two grouped linear ones; without `n_out` there is no second."""

    def __init__(self, n_layers: int, n_out: int = 0, n_groups: int = 16) -> None:
        super().__init__()
        self.linear_in = GroupedLinear(_EMBEDDING, _HIDDEN, n_groups)
        self.gru = Gru(_HIDDEN, _HIDDEN, n_layers)
        self.linear_out = GroupedLinear(_HIDDEN, n_out, n_groups) if n_out else None

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return `[r, t, n_out]` of `[r, t, 512]`, and the hidden state after it."""
        x, hidden = self.gru.hear(self.linear_in(x).relu_(), hidden)
        return (x if self.linear_out is None else self.linear_out(x).relu_()), hidden


class Convolution(nn.Module):
    """A convolution over frames and bins, as a product of a matrix with what lies in its windows.

    `kernel` is frames by bins. Nothing is added to frames: the caller gives the past. `stride` halves the bins at 2;
    `doubles` makes it a transposed one, which doubles them: two bins become the two between them.
    """

    def __init__(self, kernel: tuple[int, int], stride: int = 1, doubles: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.doubles = kernel, stride, doubles

    def _fold(self, weight: Tensor, bias: Tensor) -> None:
        """Take `weight [inputs, outputs, frames, bins]` and `bias [outputs]`."""
        self.n_out = len(bias)
        if self.doubles:  # bins j and j + 1 give 2 j by the weight in the middle, and 2 j + 1 by both others
            weight = rearrange(F.pad(weight, (1, 0)), "i o a (b two) -> i two o a b", two=2).flip(-1)
            weight, bias = weight.flatten(1, 2), bias.repeat(2)
        self.n_bins = weight.shape[-1]
        self.matrix, self.summand = rearrange(weight, "i o a b -> (a b i) o").contiguous(), bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return `[r, t, f, c]` of `[r, t and what lies before, f, c]`."""
        n_frames, n_bins = self.kernel
        x = F.pad(x, (0, 0, 0, 1) if self.doubles else (0, 0, n_bins // 2, n_bins // 2))
        windows = x.unfold(1, n_frames, 1).unfold(2, self.n_bins, self.stride).permute(0, 1, 2, 4, 5, 3)
        products = torch.addmm(self.summand, windows.reshape(-1, len(self.matrix)), self.matrix)
        return products.view(*windows.shape[:2], -1, self.n_out)


class Full(Convolution):
    """A convolution of all channels."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int]) -> None:
        super().__init__(kernel)
        self.weight, self.bias = nn.Parameter(torch.empty(n_out, n_in, *kernel)), nn.Parameter(torch.empty(n_out))

    @torch.no_grad()
    def fold(self) -> None:
        """Prepare `forward`."""
        self._fold(self.weight.transpose(0, 1), self.bias)


class Separable(Convolution):
    """A convolution in groups of channels, then one over channels alone, computed as one; with ReLU."""

    def __init__(
        self, n_in: int, n_out: int, kernel: tuple[int, int], n_groups: int, stride: int = 1, doubles: bool = False
    ) -> None:
        super().__init__(kernel, stride, doubles)
        kind = nn.ConvTranspose2d if doubles else nn.Conv2d
        self.depth = kind(n_in, n_out, kernel, groups=n_groups, bias=False)
        self.point = nn.Conv2d(n_out, n_out, 1)

    @torch.no_grad()
    def fold(self) -> None:
        """Prepare `forward`."""
        n_groups, axes = self.depth.groups, "(g i) o a b" if self.doubles else "(g o) i a b"
        depth = rearrange(self.depth.weight, f"{axes} -> g i o a b", g=n_groups)
        point = rearrange(self.point.weight, "p (g o) 1 1 -> g o p", g=n_groups)
        self._fold(
            einsum(depth, point, "g i o a b, g o p -> g i p a b").flatten(0, 1), self.point.get_parameter("bias")
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `[r, t, f, c]` of `[r, t and what lies before, f, c]`."""
        return super().forward(x).relu_()


class Paths(Separable):
    """A convolution over frames alone, which keeps what a frame gives to later ones in place of the frame."""

    @torch.no_grad()
    def fold(self) -> None:
        """Prepare `forward`."""
        super().fold()
        self.matrix = rearrange(self.matrix, "(a i) o -> i (a o)", a=self.kernel[0]).contiguous()

    def after(self, x: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return `[r, t, f, o]` of `x [r, t, f, c]` and the shares of the frames before, `[r, 4, f, 5, o]`, and those of the last."""
        n_frames = self.kernel[0]
        new = (x.flatten(0, 2) @ self.matrix).view(*x.shape[:3], n_frames, self.n_out)
        shares = torch.cat([shares, new], dim=1)
        summed = shares.unfold(1, n_frames, 1).diagonal(0, 3, 5).sum(dim=-1)
        return summed.add_(self.summand).relu_(), shares[:, 1 - n_frames :]


class Scale(nn.Module):
    """A factor and a summand for each channel, with ReLU."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.empty(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[r, t, f, c]` of the same."""
        return torch.addcmul(self.bias, x, self.weight[:, 0, 0, 0]).relu_()


class Encoder(nn.Module):
    """Features of bands and bins to one embedding a frame, and what the decoders take from its layers."""

    def __init__(self) -> None:
        super().__init__()
        c = _CONV_CHANNELS
        self.erb_conv0 = Full(1, c, (3, 3))
        self.erb_conv1 = Separable(c, c, (1, 3), c, stride=2)
        self.erb_conv2 = Separable(c, c, (1, 3), c, stride=2)
        self.erb_conv3 = Separable(c, c, (1, 3), c)
        self.df_conv0 = Separable(2, c, (3, 3), 2)
        self.df_conv1 = Separable(c, c, (1, 3), c, stride=2)
        self.df_fc_emb = GroupedLinear(c * N_FILTERED_BINS // 2, _EMBEDDING, 32)
        self.emb_gru = GroupedGru(1, _EMBEDDING)

    def forward(self, bands: Tensor, bins: Tensor, hidden: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Return four layers over bands, one over bins, the embedding `[r, t, 512]`, and the hidden state."""
        e0 = self.erb_conv0(bands[..., None]).relu_()
        e1 = self.erb_conv1(e0)
        e2 = self.erb_conv2(e1)
        e3 = self.erb_conv3(e2)
        c0 = self.df_conv0(bins)
        from_bins = self.df_fc_emb(self.df_conv1(c0).flatten(2)).relu_()
        embedding, hidden = self.emb_gru(e3.flatten(2) + from_bins, hidden)
        return [e0, e1, e2, e3], c0, embedding, hidden


class GainDecoder(nn.Module):
    """The embedding to a gain from 0 to 1 for each band."""

    def __init__(self) -> None:
        super().__init__()
        c = _CONV_CHANNELS
        self.emb_gru = GroupedGru(2, _EMBEDDING)
        self.conv3p, self.conv2p, self.conv1p, self.conv0p = (Scale(c) for _ in range(4))
        self.convt3 = Separable(c, c, (1, 3), c)
        self.convt2 = Separable(c, c, (1, 3), c, doubles=True)
        self.convt1 = Separable(c, c, (1, 3), c, doubles=True)
        self.conv0_out = Full(c, 1, (1, 3))

    def forward(self, embedding: Tensor, layers: list[Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains `[r, t, 32]` and the hidden state."""
        e0, e1, e2, e3 = layers
        x, hidden = self.emb_gru(embedding, hidden)
        x = self.convt3(self.conv3p(e3) + x.view_as(e3))
        x = self.convt2(self.conv2p(e2) + x)
        x = self.convt1(self.conv1p(e1) + x)
        x = self.conv0_out(self.conv0p(e0) + x)
        return x[..., 0].sigmoid(), hidden


class FilterDecoder(nn.Module):
    """The embedding to a complex filter over five frames for each of the lowest bins."""

    def __init__(self) -> None:
        super().__init__()
        self.df_gru = GroupedGru(2, n_groups=8)
        self.df_skip = GroupedLinear(_EMBEDDING, _HIDDEN, 16)
        self.df_convp = Paths(_CONV_CHANNELS, _N_VALUES, (FILTER_FRAMES, 1), 2)
        self.df_out = GroupedLinear(_HIDDEN, N_FILTERED_BINS * _N_VALUES, 16)

    def forward(self, embedding: Tensor, paths: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return complex coefficients `[r, t, 96, 5]`, the oldest frame first, and the hidden state.

        paths: what `df_convp` gives, `[r, t, 96, 10]`.
        """
        x, hidden = self.df_gru(embedding, hidden)
        values = self.df_out(x + self.df_skip(embedding)).tanh_().view_as(paths) + paths
        return torch.view_as_complex(values.unflatten(-1, (FILTER_FRAMES, 2))), hidden


class DeepFilterNet(nn.Module):
    """Encoder and both decoders."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = Encoder()
        self.erb_dec = GainDecoder()
        self.df_dec = FilterDecoder()

    def fold(self) -> None:
        """Prepare `forward` for the parameters as they are now."""
        for module in self.modules():
            if isinstance(module, Full | Separable | Gru):
                module.fold()

    def forward(self, bands: Tensor, bins: Tensor, state: NetworkState) -> tuple[Tensor, Tensor, NetworkState]:
        """Return gains `[r, t, 32]`, complex filters `[r, t, 96, 5]` and the state after these frames.

        Args:
            bands: Levels in bands, `[r, t, 32]`.
            bins: The lowest bins, complex, `[r, t, 96]`.
            state: What the frames before left.
        """
        seen_bands = torch.cat([state.bands, bands], dim=1)
        seen_bins = torch.cat([state.bins, torch.view_as_real(bins)], dim=1)
        layers, c0, embedding, encoder = self.enc(seen_bands, seen_bins, state.encoder)
        paths, shares = self.df_dec.df_convp.after(c0, state.paths)
        gains, gain_hidden = self.erb_dec(embedding, layers, state.gains)
        filters, filter_hidden = self.df_dec(embedding, paths, state.filters)
        after = NetworkState(
            bands=seen_bands[:, -2:],
            bins=seen_bins[:, -2:],
            paths=shares,
            encoder=encoder,
            gains=gain_hidden,
            filters=filter_hidden,
        )
        return gains, filters, after
