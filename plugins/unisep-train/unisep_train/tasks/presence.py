"""Teach a query model to tell whether a sound is there, while what separates stays as it is.

    python -m unisep_train presence STORE RUN --weights model.safetensors --out better.safetensors

Scenes of the training recordings are asked for what is in them and for what is not, and what the presence head hears then is kept
in RUN. From that the head is learnt anew, and the gate, which turns down what is not there. Scenes that RUN holds are not asked
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_clap.mini import load_mini
from unisep_film.checkpoints import load_model, save_model
from unisep_film.model import FilmHTDemucs
from unisep_film.presence import Presence

from unisep.errors import OptionError
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.mixing.queries import EMBEDDED, load_encoder
from unisep_train.mixing.scenes import N_WORD_PARTS, Questions, SceneMixer, nonsense

N_SCENES = 20  # in a file
N_ASKED = {"present": 3, "silent": 1, "absent": 3, "nonsense": 1}
N_EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY, DROPOUT, NOISE = 12, 64, 2e-3, 0.05, 0.2, 0.1
BANDS_COST = 0.1  # of their log-odds squared: a sound that is little known is judged by the level of the target
MOST_UNEVEN, LEAST_WEIGHT = 2.0, 0.05  # of how often a name is there and is not
NAMELESS = crc32(b"")
GATE_COSTS_DB, FLOOR_DB, CEILING_DB, SLOPES = 0.1, -60.0, 30.0, (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


class Heard(NamedTuple):
    """What the presence head hears at n questions about s scenes, and what is so.

    mixture: `[s, t, f]`. scene: of each question, `[n]`. targets: `[n, t, f]`. level: `[n]`. vectors: `[n, d]`. names: `[n]`, numbers that
    stand for them. present: `[n]`, 0 or 1. products: `[n, 3]`, of what was isolated with itself and with what is wanted, and of that with itself.
    """

    mixture: Tensor
    scene: Tensor
    targets: Tensor
    level: Tensor
    vectors: Tensor
    names: Tensor
    present: Tensor
    products: Tensor

    @classmethod
    def read(cls, files: list[Path]) -> Heard:
        """Read what some files hold."""
        parts = [[torch.from_numpy(np.load(path)[name]) for name in cls._fields] for path in files]
        n_before = np.cumsum([0, *(len(part[0]) for part in parts)]).tolist()
        for part, n in zip(parts, n_before, strict=False):
            part[1] = part[1] + n
        return cls(*(torch.cat(values) for values in zip(*parts, strict=True)))


@torch.inference_mode()
def listen(
    store: str, weights: Path, file: Path, number: int, encoder: str = EMBEDDED, encoder_weights: Path | None = None
) -> None:
    """Ask about some scenes, drawn by their number; write what is heard."""
    torch.set_num_threads(1)
    model = load_model(weights)
    model.config = model.config.model_copy(update={"gated": False})
    hearing = Presence(model.config.separator, model.config.condition_channels)
    shape, rng, sounds = model.config.separator, np.random.default_rng(number), Store(store)
    if sounds.sample_rate_hz != shape.samplerate:
        raise OptionError(
            f"{store} is at {sounds.sample_rate_hz} Hz, and the model in {weights} at {shape.samplerate}."
        )
    asker = load_encoder(encoder, encoder_weights, model.config.spaces)
    scenes = SceneMixer(Catalog(sounds), shape.segment_samples)
    questions = Questions(asker, scenes.clip, shape.samplerate, N_ASKED, likely=True)
    unmeant = iter(nonsense(load_mini().tokens.pieces, N_WORD_PARTS - 1, n=10_000 + number))
    rows: dict[str, list[Tensor]] = {name: [] for name in Heard._fields}
    for place in range(N_SCENES):
        scene = scenes.scene(rng)
        asked = list(questions.of(scene, rng, unmeant))
        vectors = torch.stack([question.vector for question in asked])
        mixture = torch.from_numpy(scene.mixture)[None]
        targets, _ = model(mixture, model.conditions(vectors[None], asker.space))
        of_mixture, of_targets, level = hearing.heard(mixture, targets)
        wanted = [scene.target(question.name) * np.float32(question.is_present) for question in asked]
        target = torch.from_numpy(np.stack(wanted))
        pairs = ((targets[0], targets[0]), (targets[0], target), (target, target))
        values = (
            of_mixture.half(), torch.full((len(asked),), place), of_targets[0].half(), level[0], vectors.half(),
            torch.tensor([crc32(question.name.encode()) for question in asked]),
            torch.tensor([float(question.is_present) for question in asked]),
            torch.stack([(one * other).sum(dim=(1, 2)) for one, other in pairs], dim=1),
        )  # fmt: skip
        for name, value in zip(Heard._fields, values, strict=True):
            rows[name].append(value)
    unfinished = file.with_name(f"unfinished-{file.name}")
    np.savez(unfinished, **{name: torch.cat(values).numpy() for name, values in rows.items()})  # type: ignore[arg-type]
    unfinished.replace(file)


def teach(head: Presence, heard: Heard, conditions: Tensor, rows: Tensor | None = None) -> Presence:
    """Learn the head from what it heard, all or some rows, with `conditions [n, k]`; half of the weight is on what is there."""
    every = torch.arange(len(conditions)) if rows is None else rows
    weights = weights_of(heard.names, heard.present)
    optimiser = torch.optim.AdamW(head.parameters(), weight_decay=WEIGHT_DECAY)
    n_steps, n_frames = N_EPOCHS * -(-len(every) // BATCH), heard.mixture.shape[1]
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=n_steps)
    noise = NOISE * conditions.std()
    for _ in range(N_EPOCHS):
        for chosen in torch.randperm(len(every)).split(BATCH):
            rows = every[chosen]
            first = int(torch.randint(n_frames // 4, ()))
            part = slice(first, n_frames - int(torch.randint(n_frames // 2 - first, ())))
            asked = conditions[rows] + noise * torch.randn_like(conditions[rows])
            odds = _odds(head, heard, rows, F.dropout(asked, DROPOUT), part)
            of_bands = odds - head.of_level(heard.level[rows])
            loss = F.binary_cross_entropy_with_logits(odds, heard.present[rows], weights[rows])
            loss = loss + BANDS_COST * (weights[rows] * of_bands.square()).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
    return head


def weights_of(names: Tensor, present: Tensor) -> Tensor:
    """Return a weight `[n]` of each question, 1 on average and half of it on what is there.

    A name that is there more often than not, or the other way round, weighs less where it is: by itself it is to say little.
    Nonsense, which names nothing, weighs in full.
    """
    _, index = names.unique(return_inverse=True)
    n_present = torch.zeros(int(index.max()) + 1).index_add_(0, index, present)[index]
    n_absent = torch.bincount(index)[index] - n_present
    ratio = torch.where(present > 0.5, n_absent / n_present, n_present / n_absent)
    weights = torch.where(names == NAMELESS, 1.0, (MOST_UNEVEN * ratio).clamp(LEAST_WEIGHT, 1.0))
    is_present = present > 0.5
    half = torch.where(is_present, weights[is_present].sum(), weights[~is_present].sum())
    return weights / half * (len(present) / 2)


def _odds(head: Presence, heard: Heard, rows: Tensor, conditions: Tensor, part: slice = slice(None)) -> Tensor:
    """Return log-odds `[m]` of some rows, in a part of their time."""
    mixture, targets = heard.mixture[heard.scene[rows], part].float(), heard.targets[rows, part].float()
    return head.log_odds(mixture, targets[:, None], heard.level[rows, None], conditions[:, None])[:, 0]


def fresh_odds(heard: Heard, conditions: Tensor, head: Callable[[], Presence]) -> Tensor:
    """Return log-odds `[n]` as heads give them that were taught by the other half of the scenes."""
    odds, half = torch.zeros(len(conditions)), heard.scene % 2
    for one in (0, 1):
        rows = torch.nonzero(half == one)[:, 0]
        taught = teach(head(), heard, conditions, rows)
        with torch.no_grad():
            for some in torch.nonzero(half != one)[:, 0].split(256):
                odds[some] = _odds(taught, heard, some, conditions[some])
    return odds


@torch.no_grad()
def set_gate(model: FilmHTDemucs, heard: Heard, odds: Tensor) -> None:
    """Set the gate so that it lets through least of what is not there, and costs what is there no more than `GATE_COSTS_DB`."""
    own, cross, wanted = heard.products.double().unbind(1)
    is_present = heard.present > 0.5
    of_mixture = own / 10 ** heard.level.double()

    def sdr_and_level_db(slope: float, middle: float) -> tuple[float, float]:
        gain = torch.sigmoid(slope * (odds.double() - middle))
        error = (wanted - 2 * gain * cross + gain**2 * own) / (wanted + 1e-9)
        sdr_db = -10 * torch.log10(error[is_present] + 10 ** (-CEILING_DB / 10))
        level_db = 10 * torch.log10(gain**2 * own / of_mixture + 1e-12)[~is_present]
        return float(sdr_db.mean()), float(level_db.clamp_min(FLOOR_DB).mean())

    least_db = sdr_and_level_db(1.0, -100.0)[0] - GATE_COSTS_DB
    found = {gate: sdr_and_level_db(*gate) for gate in product(SLOPES, torch.arange(-20.0, 5.0, 0.25).tolist())}
    slope, middle = min((level_db, gate) for gate, (sdr_db, level_db) in found.items() if sdr_db >= least_db)[1]
    nn.init.constant_(model.gate.weight, slope)
    nn.init.constant_(model.gate.bias, -slope * middle)


def presence_command(
    store: str, run: Path, *, weights: Path, out: Path, scenes: int = 2000, workers: int = 2, seed: int = 0,
    encoder: str = EMBEDDED, encoder_weights: Path | None = None,
) -> None:  # fmt: skip
    """Teach a query model to tell what is there.

    Args:
        store: folder made by `corpus`.
        run: folder for what is heard.
        weights: of a FiLM HT Demucs.
        out: file of the better weights.
        scenes: how many are asked about, a segment long each.
        workers: processes that ask.
        seed: of the head and its lessons.
        encoder: package.module:function that loads the query encoder.
        encoder_weights: its weights, if not its own.
    """
    model = load_model(weights)
    space = load_encoder(encoder, encoder_weights, model.config.spaces).space
    run.mkdir(parents=True, exist_ok=True)
    files = [run / f"heard-{number:04}.npz" for number in range(-(-scenes // N_SCENES))]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        calls = [
            pool.submit(listen, store, weights, file, number, encoder, encoder_weights)
            for number, file in enumerate(files) if not file.exists()
        ]  # fmt: skip
        for n_done, call in enumerate(calls):
            call.result()
            print(f"{n_done + 1} of {len(calls)} files", flush=True)
    torch.manual_seed(seed)
    heard = Heard.read(sorted(run.glob("heard-*.npz")))
    with torch.no_grad():
        conditions = model.conditions(heard.vectors.float(), space)
    head = partial(Presence, model.config.separator, model.config.condition_channels)
    model.presence = teach(head(), heard, conditions)
    if model.config.gated:
        set_gate(model, heard, fresh_odds(heard, conditions, head))
    model.config = model.config.model_copy(update={"calibration": {}})
    save_model(out, model)
    print(json.dumps({"scenes": len(heard.mixture), "questions": len(conditions)}))
