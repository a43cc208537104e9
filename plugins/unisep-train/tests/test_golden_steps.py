"""Golden steps: the losses of the first steps of every trainer, as they were before the trainers became one.

On a machine whose processor and libraries are those of the recording the losses must be equal to the bit; elsewhere
within 1e-4. All is computed in float32, on one thread, at toy size.

    python plugins/unisep-train/tests/test_golden_steps.py       # records them anew; only when they are meant to change
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch.nn.functional import normalize
from unisep_clap.audio_tower import AudioTower, AudioTowerConfig
from unisep_clap.text_tower import TextTower, TextTowerConfig
from unisep_clap.wordpiece import WordPiece
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.saving import save_checkpoint
from unisep_train.data import band_powers as frames
from unisep_train.data import corpus
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.tasks import audio_tower as audio
from unisep_train.tasks import phrases
from unisep_train.tasks import text_tower as text
from unisep_train.tasks.query_model import QueryModelRun, Recipe, train
from unisep_train.tasks.student import Distillation, StudentRun, distil

from unisep import Audio, QueryEncoder

GOLDEN = Path(__file__).with_name("golden_steps.json")
RATE_HZ, SECONDS = 8000, 4
HZ = {
    "kick drum": 100, "hi-hat": 3600, "synth bass": 200, "lead vocal": 700, "synthesizer": 1100, "speech": 2300,
    "acoustic guitar": 1500, "dog bark": 2700, "piano": 3100,
}  # fmt: skip
ROLES = {"kick drum": "drums", "hi-hat": "drums", "synth bass": "bass", "lead vocal": "vocals", "synthesizer": "other"}
KINDS = {"speech": "voice", "acoustic guitar": "solo", "dog bark": "universal", "piano": "notes"}
SHAPE: dict[str, Any] = {
    "channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": RATE_HZ,
    "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1",
}  # fmt: skip
QUERY_MODEL: dict[str, Any] = {
    "model": {"demucs": SHAPE, "output": "mask", "spaces": {"toy-1": 16}, "condition_channels": 16, "gated": True},
    "mix": {
        "segment_seconds": 0.5, "batch": 4, "example_seconds": 0.5, "absent_probability": 0.3,
        "variation": {"respeed_probability": 0.5, "colour_probability": 0.5},
    },
    "losses": {"spectral": 0.1, "spectral_windows": [256, 1024]}, "queries": {"audio_from": 4}, "n_steps": 20,
    "warmup_steps": 4, "conditioning_steps": 6, "absent_from": 8, "learning_rate": 0.005, "bfloat16": False, "seed": 3,
}  # fmt: skip
Results = dict[str, list[float]]


class HashEncoder(QueryEncoder):
    """Gives every text a random vector of its own, and clips vectors of their spectra."""

    space = "toy-1"
    dim = 16

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(zlib.crc32(t.encode()))) for t in texts]
        return normalize(torch.stack(rows), dim=-1)

    def encode_audio(self, clips: Sequence[Audio]) -> torch.Tensor:
        rows = [np.abs(np.fft.rfft(clip.samples[0]))[:512].reshape(16, 32).sum(1) + 1e-6 for clip in clips]
        return normalize(torch.from_numpy(np.stack(rows)).float(), dim=-1)


def tones(folder: Path) -> Path:
    """Songs, voices, solos, notes and everyday sounds, each label a tone in noise, with their manifest."""
    rng, time = np.random.default_rng(0), np.arange(SECONDS * RATE_HZ) / RATE_HZ
    rows = [(f"{song}/{label}", label, "song", song) for song in ("one", "two", "three") for label in ROLES]
    rows += [(f"{kind}/{label} {n}", label, kind, None) for label, kind in KINDS.items() for n in range(3)]
    lines = []
    for name, label, kind, song in rows:
        n_samples = {"notes": 2000, "universal": 3000}.get(kind, time.size)
        sound = 0.3 * np.sin(2 * np.pi * HZ[label] * time) + 0.02 * rng.standard_normal(time.size)
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.float32(sound[:n_samples]), RATE_HZ)
        facts = {"kind": kind, "song": song, "four_stem": ROLES.get(label, "none"), "split": "train"}
        lines.append({"path": f"{name}.wav", "label": label, "family": "synth", **facts})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def store_of(folder: Path) -> str:
    corpus.build(tones(folder / "tones"), folder / "store", rate_hz=RATE_HZ)
    return str(folder / "store")


def query_model(folder: Path) -> torch.nn.Module:
    given = folder / "given.json"
    given.write_text(json.dumps(QUERY_MODEL))
    run = QueryModelRun(Recipe.of_run(folder / "run", given), folder / "run")
    return train(store_of(folder), run, TextAudioEncoder(HashEncoder), n_workers=0).averaged()


def student(folder: Path) -> torch.nn.Module:
    torch.manual_seed(5)
    config = HTDemucsConfig(
        sources=("drums", "bass", "other", "vocals"), channels=12, t_layers=2, t_heads=2, nfft=1024, depth=3,
        samplerate=RATE_HZ, segment=Fraction(1, 2), bottom_channels=32, t_layer_scale_init=1.0,
    )  # fmt: skip
    teacher = save_checkpoint(folder / "teacher.safetensors", config, HTDemucs(config).state_dict())
    recipe = Distillation.model_validate({
        "teacher": teacher, "student": {"channels": 8, "bottom_channels": 16, "t_layers": 1, "dconv_mode": 0},
        "mix": {"segment_seconds": 0.5, "batch": 4}, "spectral": 0.1, "n_steps": 10, "warmup_steps": 2,
        "learning_rate": 3e-3, "bfloat16": False,
    })  # fmt: skip
    return distil(store_of(folder), StudentRun(recipe, folder), n_workers=0).averaged()


def text_tower(folder: Path) -> torch.nn.Module:
    """A student cut out of a random teacher, that learns what the teacher says, moved as its links want."""
    torch.manual_seed(0)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(97, 123)), *(f"##{chr(97 + i)}" for i in range(26))]
    shape = {"n_positions": 64, "width": 32, "n_layers": 3, "n_heads": 1}
    teacher = TextTower(TextTowerConfig(n_pieces=len(pieces), n_factors=0, hidden_width=48, n_dims=0, **shape)).eval()
    tokens = WordPiece(pieces)
    sounds = ["a drum", "kick", "bell", "gong", "a voice", "choir"]
    known = [f"{first}{second} {first}" for first, second in itertools.product("abcdefgh", "klmno")]
    u_sounds, u_known = (text.embed(teacher, tokens, names) for names in (sounds, known))
    project = text.fit_projection(u_sounds, u_known, 8)
    links = phrases.Links(tuple(sounds), (("a drum", "kick", 1.0), ("bell", "gong", 0.25)))
    names = project(u_sounds)
    shift = text.Shift(names, text.draw_together(names, links, n_steps=3) - names)
    lesson = text.Lesson(sounds + known, shift(project(torch.cat([u_sounds, u_known]))), len(sounds))
    config = TextTowerConfig(n_pieces=len(pieces), n_factors=12, hidden_width=24, n_dims=8, **shape)
    tower = text.start_from(teacher, list(range(len(pieces))), config, (0, 1, 2))
    recipe = text.TextRecipe(batch_size=8, n_steps=10, bfloat16=False)
    return text.TextRun(tower, recipe, folder).learn_all(text.batches(lesson, tokens, recipe))


def audio_tower(folder: Path) -> torch.nn.Module:
    """A tower that learns the labels of tones, against fixed vectors."""
    rate_hz, time = frames.MEL.sample_rate_hz, np.arange(2 * frames.MEL.sample_rate_hz) / frames.MEL.sample_rate_hz
    (folder / "clips").mkdir()
    lines = []
    for number, hz in enumerate((90, 140, 3500, 5000)):
        soundfile.write(folder / "clips" / f"{number}.wav", 0.2 * np.sin(2 * np.pi * hz * time), rate_hz, "FLOAT")
        label, synonym = ("low tone", "hum") if hz < 1000 else ("high tone", "whistle")
        lines.append({"path": f"{number}.wav", "label": label, "synonyms": [synonym], "family": "synth"})
    (folder / "clips" / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    frames.build(folder / "clips", folder / "frames")
    made = frames.read(folder / "frames")
    torch.manual_seed(0)
    tower = AudioTower(AudioTowerConfig(window_seconds=1.0, widths=(4, 8, 8, 8), pooled_width=16, n_heads=2, n_dims=8))
    names = audio.Names(
        ("low tone", "high tone"), torch.eye(8)[:2], dict(zip(("low tone", "high tone"), torch.eye(2), strict=True))
    )
    rough = audio.RougheningConfig()
    listener = audio.Listener([(made, list(made.clips))], audio.n_frames_of(tower), rough, 0)
    recipe = audio.AudioRecipe(n_steps=10, batch_size=8, average_decay=0.9, bfloat16=False)
    return audio.AudioRun(tower, names, recipe, folder).learn_all(audio.batches(listener, recipe))


TASKS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "query model": query_model, "student": student, "text tower": text_tower, "audio tower": audio_tower,
}  # fmt: skip


@contextmanager
def watched() -> Iterator[list[float]]:
    """Every loss that is differentiated in the block, which computes in float32 on one thread."""
    losses: list[float] = []
    backward, n_threads = torch.Tensor.backward, torch.get_num_threads()

    def watching(loss: torch.Tensor, *args: Any, **options: Any) -> None:
        losses.append(float(loss.detach()))
        backward(loss, *args, **options)

    torch.set_num_threads(1)
    with patch.object(torch.Tensor, "backward", watching):
        yield losses
    torch.set_num_threads(n_threads)


def results_of(task: Callable[[Path], torch.nn.Module]) -> Results:
    """The loss of each step, and the size of every parameter (of the running average where there is one)."""
    with tempfile.TemporaryDirectory() as folder, watched() as losses:
        model = task(Path(folder))
        sizes = [float(value.double().square().mean().sqrt()) for value in model.state_dict().values()]
    return {"losses": losses, "sizes": sizes}


@pytest.mark.parametrize("name", TASKS)
def test_the_first_steps_are_those_of_the_recording(name: str) -> None:
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    results, known = results_of(TASKS[name]), recorded["results"][name]
    for key, values in known.items():
        # Adam divides small gradients by their size, so that rounding of another processor grows in a few steps.
        assert results[key] == pytest.approx(values, rel=5e-3, abs=1e-5), key
    if recorded["machine"] == this_machine():
        assert results == known


def this_machine() -> str:
    """What decides the order of sums: processor, its instructions, libraries."""
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    facts = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    versions = (torch.__version__, np.__version__, soxr.__version__)
    return hashlib.sha256("\n".join([*facts, *versions]).encode()).hexdigest()


def record() -> None:
    results = {name: results_of(task) for name, task in TASKS.items()}
    GOLDEN.write_text(json.dumps({"machine": this_machine(), "results": results}) + "\n", encoding="utf-8")
    print(f"{len(results)} tasks in {GOLDEN}, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    record()
