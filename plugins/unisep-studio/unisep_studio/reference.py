"""What can be read about a server: its models, sounds to ask for, figures, and the reference of its routes as a page."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from typing import Any

from unisep.plugins.registry import installed
from unisep.query.concepts import concepts as known_concepts
from unisep.query.parsed import parse_queries
from unisep.routing.catalog import BackendEntry, EncoderEntry, build_catalog
from unisep.routing.router import stronger
from unisep.routing.types import Request
from unisep.session.explain import current_catalog
from unisep.weights.store import WeightsStore
from unisep_studio.scheduler import Scheduler
from unisep_studio.schemas import ConceptAnswer, ModelAnswer, StrongerAnswer
from unisep_studio.store import Store


def models() -> list[ModelAnswer]:
    """Return what is installed, by name."""
    store = WeightsStore()
    catalog = build_catalog(installed(), (), lambda spec: store.state_at(spec.card))
    entries = [*map(_backend, catalog.backends), *map(_encoder, catalog.encoders)]
    return sorted(entries, key=lambda entry: (entry.kind, entry.name))


def _backend(entry: BackendEntry) -> ModelAnswer:
    spec = entry.spec
    return ModelAnswer(
        name=entry.name, kind="backend", distribution=entry.distribution, summary=spec.summary, state=entry.weights,
        licence=entry.licence, stems=list(spec.stems), answers_queries=bool(spec.spaces),
    )  # fmt: skip


def _encoder(entry: EncoderEntry) -> ModelAnswer:
    return ModelAnswer(
        name=entry.name, kind="encoder", distribution=entry.distribution, summary=f"queries in {entry.spec.space}",
        state=entry.weights, licence=entry.licence, stems=[], answers_queries=True,
    )  # fmt: skip


def concepts() -> list[ConceptAnswer]:
    """Return the sounds that have a name, and their other names."""
    return [
        ConceptAnswer(name=concept.name, kind=concept.kind, wordings=list(concept.wordings), stem=concept.stem)
        for concept in known_concepts().values()
    ]


def recommendations(text: str) -> list[StrongerAnswer]:
    """Return who was made for what a text asks for, and is better after a download than who is here, the best first."""
    request = Request(tuple(parse_queries(text)), offline=True)
    models = stronger(text, request, current_catalog(WeightsStore()))
    return [StrongerAnswer(name=one.backend.name, stem=one.stem, licence=one.backend.licence) for one in models]


def metrics(store: Store, scheduler: Scheduler, answers: Counter[str]) -> str:
    """Return figures in the text format of Prometheus."""
    lines = ["# TYPE unisep_jobs gauge"]
    lines += [f'unisep_jobs{{state="{state}"}} {n_jobs}' for state, n_jobs in sorted(store.counts().items())]
    lines += ["# TYPE unisep_responses_total counter"]
    lines += [f'unisep_responses_total{{code="{code}"}} {n_answers}' for code, n_answers in sorted(answers.items())]
    figures = [
        ("unisep_workers", "gauge", sum(worker.pid is not None for worker in scheduler.workers)),
        ("unisep_worker_starts_total", "counter", sum(worker.n_starts for worker in scheduler.workers)),
        ("unisep_separated_seconds_total", "counter", round(scheduler.seconds_separated, 3)),
        ("unisep_disk_bytes", "gauge", store.used_bytes),
    ]
    for name, kind, value in figures:
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"


def page(openapi: dict[str, Any]) -> str:
    """Return the routes as a page of HTML, without scripts and with nothing from elsewhere."""
    sections = [
        _section(method, path, route) for path, methods in openapi["paths"].items() for method, route in methods.items()
    ]
    schemas = [
        f"<h3 id='{escape(name)}'>{escape(name)}</h3><pre>{escape(json.dumps(schema, indent=1))}</pre>"
        for name, schema in openapi["components"]["schemas"].items()
    ]
    title = escape(openapi["info"]["title"])
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title></head><body><main>"
        f"<h1>{title} {escape(openapi['info']['version'])}</h1><p>{escape(openapi['info'].get('summary', ''))} "
        f"The same as <a href='/openapi.json'>OpenAPI</a>.</p>{''.join(sections)}<h2>Schemas</h2>{''.join(schemas)}"
        "</main></body></html>"
    )


def _section(method: str, path: str, route: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{escape(item['name'])}</code> ({escape(item['in'])}) {escape(item.get('description', ''))}</li>"
        for item in route.get("parameters", ())
    )
    answers = ", ".join(sorted(route.get("responses", ())))
    bodies = sorted(set(_references(route)))
    links = ", ".join(f"<a href='#{escape(name)}'>{escape(name)}</a>" for name in bodies)
    return (
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(route.get('description', ''))}</p>"
        f"<ul>{parameters}</ul><p>Answers: {escape(answers)}. {links}</p>"
    )


def _references(value: Any) -> list[str]:
    """Return the names of the schemas that a part of the description refers to."""
    if isinstance(value, dict):
        own = [str(value["$ref"]).rsplit("/", 1)[-1]] if "$ref" in value else []
        return own + [name for item in value.values() for name in _references(item)]
    return [name for item in value for name in _references(item)] if isinstance(value, list) else []
