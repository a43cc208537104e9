"""All public calls, as a user would write them: type checkers find nothing here, and it runs (tests/packaging/test_types.py)."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unisep import (
    Audio,
    AudioLike,
    Backend,
    BackendInfo,
    BackendSpec,
    Embedding,
    Ensemble,
    EnsembleMember,
    Output,
    Plan,
    Progress,
    Query,
    QueryDict,
    QueryLike,
    SeparatedFiles,
    Separation,
    Separator,
    Statistics,
    Stream,
    explain,
    hookimpl,
)
from unisep.errors import TargetError, UnisepError

RATE_HZ = 8_000


class Half(Backend):
    info = BackendInfo(sources=("half",), sample_rate_hz=RATE_HZ, channels=2)

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        self.check_input(mixture, queries, negatives)
        return Output(sources=mixture[:, None] / 2)


class Hooks:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        return [BackendSpec(name="half", load="half:load", summary="Half of everything.", stems=("half",))]


def recordings(path: Path, samples: NDArray[np.float32]) -> Iterator[AudioLike]:
    yield path
    yield str(path)
    yield path.read_bytes()
    yield io.BytesIO(path.read_bytes())
    yield Audio(samples, RATE_HZ)


def queries(clip: Path, samples: NDArray[np.float32], vector: Embedding) -> Iterator[QueryLike]:
    yield "bass"
    yield clip
    yield samples
    yield torch.from_numpy(samples)
    yield Audio(samples, RATE_HZ)
    yield vector
    yield Query(text="bass", name="lead", time_range=(0, 0.5))
    yield {"text": ["bass", "kick"], "exclude": ["hat", clip, vector], "example_range": None}
    yield {"text": "bass", "audio": str(clip), "weights": {"text": 0.3, "audio": 0.7}, "time_range": (0, 0.25)}
    yield ["bass", clip, {"text": "hat"}]
    yield ("bass", "hat")


def one_of(kind: str) -> QueryDict:
    query: QueryDict = {"text": kind, "exclude": "hat"}
    query["name"] = f"the {kind}"
    return query


def separations(separator: Separator, path: Path, samples: NDArray[np.float32]) -> Iterator[Separation]:
    names = ["bass", "hat"]
    yield separator.separate(path)
    yield separator.separate(path, stems="low")
    yield separator.separate(path, stems=("low", "high"), route="fixed")
    yield separator.separate(path, names)
    yield separator.separate(path, [Query(text=name, name=name.upper()) for name in names])
    yield separator.separate(path, [{"text": name} for name in names])
    yield separator.separate(path, [one_of("bass"), one_of("kick")])
    yield separator.separate(path, query=sorted(path.parent.glob("clip*.wav")), route="conditioned")
    yield separator.separate(samples, "bass", sample_rate_hz=RATE_HZ)
    yield separator.separate(samples[0].astype(np.int16), sample_rate_hz=8_000.0)
    yield separator.separate(torch.from_numpy(samples), query=samples, sample_rate_hz=RATE_HZ)
    yield separator.separate(samples.tolist(), sample_rate_hz=RATE_HZ)
    yield separator.separate([[0.0, 0.5, 1], [0, 0.25, 0]], sample_rate_hz=RATE_HZ)
    yield separator.separate([samples[0], samples[1]], sample_rate_hz=RATE_HZ)
    yield separator.separate(np.sum([samples, samples], axis=0), sample_rate_hz=RATE_HZ)
    with path.open("rb") as file:
        yield separator.separate(file, query="bass")
    stop = threading.Event()
    fractions: list[float] = []

    def show(progress: Progress) -> None:
        fractions.append(progress.fraction)

    yield separator.separate(path, None, on_progress=show, cancel=stop)
    assert fractions[-1] == 1


def look(result: Separation, out: Path) -> dict[str, float]:
    levels = {name: float(np.abs(audio.samples).max()) for name, audio in result.items()}
    target: Audio = result.target
    rest: Audio = result.rest
    sums: NDArray[np.float32] = target.samples + rest.samples
    plan: Plan = result.plan
    choice = plan[next(iter(result))]
    presence: float | None = result.presence[next(iter(result))]
    print(result, choice.backend, choice.encoder or "none", choice.reason.upper(), presence, sums.shape)
    for name, segments in result.presence_over_time.items():
        print(name, [(part.start_seconds, part.presence) for part in segments])
    report = result.save(out, format="wav", subtype="FLOAT")
    paths: Sequence[Path] = report.paths
    print(report.gain, len(paths), target.save(out / "target.flac").stat().st_size)
    seconds: float = target.seconds
    print(seconds, target.n_channels, target.n_samples, target.sample_rate_hz)
    return levels


def main(folder: Path, path: Path, clip: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (2, RATE_HZ)).astype(np.float32)
    separator = Separator(query_backend="toy", encoder="toy", device="cpu", precision="float32", segment_seconds=1.0)
    vector = separator.embed("bass")
    kept = Embedding.load(vector.save(folder / "bass.safetensors"))
    own = Embedding(np.ones(vector.dim), vector.space, {"from": "me"})
    assert [vector.dim, kept.vector.shape[0]] == [own.dim, own.dim]
    clips: list[AudioLike] = [clip, samples]
    learnt: Embedding = separator.learn(clips, samples, name="lead", sample_rate_hz=RATE_HZ)
    assert learnt.space == vector.space
    for recording in recordings(path, samples):
        assert len(separator.separate(recording, "bass")) == 1
    for query in queries(clip, samples, kept):
        assert separator.separate(path, query, sample_rate_hz=RATE_HZ, route="conditioned").target.seconds == 1
    for number, result in enumerate(separations(separator, path, samples)):
        look(result, folder / f"out-{number}")
    files: SeparatedFiles = separator.separate_file(path, folder / "files", query={"text": "bass"}, format="flac")
    written: list[Path] = [*files.values(), *([files.rest] if files.rest else [])]
    assert all(file.exists() for file in written) and files.gain == 1.0
    blocks = (samples[:, start : start + 1_000] for start in range(0, RATE_HZ, 1_000))
    stream: Stream = separator.stream(blocks, "bass", sample_rate_hz=RATE_HZ, statistics=Statistics.of(samples))
    assert sum(result.target.n_samples for result in stream) == RATE_HZ and stream.delay_seconds > 0
    assert separator.provenance(["bass"])
    assert explain(["bass", {"text": "hat"}], query_backend="toy", encoder="toy").answers[0].chosen.backend.name
    try:
        separator.separate(path)["guitar"]
    except TargetError as error:
        assert isinstance(error, UnisepError | KeyError)
    ensemble = Ensemble(members=[EnsembleMember(backend="toy"), {"backend": "toy", "weights": {"low": 2.0}}])
    assert ensemble.members[0].weights == 1.0
    with Separator(plugins=[Hooks()], device="cpu") as other:
        call: Callable[[AudioLike], Separation] = other.separate
        print(call, Half().info)
