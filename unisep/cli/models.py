"""`unisep models`: the weights of everything installed; where they are, whose they are, whether they are intact."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from unisep.cli.console import Console, columns
from unisep.errors import PluginError, UnisepError, suggest
from unisep.plugins.plugin import Plugin
from unisep.plugins.registry import clash, installed
from unisep.plugins.specs import ModelSpec
from unisep.weights.cards import Card, read_card
from unisep.weights.store import FileProgress, WeightsStore


@dataclass(frozen=True)
class Model:
    """A backend or encoder with weights: its name, distribution and card, or what is wrong with the card; its plugin."""

    name: str
    distribution: str
    card: Card | None
    error: str = ""
    plugin: str = ""

    def to_json(self, store: WeightsStore) -> dict[str, Any]:
        """The model as plain values."""
        values: dict[str, Any] = {"name": self.name, "distribution": self.distribution, "error": self.error or None}
        if self.card is None:
            return {**values, "state": "broken"}
        about = {key: getattr(self.card, key) for key in ("summary", "licence", "source", "n_bytes")}
        return {**values, "state": store.state(self.card), "path": str(store.path(self.card)), **about}


def models() -> list[Model]:
    """Every model of the plugins that work, by name."""
    specs = [(plugin, spec) for plugin in installed() for spec in plugin.specs_of(ModelSpec) if spec.card]
    return sorted((_model(plugin, spec.name, spec.card) for plugin, spec in specs), key=lambda m: m.name)


def show_list(arguments: Namespace, console: Console) -> int:
    """0; prints a line for each model."""
    store = WeightsStore()
    found = [model.to_json(store) for model in models()]
    console.data(found)
    head = ("NAME", "STATE", "SIZE", "LICENCE", "WHAT")
    rows = [(m["name"], m["state"], _size(m.get("n_bytes")), m.get("licence", ""), m.get("summary", "")) for m in found]
    console.lines(columns([head, *rows]) if rows else ["No model with weights is installed."])
    for model in found:
        if model["error"]:
            console.say(f"unisep: {model['error']}")
    return 0


def pull(arguments: Namespace, console: Console) -> int:
    """0 when all models are here and verified, else 1; one that fails does not stop the others."""
    store = WeightsStore()
    return _for_each(arguments.names, console, lambda model: _pull(model, store, console))


def verify(arguments: Namespace, console: Console) -> int:
    """0 when every file is what it should be, else 1."""
    store = WeightsStore()
    every = [model for model in models() if model.card is None or store.state(model.card) != "missing"]
    names = arguments.names or [f"{model.distribution}:{model.name}" for model in every]
    return _for_each(names, console, lambda model: _verify(model, store, console))


def show_card(arguments: Namespace, console: Console) -> int:
    """0; prints what is known of one model."""
    card = _card(_find(arguments.names[0]))
    console.data({**card.model_dump(mode="json"), "state": WeightsStore().state(card)})
    facts = [("name", card.name), ("what", card.summary), ("licence", card.licence), ("source", card.source)]
    facts += [
        ("outputs", ", ".join(card.sources)),
        ("state", WeightsStore().state(card)),
        ("size", _size(card.n_bytes)),
    ]
    facts += [("file", f"{file.name}  sha256 {file.sha256 or 'recorded at the first download'}") for file in card.files]
    console.lines(columns([fact for fact in facts if fact[1]]))
    console.lines(["", *card.notes.strip().splitlines()] if card.notes.strip() else [])
    console.lines(["", "Measured:", *_measured(card.measured, "  ")] if card.measured else [])
    return 0


def _for_each(names: Iterable[str], console: Console, action: Callable[[Model], dict[str, Any]]) -> int:
    found = [_find(name) for name in dict.fromkeys(names)]
    results = []
    for model in found:
        try:
            results.append(action(model))
        except UnisepError as error:
            console.error(error)
            results.append({"name": model.name, "ok": False, "error": str(error)})
    console.data(results)
    return 0 if all(result["ok"] for result in results) else 1


def _pull(model: Model, store: WeightsStore, console: Console) -> dict[str, Any]:
    card = _card(model)
    console.note(f"unisep: {model.name}: licence {card.licence}; source {card.source or 'not stated'}")
    folder = store.ensure(card, _showing(console) if console.is_watched else None)
    console.lines([str(folder)])
    return {"name": model.name, "ok": True, "path": str(folder), "licence": card.licence, "error": None}


def _verify(model: Model, store: WeightsStore, console: Console) -> dict[str, Any]:
    checks = store.verify(_card(model))
    ok = all(check.state in ("ok", "unrecorded") for check in checks)
    console.lines(columns([(model.name, check.name, check.state, check.sha256) for check in checks]))
    error = None if ok else f"{model.name} is not intact. Fetch it again with: unisep models pull {model.name}"
    if error:
        console.say(f"unisep: error: {error}")
    return {"name": model.name, "ok": ok, "files": [asdict(check) for check in checks], "error": error}


def _showing(console: Console) -> Callable[[FileProgress], None]:
    def show(progress: FileProgress) -> None:
        whole = f" of {_size(progress.n_bytes_total)}" if progress.n_bytes_total else ""
        console.rewrite(f"{progress.card}: {progress.file} {_size(progress.n_bytes_done)}{whole}")

    return show


def _model(plugin: Plugin, name: str, card: str) -> Model:
    try:
        return Model(name, plugin.distribution, read_card(card), plugin=plugin.name)
    except UnisepError as error:
        return Model(name, plugin.distribution, None, str(error), plugin.name)


def _card(model: Model) -> Card:
    if model.card is None:
        raise PluginError(model.error)
    return model.card


def _find(name: str) -> Model:
    every = models()
    found = [model for model in every if name in (model.name, f"{model.distribution}:{model.name}")]
    if len(found) > 1:
        owners = [(model.distribution, model.plugin) for model in found]
        raise PluginError(clash("model", found[0].name, owners))
    if not found:
        raise PluginError(f"No model named {name!r} is installed. {suggest(name, (m.name for m in every))}")
    return found[0]


def _size(n_bytes: int | None) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes else "-"


def _measured(values: dict[str, Any], indent: str) -> list[str]:
    """Lines for figures: plain ones, then tables of those that have the same columns."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"{indent}{key}: {_figure(value)}" for key, value in plain.items()]
    rows = {key: value for key, value in values.items() if _is_row(value)}
    if rows:
        heads = list(dict.fromkeys(head for row in rows.values() for head in row))
        table = [("", *heads), *((key, *(_figure(row.get(head, "-")) for head in heads)) for key, row in rows.items())]
        lines += [f"{indent}{line}" for line in columns(table)]
    for key, value in values.items():
        if key not in plain and key not in rows:
            lines += [f"{indent}{key}:", *_measured(value, indent + "  ")]
    return lines


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and not any(isinstance(figure, dict) for figure in value.values())


def _figure(value: Any) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
