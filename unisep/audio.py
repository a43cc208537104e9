"""Audio: samples with their sample rate, the value that travels at the user's edge."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unisep.errors import AudioError, QueryError, arg

MAX_CHANNELS = 2
MIN_SAMPLE_RATE_HZ = 1_000
MAX_SAMPLE_RATE_HZ = 768_000
ENDLESS = 2**62  # where a recording ends, as long as nobody knows

Samples = NDArray[np.float32]


class _Tensor(Protocol):
    """A torch tensor, on any device."""

    def detach(self) -> Any: ...
    def cpu(self) -> Any: ...


Array = NDArray[Any] | _Tensor
Nested = Sequence[float | Sequence[float] | NDArray[Any]] | np.floating[Any]  # NumPy's name for what np.sum gives
SamplesLike = Array | Nested


@dataclass(frozen=True, eq=False, init=False)
class Audio:
    """Samples with their sample rate.

    Made of a NumPy array, a torch tensor or a nested sequence shaped `[channels, samples]` or `[samples]`, of one or two
    channels; integers are scaled to full scale 1.0. Values beyond 1.0 are kept as they are. A float32 array is not copied.

    Attributes:
        samples: `[channels, samples]`, float32 with full scale at 1.0.
        sample_rate_hz: a whole number from 1,000 to 768,000.

    Raises:
        AudioError: empty, not finite, three or more channels, `[samples, channels]`, or another rate.

    >>> clip = Audio(np.zeros((2, 44100)), 44100)
    >>> clip.n_channels, clip.seconds
    (2, 1.0)
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int

    def __init__(self, samples: SamplesLike, sample_rate_hz: float) -> None:
        object.__setattr__(self, "samples", as_samples(samples))
        object.__setattr__(self, "sample_rate_hz", checked_rate(sample_rate_hz))

    @property
    def n_channels(self) -> int:
        """Number of channels, 1 or 2."""
        return int(self.samples.shape[0])

    @property
    def n_samples(self) -> int:
        """Length in samples, per channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate_hz

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.samples, dtype=dtype) if copy else np.asarray(self.samples, dtype=dtype)

    def save(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        subtype: str | None = None,
        bitrate_kbps: int | None = None,
    ) -> Path:
        """Write one file, whole or not at all, and return its path; folders are made as needed.

        The format is that of the suffix unless given, the rest as in `Separation.save`. Where an integer format would
        clip, the audio is scaled to fit, and the log says so. Raises AudioFileError as `Separation.save` does.
        """
        from unisep.files.writing import write

        return write(path, self, format=format, subtype=subtype, bitrate_kbps=bitrate_kbps)

    def __repr__(self) -> str:
        return f"Audio({'mono' if self.n_channels == 1 else 'stereo'}, {self.seconds:.3f} s, {self.sample_rate_hz} Hz)"

    def _repr_html_(self) -> str:
        from unisep.notebook import player

        return f"{self!r}<br>{player(self.samples, self.sample_rate_hz)}"


Clip = os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Array | Audio
AudioLike = str | Clip | Nested
"""What a recording may be given as: a path, the bytes or the file object of a file, an `Audio`, or an array."""


def as_samples(values: Any) -> NDArray[np.float32]:
    """Check whatever array the caller holds and return it as float32 samples `[channels, samples]`."""
    array = _as_array(values)
    if array.ndim == 1:
        array = array[None, :]
    _check_shape(array)
    scaled = _as_float32(array)
    if not np.isfinite(scaled).all():
        channel, where = np.argwhere(~np.isfinite(scaled))[0].tolist()
        if np.isfinite(value := array[channel, where]):
            raise AudioError(
                f"The level is too high: {abs(value):.3g} at sample {where}; full scale is 1.0. Divide by the peak."
            )
        raise AudioError(
            f"The audio holds NaN or infinity, first at sample {where}. Repair or cut the recording there."
        )
    return scaled


def checked_rate(sample_rate_hz: Any) -> int:
    """Return the rate as an int. Raise AudioError when it is no plausible whole number of hertz."""
    try:
        rate_hz = int(sample_rate_hz)
        whole = rate_hz == sample_rate_hz
    except (TypeError, ValueError, OverflowError):
        whole, rate_hz = False, 0
    if not whole or isinstance(sample_rate_hz, bool) or not MIN_SAMPLE_RATE_HZ <= rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise AudioError(
            f"{arg('sample_rate_hz', sample_rate_hz)} is not usable: give a whole number of hertz "
            f"from {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}, such as 44100."
        )
    return rate_hz


def span_samples(
    seconds: tuple[float, float], sample_rate_hz: int, n_samples: int | None, field: str
) -> tuple[int, int]:
    """Convert a range in seconds to its first sample and the one after its last, cut at the end of the audio.

    Args:
        seconds: start and end.
        sample_rate_hz: of the audio.
        n_samples: length of the audio; None while it goes on.
        field: the name of the range, for the message.

    Raises:
        QueryError: the range holds no sample of the audio.
    """
    first, last = (round(min(second * sample_rate_hz, ENDLESS)) for second in seconds)
    last = last if n_samples is None else min(last, n_samples)
    if last <= first:
        length = "" if n_samples is None else f", which is {n_samples / sample_rate_hz:.3f} s long"
        raise QueryError(f"{arg(field, seconds)} holds none of the audio{length}. Give a start and an end within it.")
    return first, last


def _as_array(values: Any) -> NDArray[Any]:
    detach = getattr(values, "detach", None)
    try:
        if callable(detach):
            tensor = detach().cpu()
            values = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of device meta has no numbers
        raise AudioError(f"Cannot read {type(values).__name__} as an array of samples: {error}") from error
    if array.dtype.kind not in "fiub":
        raise AudioError(f"Samples must be real numbers, not {array.dtype}. Give an array [channels, samples].")
    return array


def _check_shape(array: NDArray[Any]) -> None:
    if array.ndim != 2:
        raise AudioError(f"Samples are [channels, samples] or [samples]; got {array.ndim} dimensions {array.shape}.")
    n_channels, n_samples = array.shape
    if n_channels == 0 or n_samples == 0:
        raise AudioError(f"The audio is empty: shape {array.shape} is [channels, samples].")
    if n_channels > MAX_CHANNELS and n_samples <= MAX_CHANNELS:
        raise AudioError(
            f"Shape {array.shape} looks like [samples, channels]; unisep takes [channels, samples]. Pass array.T."
        )
    if n_channels > MAX_CHANNELS:
        raise AudioError(
            f"{n_channels} channels are not supported, only mono and stereo. Pass a downmix, or each pair by itself."
        )


def _as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    kind, n_bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "b":
        raise AudioError("Boolean samples are no audio. Give floats with full scale 1.0, or integers.")
    if kind == "i":
        return (array / 2.0 ** (n_bits - 1)).astype(np.float32)
    if kind == "u":
        return (array / 2.0 ** (n_bits - 1) - 1.0).astype(np.float32)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def difference(mixture: Samples, parts: Iterable[Samples]) -> Samples:
    """Return `mixture` minus the sum of the parts of its shape, computed in float64 and rounded once to float32."""
    left = mixture.astype(np.float64)
    for part in parts:
        left -= part
    return left.astype(np.float32)
