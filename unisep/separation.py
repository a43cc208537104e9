"""What a separation gives back: the targets, the rest, and how they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from unisep import files
from unisep.audio import Audio
from unisep.errors import AudioError, OptionError
from unisep.formats import AudioFileInfo, find_format
from unisep.naming import check_recordings_stay
from unisep.plan import Plan
from unisep.tags import read_tags
from unisep.targets import Presence, Targets

Samples = NDArray[np.float32]


@final
class Separation(Targets[Audio]):
    """An ordered, read-only mapping of names to `Audio`: the targets, at the input's rate, channels and length.

    target: the first of them. rest: the mixture minus their sum, so that all sum back to the mixture
    to float32 rounding. presence: how surely each sound is there at all, 0 to 1, or None where the
    backend does not say; presence_over_time: the same for each segment, in order. plan: who answered each name
    and why.

    A mapping of names to `Audio` is all it needs; then `rest` is silent.

    Raises:
        AudioError: no audio, or audio of different rates, channels or lengths.
    """

    def __init__(
        self,
        targets: Mapping[str, Audio],
        *,
        rest: Audio | None = None,
        presence_over_time: Mapping[str, Sequence[Presence]] | None = None,
        plan: Plan | None = None,
        source_name: str = "audio",
        source_info: AudioFileInfo | None = None,
        source_path: Path | None = None,
    ) -> None:
        super().__init__(targets, presence_over_time or {}, plan or Plan({}))
        self._rest = rest
        given = [*self._targets.values(), *([] if rest is None else [rest])]
        if not all(isinstance(audio, Audio) for audio in given):
            raise AudioError(
                "A separation is made of Audio. Give Audio(samples, sample_rate_hz) for each target."
            )
        if not self._targets or len({(audio.samples.shape, audio.sample_rate_hz) for audio in given}) != 1:
            raise AudioError(
                "A Separation needs at least one target, and all of the same rate, channels and length."
            )
        self.source_name = source_name
        self.source_info = source_info
        self.source_path = source_path

    def __repr__(self) -> str:
        return f"Separation({', '.join(self)}; {self.target})"

    @property
    def rest(self) -> Audio:
        """The mixture minus the sum of the targets."""
        if self._rest is None:
            return Audio(np.zeros_like(self.target.samples), self.target.sample_rate_hz)
        return self._rest

    def save(
        self,
        folder: str | Path,
        *,
        format: str | None = None,
        subtype: str | None = None,
        bitrate_kbps: int | None = None,
        tags: bool = True,
    ) -> files.WriteReport:
        """The files written: each target and, where there is one, the rest, in `folder`/<input's name>/.

        format: the input's unless given; flac for a lossy input, wav (float) for arrays.
        subtype: how samples are stored, such as "PCM_24"; the input's where the format holds it.
        bitrate_kbps: for lossy formats.
        tags: carry over the tags and pictures of the input file, if mutagen is installed.

        If any file of an integer format would clip, one common gain below 1 is used for all and
        reported in `gain`. All files are written or none.

        Raises:
            AudioFileError: a format that is unknown or cannot hold the rate, or a full disk.
            OptionError: a file would replace the recording itself.
        """
        known = find_format(Path(), files.default_format(self.source_info) if format is None else format)
        subtype = files.default_subtype(known.name, self.source_info) if subtype is None else subtype
        audio = dict(self) if self._rest is None else {**self, "rest": self._rest}
        place = Path(folder) / files.safe_name(self.source_name)
        names = zip(audio, files.safe_names(audio), strict=True)
        paths = {name: place / f"{file}.{known.name}" for name, file in names}
        if self.source_path is not None:
            check_recordings_stay(paths, self.source_path)
        return files.write_all(
            {path: audio[name] for name, path in paths.items()},
            format=known.name,
            subtype=subtype,
            bitrate_kbps=bitrate_kbps,
            tags=read_tags(self.source_path) if tags and self.source_path is not None else None,
        )

    def plot(self, path: str | Path) -> Path:
        """The picture written: spectrograms of mixture, targets and rest on one scale of decibels.

        Raises:
            OptionError: matplotlib is not installed, or the suffix is no picture format.
        """
        try:
            from unisep.picture import draw
        except ImportError as error:
            raise OptionError(
                'plot() needs matplotlib, which is not installed. Run: pip install "unisep[plot]"'
            ) from error
        mixture = total([*self.values(), self.rest])
        return draw({"mixture": mixture, **self, "rest": self.rest}, Path(path))


def total(parts: list[Audio]) -> Audio:
    """The sum of `parts`, added in float64 and rounded once."""
    return Audio(_sum(parts).astype(np.float32), parts[0].sample_rate_hz)


def difference(mixture: Samples, parts: Iterable[Samples]) -> Samples:
    """`mixture` minus the sum of the parts of its shape, computed in float64 and rounded once to float32."""
    left = mixture.astype(np.float64)
    for part in parts:
        left -= part
    return left.astype(np.float32)


def _sum(parts: list[Audio]) -> NDArray[np.float64]:
    result = parts[0].samples.astype(np.float64)
    for part in parts[1:]:
        result += part.samples
    return result
