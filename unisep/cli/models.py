"""`unisep models`: the weights of everything installed; where they are, whose they are, whether they are intact."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from unisep.cli.console import Console, columns
from unisep.errors import DownloadError, OptionError, PluginError, UnisepError, WeightsError, arg, suggest
from unisep.plugins.registry import installed
from unisep.plugins.specs import BackendSpec
from unisep.routing.catalog import BackendEntry, EncoderEntry, build_catalog, find
from unisep.routing.licences import allows, checked_licences
from unisep.weights.cards import read_card
from unisep.weights.presets import figures_at, figures_db, presets, strongest
from unisep.weights.store import FileCheck, FileProgress, WeightsStore

Model = BackendEntry | EncoderEntry
_STEMS = ("drums", "bass", "other", "vocals")
_N_BETTER = 5
_FOOTNOTE = (
    "",
    "Of stems: SDR in dB, which compare on the same songs only; `unisep models card NAME` has metric and source.",
    "The strongest at once: unisep models pull best",
)


def models(store: WeightsStore) -> list[Model]:
    """Return every model with a card, of the plugins that work, by name."""
    catalog = build_catalog(installed(), (), lambda spec: store.state_at(spec.card))
    every: list[Model] = [*catalog.backends, *catalog.encoders]
    return sorted((model for model in every if model.spec.card), key=lambda model: model.name)


def is_intact(check: FileCheck) -> bool:
    """Tell whether a file is what it should be, as far as that is known."""
    return check.state in ("ok", "unrecorded")


def show_list(arguments: Namespace, console: Console) -> int:
    """Print a line for each model, or for those allowed and those with a stem, the best first; return 0."""
    store, stem, licences = WeightsStore(), arguments.stem, checked_licences(arguments.licences)
    chosen = [model for model in models(store) if allows(licences, model)]
    if stem is not None:
        known = {name for model in chosen if isinstance(model.spec, BackendSpec) for name in model.spec.stems}
        if stem not in known:
            raise OptionError(f"{arg('stem', stem)}: no such stem. {suggest(stem, known)}")
        chosen = [model for model in chosen if isinstance(model.spec, BackendSpec) and stem in model.spec.stems]
        chosen.sort(key=lambda model: figures_at(model.spec.card).get(stem, -math.inf), reverse=True)
    listed = [_to_json(model, store) for model in chosen]
    console.data(listed)
    table = _table(listed, _STEMS if stem is None else (stem,))
    console.lines([*table, *_FOOTNOTE] if listed else ["No such model with weights is installed."])
    for values in listed:
        if values["error"]:
            console.say(f"unisep: {values['error']}")
    return 0


def recommend(arguments: Namespace, console: Console) -> int:
    """Print who answers a question with what is here, and who made for it is stronger after a download; return 0."""
    from unisep.query.parsed import parse_queries  # loads NumPy
    from unisep.routing.router import resolve, stronger
    from unisep.routing.types import Request
    from unisep.session.explain import current_catalog

    store, (parsed,) = WeightsStore(), parse_queries(arguments.text)
    request = Request((parsed,), offline=True, licences=checked_licences(arguments.licences))
    catalog = current_catalog(store)
    now, line = None, ""
    try:
        (now,) = resolve(request, catalog).plan.values()
        encoder = f" with {now.encoder}" if now.encoder else ""
        line = f"now {now.backend}{encoder}, licence {now.licence}. {now.reason}"
    except (PluginError, DownloadError) as error:
        line = f"nobody answers now. {error}"
    better = [
        {
            **_to_json(one.backend, store),
            "stem": one.stem,
            "figure_db": one.level_db if math.isfinite(one.level_db) else None,
        }
        for one in stronger(parsed.query.texts[0], request, catalog)
    ]
    console.data({"query": parsed.name, "now": now and asdict(now), "error": None if now else line, "better": better})
    table = _table(better[:_N_BETTER], tuple(dict.fromkeys(values["stem"] for values in better)))
    more = ["Better after `unisep models pull NAME`:", *table] if better else ["No other model is known to be better."]
    console.lines([f"{parsed.name}: {line}", *more])
    return 0


def _table(listed: list[dict[str, Any]], stems: tuple[str, ...]) -> list[str]:
    heads = ("NAME", "STATE", "SIZE", "LICENCE", *(stem.upper() for stem in stems), "ON", "WHAT")
    return columns([heads, *(_row(values, stems) for values in listed)])


def _row(values: dict[str, Any], stems: tuple[str, ...]) -> tuple[str, ...]:
    figures = values.get("quality", [])
    test_set = figures[0]["test_set"] if figures else ""
    by_stem = {figure["stem"]: f"{figure['figure_db']:.1f}" for figure in figures if figure["test_set"] == test_set}
    facts = (values["name"], values["state"], _size(values.get("n_bytes")), values.get("licence", ""))
    return (*facts, *(by_stem.get(stem, "") for stem in stems), test_set, values.get("summary", ""))


def _to_json(model: Model, store: WeightsStore) -> dict[str, Any]:
    values = {"name": model.name, "distribution": model.distribution, "state": model.weights}
    try:
        card = read_card(model.spec.card)
    except WeightsError as error:
        return {**values, "error": str(error)}
    about = card.model_dump(mode="json", include={"summary", "licence", "source", "quality"})
    return {**values, "error": None, "path": str(store.path(card)), "n_bytes": card.n_bytes, **about}


def pull(arguments: Namespace, console: Console) -> int:
    """Download and verify models; return 0 when all are here, else 1. One that fails does not stop the others."""
    store = WeightsStore()

    def show(progress: FileProgress) -> None:
        whole = f" of {_size(progress.n_bytes_total)}" if progress.n_bytes_total else ""
        console.rewrite(f"{progress.card}: {progress.file} {_size(progress.n_bytes_done)}{whole}")

    def pull_one(model: Model) -> dict[str, Any]:
        card = read_card(model.spec.card)
        console.note(f"unisep: {model.name}: licence {card.licence}; source {card.source or 'not stated'}")
        folder = store.ensure(card, show if console.is_watched else None)
        console.lines([str(folder)])
        return {"name": model.name, "ok": True, "path": str(folder), "licence": card.licence, "error": None}

    names: list[str] = []
    for name in arguments.names:
        names += _agreed(name, store, console, yes=arguments.yes) if name in presets() else [name]
    return _for_each(_find(names, store), console, pull_one)


def _agreed(name: str, store: WeightsStore, console: Console, *, yes: bool) -> list[str]:
    """Return the models of a preset, after showing them; what is to be fetched must be agreed to."""
    preset, every = presets()[name], {model.key: model for model in models(store) if model.weights != "broken"}
    cards = {key: read_card(model.spec.card) for key, model in every.items()}
    chosen = strongest(name, cards)
    if not chosen:
        raise PluginError(f"No installed model can be part of '{name}'. Run: pip install unisep-htdemucs")
    rows = [("MODEL", "STATE", "SIZE", "LICENCE", "STRONGEST AT, IN dB")]
    for key, stems in chosen.items():
        card, figures = cards[key], figures_db(cards[key])
        strengths = ", ".join(f"{stem} {figures[stem]:.1f}" for stem in stems)
        rows.append((every[key].name, every[key].weights, _size(card.n_bytes), card.licence, strengths))
    total = sum(cards[key].n_bytes for key in chosen if every[key].weights == "missing")
    show = console.note if yes or not total else console.say
    for line in (f"{name}: {preset['summary']} (SDR, on the scale of docs/backends.md)", *columns(rows)):
        show(line)
    show(f"To download: {_size(total)}" if total else "All of them are here.")
    if total and not yes and not console.agrees("Download them?", f"unisep models pull {name} --yes"):
        raise DownloadError("Nothing was downloaded, as you wished.")
    return list(chosen)


def verify(arguments: Namespace, console: Console) -> int:
    """Check the files of models, by default of all that are here; return 0 when every one is what it should be, else 1."""
    store = WeightsStore()

    def verify_one(model: Model) -> dict[str, Any]:
        name, checks = model.name, store.verify(read_card(model.spec.card))
        console.lines(columns([(name, check.name, check.state, check.sha256) for check in checks]))
        error = None
        if not all(map(is_intact, checks)):
            error = f"{name} is not intact. Fetch it again with: unisep models pull {name}"
            console.say(f"unisep: error: {error}")
        return {"name": name, "ok": error is None, "files": [asdict(check) for check in checks], "error": error}

    here = [model for model in models(store) if model.weights != "missing"]
    return _for_each(_find(arguments.names, store) if arguments.names else here, console, verify_one)


def show_card(arguments: Namespace, console: Console) -> int:
    """Print what is known of one model, and return 0."""
    (model,) = _find(arguments.names, WeightsStore())
    card, state = read_card(model.spec.card), model.weights
    console.data({**card.model_dump(mode="json"), "state": state})
    facts = [("name", card.name), ("what", card.summary), ("licence", card.licence), ("source", card.source)]
    facts += [("outputs", ", ".join(card.sources)), ("state", state), ("size", _size(card.n_bytes))]
    facts += [("file", f"{file.name}  sha256 {file.sha256 or 'recorded at the first download'}") for file in card.files]
    console.lines(columns([fact for fact in facts if fact[1]]))
    published = [(f.stem, f"{f.figure_db:g} dB", f.metric, f.test_set, f.source) for f in card.quality]
    console.lines(["", "Quality:", *columns(published)] if published else [])
    console.lines(["", *card.notes.strip().splitlines()] if card.notes.strip() else [])
    console.lines(["", "Measured:", *_measured(card.measured, "  ")] if card.measured else [])
    return 0


def _for_each(chosen: Iterable[Model], console: Console, action: Callable[[Model], dict[str, Any]]) -> int:
    results = []
    for model in chosen:
        try:
            results.append(action(model))
        except UnisepError as error:
            console.error(error)
            results.append({"name": model.name, "ok": False, "error": str(error)})
    console.data(results)
    return 0 if all(result["ok"] for result in results) else 1


def _find(names: Iterable[str], store: WeightsStore) -> list[Model]:
    """Return the models called so, or "distribution:name", each once. Raises PluginError for none, or two of one name."""
    every = tuple(models(store))
    return [find("model", name, every) for name in dict.fromkeys(names)]


def _size(n_bytes: int | None) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes else "-"


def _measured(values: dict[str, Any], indent: str) -> list[str]:
    """Return lines for figures: plain ones, then a table of those one level below, then what is deeper."""
    lines, rows, deeper = [], {}, []
    for key, value in values.items():
        if not isinstance(value, dict):
            lines.append(f"{indent}{key}: {_figure(value)}")
        elif any(isinstance(figure, dict) for figure in value.values()):
            deeper += [f"{indent}{key}:", *_measured(value, indent + "  ")]
        else:
            rows[key] = value
    if rows:
        heads = list(dict.fromkeys(head for row in rows.values() for head in row))
        table = [("", *heads), *((key, *(_figure(row.get(head, "-")) for head in heads)) for key, row in rows.items())]
        lines += [f"{indent}{line}" for line in columns(table)]
    return lines + deeper


def _figure(value: Any) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
