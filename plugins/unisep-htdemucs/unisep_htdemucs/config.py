"""The options of an HT Demucs model, named as the published checkpoints name them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from unisep.errors import OptionError, WeightsError

# The largest values that make sense; a damaged or hostile file must not make us build a giant.
_LARGEST: dict[str, int] = {
    "channels": 4096, "nfft": 1 << 16, "depth": 8, "kernel_size": 64, "stride": 32, "context": 16,
    "context_enc": 16, "norm_starts": 64, "norm_groups": 4096, "dconv_depth": 16, "bottom_channels": 1 << 14,
    "t_layers": 64, "t_heads": 256, "samplerate": 1 << 20,
}  # fmt: skip

# Options that every released checkpoint leaves at one value (those of other programs too, as far as known); this
# implementation has only that value.
_FIXED: dict[str, tuple[Any, ...]] = {
    "wiener_iters": (0,),
    "end_iters": (0,),
    "wiener_residual": (False,),
    "cac": (True,),
    "rewrite": (True,),
    "multi_freqs": (None, [], ()),
    "t_emb": ("sin",),
    "t_norm_in": (True,),
    "t_group_norm": (False, 0),
    "t_norm_first": (True,),
    "t_norm_out": (True, 1),
    "t_gelu": (True,),
    "t_sin_random_shift": (0,),
    "num_subbands": (1,),
}

# Options that change nothing once the fixed ones above hold, or that only steer an optimiser.
_WITHOUT_EFFECT = frozenset(
    {
        "multi_freqs_depth", "time_stride", "t_max_positions", "t_norm_in_group", "t_weight_decay", "t_lr",
        "t_cape_mean_normalize", "t_cape_augment", "t_cape_glob_loc_scale", "t_mask_type",
        "t_sparse_attn_window", "t_global_window",
    }
)  # fmt: skip


_MAY_BE_ZERO = frozenset({"context", "context_enc", "norm_starts", "bottom_channels", "t_layers"})


@dataclass(frozen=True)
class HTDemucsConfig:
    """The shape of one HT Demucs model; names and defaults are those of the published checkpoints.

    Only `t_layer_scale_init` is ours: the published models start their transformer's LayerScale at 1e-4, a model
    trained from nothing in a short time wants 1.0. Sparse attention (`t_sparse_self_attn`, `t_sparse_cross_attn`)
    wants `t_auto_sparsity`: a hash with the seed `t_mask_random_seed` leaves out the part `t_sparsity` of the pairs.

    >>> HTDemucsConfig(sources=("drums", "rest"), channels=16, depth=3).encoder_channels
    (16, 32, 64)
    """

    sources: tuple[str, ...]
    audio_channels: int = 2
    channels: int = 48
    channels_time: int | None = None
    growth: float = 2
    nfft: int = 4096
    depth: int = 4
    freq_emb: float = 0.2
    emb_scale: float = 10
    emb_smooth: bool = True
    kernel_size: int = 8
    stride: int = 4
    context: int = 1
    context_enc: int = 0
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: float = 8
    dconv_init: float = 1e-3
    bottom_channels: int = 0
    t_layers: int = 5
    t_hidden_scale: float = 4.0
    t_heads: int = 8
    t_dropout: float = 0.0
    t_max_period: float = 10000.0
    t_layer_scale: bool = True
    t_layer_scale_init: float = 1e-4
    t_weight_pos_embed: float = 1.0
    t_cross_first: bool = False
    t_sparse_self_attn: bool = False
    t_sparse_cross_attn: bool = False
    t_mask_random_seed: int = 42
    t_auto_sparsity: bool = False
    t_sparsity: float = 0.95
    rescale: float = 0.1
    samplerate: int = 44100
    segment: Fraction | float = 10
    use_train_segment: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        self._check_numbers()
        self._check_frequency_axis()
        self._check_transformer()

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> HTDemucsConfig:
        """Make a config from the keyword arguments that a published checkpoint carries.

        Missing names take the defaults of demucs 4.1.0; names it does not know are dropped with a warning, as it does.

        Raises:
            WeightsError: An option is set to what this implementation lacks, or no model can have it.
        """
        known = {field.name for field in dataclasses.fields(cls)} - {"t_layer_scale_init"}
        for name, allowed in _FIXED.items():
            if name in kwargs and not any(kwargs[name] == value for value in allowed):
                raise WeightsError(
                    f"The checkpoint asks for {name}={kwargs[name]!r}; this HT Demucs has only "
                    f"{name}={allowed[0]!r}, the value of all released models. Use a released checkpoint."
                )
        unknown = sorted(set(kwargs) - known - set(_FIXED) - _WITHOUT_EFFECT)
        if unknown:
            warnings.warn(f"Options no HT Demucs knows were dropped: {', '.join(unknown)}.", stacklevel=2)
        if "sources" not in kwargs:
            raise WeightsError("The checkpoint does not name its sources, so it is no HT Demucs model.")
        try:
            return cls(**{name: value for name, value in kwargs.items() if name in known})
        except (TypeError, ValueError, ArithmeticError) as error:
            raise WeightsError(f"The checkpoint's options make no model: {error}") from error

    @property
    def encoder_channels(self) -> tuple[int, ...]:
        """Output channels of each encoder layer, outermost first; both branches have the same."""
        channels = [self.channels]
        for _ in range(self.depth - 1):
            channels.append(int(self.growth * channels[-1]))
        return tuple(channels)

    @property
    def transformer_channels(self) -> int:
        """Width of the tokens of the cross-transformer."""
        return self.bottom_channels or self.encoder_channels[-1]

    @property
    def self_sparsity(self) -> float:
        """Part of the pairs that self-attention leaves out."""
        return self.t_sparsity if self.t_sparse_self_attn else 0.0

    @property
    def cross_sparsity(self) -> float:
        """Part of the pairs that cross-attention leaves out."""
        return self.t_sparsity if self.t_sparse_cross_attn else 0.0

    @property
    def hop_samples(self) -> int:
        """Samples between two spectrogram frames: a quarter of the window."""
        return self.nfft // 4

    @property
    def segment_samples(self) -> int:
        """Samples of one training segment."""
        return int(self.segment * self.samplerate)

    def _check_numbers(self) -> None:
        names = self.sources
        if not 0 < len(names) <= 64 or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
            raise OptionError(f"sources must be 1 to 64 different names, not {names!r:.200}.")
        if self.audio_channels not in (1, 2):
            raise OptionError(f"audio_channels must be 1 or 2, not {self.audio_channels!r}.")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            least = -largest if name == "dconv_depth" else int(name not in _MAY_BE_ZERO)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
                raise OptionError(f"{name}={value!r} is not a whole number from {least} to {largest}.")
        for name in ("growth", "dconv_comp", "t_hidden_scale", "t_max_period", "segment", "emb_scale"):
            if not 0 < getattr(self, name) < 1e6:
                raise OptionError(f"{name}={getattr(self, name)!r} is not a number above 0 and below a million.")
        for name in ("freq_emb", "t_dropout", "rescale"):
            if not 0 <= getattr(self, name) < 1e6:
                raise OptionError(f"{name}={getattr(self, name)!r} is not a number from 0 to a million.")
        if self.channels_time not in (None, self.channels):
            raise OptionError(
                f"channels_time={self.channels_time!r} differs from channels={self.channels!r}; "
                "the cross-transformer needs both branches equally wide. Leave channels_time out."
            )
        if self.dconv_mode not in (0, 1, 2, 3):
            raise OptionError(f"dconv_mode must be 0 (none) to 3 (everywhere), not {self.dconv_mode!r}.")

    def _check_frequency_axis(self) -> None:
        if self.kernel_size != 2 * self.stride or self.kernel_size % 4:
            raise OptionError(
                f"kernel_size={self.kernel_size} with stride={self.stride} does not tile the frequencies; "
                "the kernel must be twice the stride and a multiple of 4 (released: 8 and 4)."
            )
        n_freqs = self.nfft // 2
        for index in range(self.depth):
            if self.nfft % 8 or n_freqs % self.stride or n_freqs <= self.kernel_size:
                raise OptionError(
                    f"nfft={self.nfft} leaves {n_freqs} frequencies to layer {index}, which needs a multiple "
                    f"of {self.stride} above {self.kernel_size}. Lower depth={self.depth} or raise nfft."
                )
            n_freqs //= self.stride

    def _check_transformer(self) -> None:
        width = self.transformer_channels
        if self.t_layers and (width % self.t_heads or width % 4 or width < 8):
            raise OptionError(
                f"A cross-transformer {width} channels wide cannot have t_heads={self.t_heads}: "
                "the width must be a multiple of t_heads and of 4, and at least 8."
            )
        if not 0 <= self.t_sparsity < 1:
            raise OptionError(
                f"t_sparsity={self.t_sparsity!r} is the part of pairs that sparse attention leaves out: 0 to below 1."
            )
        seed = self.t_mask_random_seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise OptionError(f"t_mask_random_seed={seed!r} is not a whole number from 0 to 2^63 - 1.")
        if (self.t_sparse_self_attn or self.t_sparse_cross_attn) and not self.t_auto_sparsity:
            raise OptionError(
                "Sparse attention with t_auto_sparsity=False means a fixed mask (t_mask_type), which this HT Demucs "
                "does not have. Set t_auto_sparsity=True: a hash then chooses the pairs, t_sparsity of them left out."
            )
