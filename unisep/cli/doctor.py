"""`unisep doctor`: is everything here that separating needs, and if not, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import unisep
from unisep.cli.console import Console, columns

LEAST_PYTHON = (3, 11)


LEAST_FREE_BYTES = 2 * 10**9


PACKAGES = ("numpy", "torch", "soundfile", "soxr", "safetensors", "pydantic", "pluggy")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. "ok"; "note": works, with less than there could be; "broken": separating fails.

    advice: what to do, for a note or what is broken.
    """

    what: str
    state: Literal["ok", "note", "broken"]
    detail: str
    advice: str = ""


def doctor(arguments: Namespace, console: Console) -> int:
    """0 when separating works, 1 when something needed is broken."""
    findings = [finding for check in CHECKS for finding in _guarded(check)]
    healthy = all(finding.state != "broken" for finding in findings)
    console.data({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    console.lines(columns([(finding.state, finding.what, finding.detail) for finding in findings]))
    advised = [finding for finding in findings if finding.advice]
    console.lines(["", *(f"{finding.what}: {finding.advice}" for finding in advised)] if advised else [])
    return 0 if healthy else 1


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What the check finds; a check that fails is a finding too."""
    try:
        return list(check())
    except Exception as error:
        name = check.__name__.strip("_")
        return [
            Finding(
                name, "broken", f"{type(error).__name__}: {error}", "Reinstall: pip install --force-reinstall unisep"
            )
        ]


def _python() -> Iterator[Finding]:
    yield Finding("unisep", "ok", f"{unisep.__version__} at {Path(unisep.__file__).parent}")
    fine = sys.version_info >= LEAST_PYTHON
    detail = f"{platform.python_version()} at {sys.executable} on {platform.platform()}"
    advice = "" if fine else f"unisep needs Python {'.'.join(map(str, LEAST_PYTHON))} or later."
    yield Finding("python", "ok" if fine else "broken", detail, advice)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            import_module(name)
            yield Finding(name, "ok", metadata.version(name))
        except Exception as error:  # a package of compiled code may fail in any way
            detail = f"{type(error).__name__}: {error}"
            yield Finding(name, "broken", detail, f"Run: pip install --force-reinstall {name}")


def _devices() -> Iterator[Finding]:
    import torch

    from unisep.engine.device import cpu_computes_bfloat16, find_device

    names = ["cpu (computes in bfloat16)" if cpu_computes_bfloat16() else "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver too old for this torch is said below: there is no cuda then
        names += [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
        names += ["mps"] if torch.backends.mps.is_available() else []
        chosen = find_device("auto")
    detail = f"{', '.join(names)}; chosen: {chosen}; {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield Finding("devices", "ok", detail)


def _plugins() -> Iterator[Finding]:
    from unisep.plugins.registry import installed

    found = installed(strict=False)
    if not found:
        advice = "Run: pip install unisep-htdemucs unisep-film unisep-clap"
        yield Finding("plugins", "broken", "none is installed", advice)
    for plugin in found:
        label, names = f"plugin {plugin.name}", ", ".join(spec.name for spec in plugin.specs)
        detail = f"{plugin.distribution} {plugin.version}: {names}"
        if plugin.state == "ok":
            yield Finding(label, "ok", detail)
        elif plugin.state == "blocked":
            yield Finding(label, "note", f"{plugin.distribution} {plugin.version}: {plugin.complaint}")
        else:
            detail = f"{plugin.distribution} {plugin.version} is {plugin.state}: {plugin.complaint}"
            advice = (
                f"`unisep plugins --verbose` shows why. pip install --upgrade {plugin.distribution}, or uninstall it."
            )
            yield Finding(label, "broken", detail, advice)


def _weights() -> Iterator[Finding]:
    from unisep.cli.models import models
    from unisep.weights.store import WeightsStore

    store = WeightsStore()
    every = models()
    for model in every:
        label = f"weights {model.name}"
        if model.card is None:
            yield Finding(label, "broken", model.error, f"Reinstall {model.distribution}.")
            continue
        state = store.state(model.card)
        if state == "missing":
            yield Finding(label, "note", state, f"To have it: unisep models pull {model.name}")
            continue
        bad = [check.name for check in store.verify(model.card) if check.state not in ("ok", "unrecorded")]
        advice = f"Run: unisep models pull {model.name}" if state == "present" else f"Reinstall {model.distribution}."
        yield Finding(
            label, "broken" if bad else "ok", f"{state}{f', damaged: {bad}' if bad else ''}", advice if bad else ""
        )


def _answers() -> Iterator[Finding]:
    """Who would answer without a download; a plan is made and nothing is loaded."""
    import torch

    from unisep.engine.device import Precision
    from unisep.errors import UnisepError
    from unisep.query.parsed import parse_queries
    from unisep.routing.router import resolve
    from unisep.routing.types import Request
    from unisep.session.models import ModelPool
    from unisep.weights.store import WeightsStore

    catalog = ModelPool(WeightsStore(offline=True), Precision("float32", torch.device("cpu"))).catalog()
    asked = {"fixed stems": None, "text queries": parse_queries("electric guitar")}
    problems = []
    for what, parsed_queries in asked.items():
        try:
            route = resolve(Request(parsed_queries=parsed_queries, offline=True), catalog)
            who = ", ".join(dict.fromkeys(choice.backend for choice in route.plan.values()))
            yield Finding(what, "ok", f"answered by {who}", route.warning)
        except UnisepError as error:
            problems.append(Finding(what, "note", "not answered", str(error)))
    yield from (replace(p, state="broken") if len(problems) == len(asked) else p for p in problems)


def _ffmpeg() -> Iterator[Finding]:
    from unisep.files import ffmpeg

    place = ffmpeg.program()
    if place:
        yield Finding("ffmpeg", "ok", place)
    else:
        advice = "Install the ffmpeg program to read m4a, wma and video; wav, flac, mp3, ogg and opus work without."
        yield Finding("ffmpeg", "note", "not installed", advice)


def _disk() -> Iterator[Finding]:
    from unisep.weights.hub import offline_by_environment
    from unisep.weights.store import default_folder

    folder = default_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    detail = f"{folder}, {free / 1e9:.1f} GB free" + (", offline (HF_HUB_OFFLINE)" if offline_by_environment() else "")
    advice = ""
    if not os.access(there, os.W_OK):
        advice = "It cannot be written. Set UNISEP_HOME to a folder that can."
    elif free < LEAST_FREE_BYTES:
        advice = "There is little room for weights. Free some, or set UNISEP_HOME to a folder with more."
    yield Finding("weights folder", "note" if advice else "ok", detail, advice)


CHECKS = (_python, _packages, _devices, _plugins, _weights, _answers, _ffmpeg, _disk)
