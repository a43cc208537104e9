"""Results written as they are found, from disk to disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unisep.cancelling import CancelFlag, stop_if
from unisep.fileset import FileSet
from unisep.formats import Encoding, check_size
from unisep.pipeline import Engine
from unisep.progress import Meter
from unisep.recording import OnDisk
from unisep.resolve import Route
from unisep.results import REST, in_blocks
from unisep.separated_files import SeparatedFiles
from unisep.tags import Tags


def write_results(
    recording: OnDisk,
    engine: Engine,
    route: Route,
    paths: Mapping[str, Path],
    encoding: Encoding,
    tags: Tags | None,
    meter: Meter,
    cancel: CancelFlag | None,
) -> SeparatedFiles:
    """All files in their places, complete; where anything fails, none is there.

    paths: of each result, `rest` too.

    Raises:
        DiskSpaceError: there is not enough room; this is seen before anything is computed.
        AudioFileError: a folder that cannot be written to, or too much for one file of the format.
    """
    layout = recording.layout
    shape = (layout.sample_rate_hz, layout.n_channels, layout.n_samples or 0)
    check_size(encoding, *shape)
    with FileSet(paths, *shape, encoding, tags) as files:
        for block in in_blocks(recording, engine, route):
            files.write(block)
        meter.stage("writing")
        report = files.commit(lambda: stop_if(cancel))
    return SeparatedFiles(
        {name: paths[name] for name in route.plan},
        paths[REST],
        gain=report.gain,
        encoding=encoding,
        layout=layout,
        presence_over_time=engine.presence,
        plan=route.plan,
    )
