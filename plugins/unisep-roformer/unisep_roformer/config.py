"""The options of a RoFormer checkpoint, named as the community's YAML files name them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from .described import ModelConfig

# Bands in bins of a 2048-point spectrogram, as in the paper's table for vocals (arXiv:2309.02612, section 3.1).
STANDARD_BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)

# From 1 to what makes sense: a damaged file must not make us build a giant.
_Few = Annotated[int, Field(strict=True, ge=1, le=256)]
_Many = Annotated[int, Field(strict=True, ge=1, le=1 << 15)]


class RoformerConfig(ModelConfig):
    """The shape of one model; names and defaults are those of the published checkpoints.

    `freqs_per_bands` are widths of adjoining bands in bins (Band-Split), empty for Mel-Band. `num_bands` is the number
    of overlapping bands on the mel scale (Mel-Band), 0 for Band-Split.

    >>> RoformerConfig(dim=64, depth=2, stereo=True, num_bands=60).kind
    'mel-band'
    """

    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            "flash_attn", "sage_attention", "attn_dropout", "ff_dropout", "dim_freqs_in", "match_input_audio_length",
            "use_torch_checkpoint", "multi_stft_resolution_loss_weight", "multi_stft_resolutions_window_sizes",
            "multi_stft_hop_size", "multi_stft_normalized", "linear_flash_attn",
        }
    )  # fmt: skip
    loaded: ClassVar[str] = "Loaded are plain Band-Split and Mel-Band RoFormers; use a checkpoint of those."

    dim: _Many
    depth: _Few
    stereo: bool = False
    num_stems: _Few = 1
    time_transformer_depth: _Few = 2
    freq_transformer_depth: _Few = 2
    freqs_per_bands: tuple[_Many, ...] = ()
    num_bands: Annotated[int, Field(strict=True, ge=0, le=512)] = 0
    sample_rate: Annotated[int, Field(ge=1000, le=1 << 20)] = 44_100
    dim_head: _Many = 64
    heads: _Few = 8
    stft_n_fft: _Many = 2048
    stft_hop_length: _Many = 512
    stft_win_length: _Many = 2048
    stft_normalized: bool = False
    zero_dc: bool = True
    mask_estimator_depth: Annotated[int, Field(strict=True, ge=0, le=8)] = 0
    mlp_expansion_factor: _Few = 4
    skip_connection: bool = False

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        """Fill in what the two kinds default differently; a file without any band option is Band-Split."""
        if not isinstance(values, dict):
            return values
        is_mel = bool(values.get("num_bands"))
        defaults: dict[str, Any] = {"mask_estimator_depth": 1 if is_mel else 2}
        if not is_mel and not values.get("freqs_per_bands"):
            defaults["freqs_per_bands"] = STANDARD_BANDS
        return {**defaults, **{key: value for key, value in values.items() if value is not None}}

    @model_validator(mode="after")
    def _consistent(self) -> RoformerConfig:
        if self.num_bands and self.freqs_per_bands:
            raise ValueError("freqs_per_bands (Band-Split) and num_bands (Mel-Band) exclude each other")
        if self.freqs_per_bands and sum(self.freqs_per_bands) != self.n_bins:
            raise ValueError(
                f"freqs_per_bands sum up to {sum(self.freqs_per_bands)}, the spectrogram has {self.n_bins} bins"
            )
        if self.dim_head % 2:
            raise ValueError("dim_head must be even: positions turn pairs of values")
        if not 2 * self.stft_hop_length <= self.stft_win_length <= self.stft_n_fft or self.stft_n_fft % 2:
            raise ValueError(
                "stft_hop_length must be at most half of stft_win_length, and that at most an even stft_n_fft"
            )
        if self.mask_estimator_depth < (0 if self.num_bands else 1):
            raise ValueError("mask_estimator_depth must be 1 or more")
        return self

    @property
    def kind(self) -> Literal["band-split", "mel-band"]:
        """The family that the model is of."""
        return "mel-band" if self.num_bands else "band-split"

    @property
    def n_bins(self) -> int:
        """Frequencies of the spectrogram, from 0 to half the sample rate."""
        return self.stft_n_fft // 2 + 1

    @property
    def n_channels(self) -> int:
        """Channels of the mixture and of each source."""
        return 2 if self.stereo else 1

    @property
    def n_outputs(self) -> int:
        """Sources that the network gives."""
        return self.num_stems

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.stft_hop_length

    @property
    def default_rate_hz(self) -> int:
        """The rate of a model whose file does not say it."""
        return self.sample_rate

    @property
    def n_hidden_layers(self) -> int:
        """Hidden layers in each mask's network; the two families count them differently."""
        return self.mask_estimator_depth if self.num_bands else self.mask_estimator_depth - 1
