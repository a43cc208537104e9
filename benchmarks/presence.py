"""Fit presence to what is there: so that of what gets 0.8, eight in ten are there. And measure whether it is so.

    python benchmarks/presence.py ask CORPUS [CORPUS ...] --rows rows.npz             # 15 minutes on a core
    python benchmarks/presence.py ask CORPUS [CORPUS ...] --rows one.npz --half 0     # or by two processes, with --half 1
    python benchmarks/presence.py fit --rows rows.npz --draw docs/presence.png
    python benchmarks/presence.py fit --rows rows.npz --release plugins/unisep-film/unisep_film/weights/unisep_film.safetensors

Windows of 6 s: held-out songs, and held-out single recordings mixed. Each is asked for what is there (12 dB below all else
or louder), by words and by example, and for what is not: for other concepts, for what only other parts of the song hold,
by clips of something else, and in nonsense (letters and words at random). What is there and what is not count half each, and
in that mixture presence is a probability. Words are backed by their concept as they are in use.

The log-odds are those of the model times a scale, a bias, and the product of the query vector and a direction: that of
words that name sounds, against words at random. `fit` fits on one half of the recordings and measures on the other, both ways
round; what it releases is fitted on both.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RATE_HZ
from mixing import Corpus
from numpy.typing import NDArray
from scenes import Examples, mixed_scenes, song_scenes
from torch.nn import functional as F
from unisep_clap.mini import load_mini
from unisep_film.backend import WEIGHTS_FILE
from unisep_film.checkpoints import load_model, save_model
from unisep_train.mixing.scenes import Questions, nonsense

from unisep.query.concepts import concepts

N_BINS, SPACE = 10, "clap-mini-1"
N_RANDOM = 900  # of each half
N_ASKED = {"present": 3, "silent": 1, "absent": 1, "nonsense": 2}  # of each window, and by example one of each
Floats = NDArray[np.float64]


@torch.inference_mode()
def ask(folders: list[Path], rows: Path, halves: tuple[int, ...]) -> None:
    """Ask the embedded model about all windows; write the answers."""
    import unisep_film

    corpus, encoder = Corpus(folders), load_mini()
    model = load_model(Path(unisep_film.__file__).parent / "weights" / WEIGHTS_FILE)
    pieces = encoder.tokens.pieces
    questions = Questions(encoder, Examples(folders).clip, RATE_HZ, N_ASKED, held_out=True)
    unmeant, answers = [iter(nonsense(pieces, half)) for half in (0, 1)], list[tuple[Any, ...]]()
    scenes = [*song_scenes(corpus, halves), *mixed_scenes(corpus, halves)]
    for number in np.random.default_rng(0).permutation(len(scenes)):
        scene = scenes[number]
        asked = questions.of(scene, np.random.default_rng(scene.number), unmeant[scene.half])
        kinds, _, texts, vectors = zip(*asked, strict=True)
        conditions = model.conditions(torch.stack(vectors)[None], SPACE)
        log_odds = model(torch.from_numpy(scene.mixture)[None], conditions)[1][0].tolist()
        answers += zip(kinds, texts, vectors, log_odds, [scene.half] * len(kinds), strict=True)
        columns = zip(("kind", "text", "vector", "log_odds", "half"), zip(*answers, strict=True), strict=True)
        np.savez(rows, **{name: np.array(values) for name, values in columns})  # type: ignore[arg-type]


def logistic(x: Floats, y: Floats, weights: Floats, decay: float) -> Floats:
    """Return coefficients of a logistic regression, that of the constant last."""
    inputs, wanted, counts = (torch.from_numpy(np.asarray(each, np.float64)) for each in (with_ones(x), y, weights))
    found = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs @ found, wanted, counts, reduction="sum") / counts.sum()
        loss = loss + decay * found[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return found.detach().numpy()


def with_ones(x: Floats) -> Floats:
    """Return the rows with a constant after them."""
    return np.hstack([x, np.ones((len(x), 1))])


@cache
def vectors_of(half: int | None) -> Floats:
    """Return vectors of the names of all sounds, or of words at random of one half."""
    encoder = load_mini()
    texts = list(concepts()) if half is None else nonsense(encoder.tokens.pieces, half, n=N_RANDOM)
    return encoder.encode_text(texts).numpy().astype(np.float64)


def direction_of_sounds(halves: tuple[int, ...]) -> Floats:
    """Return the direction from words at random to words that name sounds, and its bias."""
    vectors = [vectors_of(half) for half in (None, *halves)]
    is_sound = np.repeat([1.0, 0.0], [len(vectors[0]), sum(map(len, vectors[1:]))])
    return logistic(np.concatenate(vectors), is_sound, balanced(is_sound), 1e-4)


def balanced(y: Floats) -> Floats:
    """Return weights with which both outcomes count half."""
    return np.where(y > 0.5, 0.5 / y.mean(), 0.5 / (1 - y.mean()))


def calibration(rows: Any, direction: Floats) -> Floats:
    """Return scale, bias and the direction with its length, as the model's config has them."""
    y = present(rows)
    x = np.stack([rows["log_odds"], with_ones(rows["vector"]) @ direction], axis=1)
    scale, of_query, bias = logistic(x, y, balanced(y), 1e-4)
    return np.concatenate([[scale, bias + of_query * direction[-1]], of_query * direction[:-1]])


def present(rows: Any) -> Floats:
    """Return 1 for what is there, else 0."""
    return np.char.startswith(rows["kind"], "present").astype(np.float64)


def probability(rows: Any, numbers: Floats) -> Floats:
    """Return presence of the rows."""
    return 1 / (1 + np.exp(-(rows["log_odds"] * numbers[0] + numbers[1] + rows["vector"] @ numbers[2:])))


def reliability(p: Floats, y: Floats) -> list[tuple[float, float, float]]:
    """Return mean presence, share that is there and weight of each bin that has any."""
    weights, bins = balanced(y) / len(y), np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    return [
        (np.average(p[here], weights=weights[here]), np.average(y[here], weights=weights[here]), weights[here].sum())
        for here in (bins == number for number in range(N_BINS)) if here.any()
    ]  # fmt: skip


def expected_error(p: Floats, y: Floats) -> float:
    """Return the expected calibration error: the mean distance of presence and share over bins."""
    return float(sum(weight * abs(mean - share) for mean, share, weight in reliability(p, y)))


def report(name: str, p: Floats, rows: Any) -> None:
    """Print the calibration error, and how many of each kind are above one half."""
    y = present(rows)
    texts = rows["text"] != ""
    sums = {"absent by words": (y < 0.5) & texts, "present by words": (y > 0.5) & texts}
    print(f"{name}: {len(p)} questions, expected calibration error {expected_error(p, y):.3f}, by words "
          f"{expected_error(p[texts], y[texts]):.3f}")  # fmt: skip
    kinds = {kind: rows["kind"] == kind for kind in sorted(set(rows["kind"].tolist()))}
    for kind, here in (kinds | sums).items():
        print(
            f"  {kind:20s} n {here.sum():4d}  above one half {np.mean(p[here] > 0.5):6.1%}  median {np.median(p[here]):.2f}"
        )


def draw(curves: dict[str, tuple[Floats, Floats]], path: Path) -> None:
    """Draw the reliability curves, and how much lies in each bin."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, figsize=(5, 5.6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for label, (p, y) in curves.items():
        means, shares, weights = zip(*reliability(p, y), strict=True)
        above.plot(means, shares, marker="o", label=f"{label}: error {expected_error(p, y):.3f}")
        below.plot(means, weights, marker="o")
    above.set(ylabel="share that is there", ylim=(0, 1))
    below.set(xlabel="presence", ylabel="share of questions", xlim=(0, 1))
    above.legend(frameon=False)
    figure.savefig(path, dpi=110)


def fit(rows_files: list[Path], picture: Path | None, release: Path | None, texts: bool) -> None:
    """Fit on each half and measure on the other; draw; write what is fitted on both into weights."""
    files = [np.load(path) for path in rows_files]
    rows = {key: np.concatenate([file[key] for file in files]) for key in files[0].files}
    plain, fitted = 1 / (1 + np.exp(-rows["log_odds"])), np.zeros(len(rows["half"]))
    for half in (0, 1):
        here = rows["half"] == half
        one, other = ({key: values[mask] for key, values in rows.items()} for mask in (here, ~here))
        fitted[~here] = probability(other, calibration(one, direction_of_sounds((half,))))
    report("before", plain, rows)
    for half in (0, 1):
        here = rows["half"] == half
        report(f"half {half}, fitted on the other", fitted[here], {key: values[here] for key, values in rows.items()})
    report("fitted on the other half", fitted, rows)
    if texts:
        for number in np.argsort(fitted):
            print(f"{fitted[number]:.2f}  {rows['kind'][number]}  {rows['text'][number]}")
    if picture:
        draw({"the model's own": (plain, present(rows)), "calibrated": (fitted, present(rows))}, picture)
    if release:
        model = load_model(release)
        numbers = calibration(rows, direction_of_sounds((0, 1)))
        shape = model.config.model_dump() | {"calibration": {SPACE: [float(f"{number:.4g}") for number in numbers]}}
        model.config = type(model.config).from_json(json.dumps(shape))
        save_model(release, model)


def main() -> None:
    """Ask, or fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ask", "fit"))
    parser.add_argument("corpus", type=Path, nargs="*", help="folders with a manifest.jsonl")
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="the answers: ask writes one file, fit reads any"
    )
    parser.add_argument("--half", type=int, choices=(0, 1), help="ask about one half of the recordings")
    parser.add_argument("--draw", type=Path, help="a picture of the reliability curve")
    parser.add_argument("--release", type=Path, help="weights that get the calibration")
    parser.add_argument("--texts", action="store_true", help="print every question, by presence")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "ask":
        ask(options.corpus, options.rows[0], (0, 1) if options.half is None else (options.half,))
    else:
        fit(options.rows, options.draw, options.release, options.texts)


if __name__ == "__main__":
    main()
