"""The results: targets in memory or on disk, what is left of the mixture, presence and plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, final

import numpy as np

from unisep import files
from unisep.audio import Audio
from unisep.engine.recording import Layout
from unisep.engine.timeline import Presence
from unisep.errors import AudioError, OptionError, TargetError, suggest
from unisep.files.formats import AudioFileInfo, Encoding, find_format
from unisep.files.paths import check_recordings_stay
from unisep.files.tags import read_tags
from unisep.routing.types import Plan

NEGLIGIBLE = 2.0**-20  # of the loudest stem: -120 dB

TargetT = TypeVar("TargetT")


class Targets(Mapping[str, TargetT]):
    """An ordered, read-only mapping of names to targets, with what is known of each.

    `plan` says who answered each name, and why.
    """

    def __init__(
        self, targets: Mapping[str, TargetT], presence_over_time: Mapping[str, Sequence[Presence]], plan: Plan
    ) -> None:
        self._targets = dict(targets)
        self._presence = {name: tuple(presence_over_time.get(name, ())) for name in self._targets}
        self.plan = plan

    @property
    def presence_over_time(self) -> Mapping[str, tuple[Presence, ...]]:
        """How surely each sound is there, segment by segment, in order; empty where the backend does not say."""
        return MappingProxyType(self._presence)

    @property
    def presence(self) -> Mapping[str, float | None]:
        """How surely each sound is there at all, the surest of its segments, or None."""
        return MappingProxyType(
            {name: max((p.presence for p in some), default=None) for name, some in self._presence.items()}
        )

    def __getitem__(self, name: str) -> TargetT:
        if name not in self._targets:
            raise TargetError(f"No target named {name!r}. {suggest(name, self._targets)} `.rest` is the rest.")
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def target(self) -> TargetT:
        """The first target."""
        return next(iter(self._targets.values()))


@final
class Separation(Targets[Audio]):
    """Targets as `Audio`, at the input's rate, channels and length; `rest` is the mixture minus their sum.

    All sum back to the mixture to float32 rounding. A mapping of names to `Audio` is all that is needed to make one; then
    `rest` is silent.
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
        """Check that all are of one rate, channels and length. Raise AudioError otherwise."""
        super().__init__(targets, presence_over_time or {}, plan or Plan({}))
        self._rest = rest
        parts = [*self._targets.values(), *([] if rest is None else [rest])]
        if not all(isinstance(audio, Audio) for audio in parts):
            raise AudioError("A separation is made of Audio. Give Audio(samples, sample_rate_hz) for each target.")
        if not self._targets or len({(audio.samples.shape, audio.sample_rate_hz) for audio in parts}) != 1:
            raise AudioError("A Separation needs at least one target, and all of the same rate, channels and length.")
        self.source_name = source_name
        self.source_info = source_info
        self.source_path = source_path

    def __repr__(self) -> str:
        presence = {name: "" if value is None else f" (presence {value:.2f})" for name, value in self.presence.items()}
        return f"Separation({', '.join(f'{name!r}{presence[name]}' for name in self)}: {self.target})"

    def _repr_html_(self) -> str:
        from unisep.notebook import table

        rows = []
        for name, audio in self._parts().items():
            choice, presence = self.plan.get(name), self.presence.get(name)
            encoder = f" with {choice.encoder}" if choice and choice.encoder else ""
            answer = f"{choice.backend}{encoder}. {choice.reason}" if choice else ""
            rows.append((name, "" if presence is None else f"{presence:.2f}", answer, audio.samples))
        return table(self.source_name, self.target.sample_rate_hz, rows)

    def _parts(self) -> dict[str, Audio]:
        """Return the targets, and the rest where there is one."""
        return dict(self) if self._rest is None else {**self, "rest": self._rest}

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
        headroom_db: float = 0.0,
        tags: bool = True,
    ) -> files.WriteReport:
        """Write each target and, where there is one, the rest, to `folder`/<input's name>/; all files or none.

        If any file of an integer format would clip, one common gain below 1 is used for all and reported in `gain`. Beside
        all stems of a backend, a rest of less than -120 dB of their peak is not written: it is what rounding leaves.

        Args:
            folder: made if it is not there.
            format: the input's unless given; flac for a lossy input, wav (float) for arrays.
            subtype: how samples are stored, such as "PCM_24"; the input's where the format holds it.
            bitrate_kbps: for lossy formats.
            headroom_db: how much lower all files are written, so that those of several calls line up.
            tags: carry over the tags and pictures of the input file, if mutagen is installed.

        Raises:
            AudioFileError: a format that is unknown or cannot hold the rate, or a full disk.
            OptionError: a file would replace the recording itself.
        """
        known = find_format(Path(), files.default_format(self.source_info) if format is None else format)
        subtype = files.default_subtype(known.name, self.source_info) if subtype is None else subtype
        audio = self._parts()
        if leaves_nothing(self.plan, {name: files.peak_of(part.samples) for name, part in audio.items()}):
            del audio["rest"]
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
            headroom_db=headroom_db,
            tags=read_tags(self.source_path) if tags and self.source_path is not None else None,
        )

    def plot(self, path: str | Path) -> Path:
        """Draw spectrograms of mixture, targets and rest on one scale of decibels; return the path.

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


@final
class SeparatedFiles(Targets[Path]):
    """Targets as the files written, of a separation from disk to disk.

    Attributes:
        rest: the file of what is left of the mixture; None where the stems leave nothing, but for rounding.
        gain: what all files were multiplied by, for headroom and so that no integer file clips, 1.0 as a rule.
        encoding: how they were written.
        layout: rate, channels and length of each.
    """

    def __init__(
        self,
        targets: Mapping[str, Path],
        rest: Path | None,
        *,
        gain: float,
        encoding: Encoding,
        layout: Layout,
        presence_over_time: Mapping[str, Sequence[Presence]],
        plan: Plan,
    ) -> None:
        super().__init__(targets, presence_over_time, plan)
        self.rest = rest
        self.gain = gain
        self.encoding = encoding
        self.layout = layout

    def __repr__(self) -> str:
        return f"SeparatedFiles({', '.join(map(str, self.paths))})"

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files: the targets in order, then the rest."""
        return (*self._targets.values(), *([] if self.rest is None else [self.rest]))

    @property
    def seconds(self) -> float:
        """The length of each file."""
        return (self.layout.n_samples or 0) / self.layout.sample_rate_hz


def leaves_nothing(plan: Plan, peaks: Mapping[str, float]) -> bool:
    """Tell whether all stems of a backend leave no more than rounding, by the peaks of all results and of the "rest"."""
    return plan.is_complete and peaks.get("rest", math.inf) <= NEGLIGIBLE * max(peaks.values())


def total(parts: Sequence[Audio]) -> Audio:
    """Add `parts` in float64, rounded once."""
    samples = parts[0].samples.astype(np.float64)
    for part in parts[1:]:
        samples += part.samples
    return Audio(samples.astype(np.float32), parts[0].sample_rate_hz)
