"""`unisep doctor`: is everything here that separating needs, and if not, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import unisep
from unisep.cli.console import Console, columns
from unisep.errors import UnisepError

LEAST_FREE_BYTES = 2 * 10**9
PACKAGES = ("numpy", "torch", "soundfile", "soxr", "safetensors", "pydantic", "pluggy")

Check = Callable[[], "Iterator[Finding]"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: "note" means less than there could be, "broken" that separating fails; both have advice."""

    what: str
    state: Literal["ok", "note", "broken"]
    detail: str
    advice: str = ""


def doctor(arguments: Namespace, console: Console) -> int:
    """Print what is here; return 0 when separating works, 1 when something needed is broken."""
    checked = {check: _guarded(check) for check in CHECKS}
    findings = [finding for part in checked.values() for finding in part]
    healthy = all(finding.state != "broken" for finding in findings)
    console.data({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    if not arguments.verbose:
        findings = [finding for check, part in checked.items() for finding in _in_brief(check, part)]
    console.lines(columns([(finding.state, finding.what, finding.detail) for finding in findings]))
    console.lines([f"{finding.what}: {finding.advice}" for finding in findings if finding.advice])
    return 0 if healthy else 1


def _in_brief(check: Check, findings: list[Finding]) -> list[Finding]:
    """Return what is broken, and one finding for all else of a check that finds many things."""
    if check not in COUNTED:
        return findings
    broken = [finding for finding in findings if finding.state == "broken"]
    calm = [finding for finding in findings if finding.state != "broken"]
    states = Counter(finding.detail if check is _weights else finding.state for finding in calm)
    detail = ", ".join(f"{n} {state}" for state, n in states.items())
    more = " (the strongest: unisep models pull best)" if states["missing"] else ""
    return [*broken, Finding(COUNTED[check], "ok", detail + more)] if calm and COUNTED[check] else broken


def _guarded(check: Check) -> list[Finding]:
    """Return what the check finds; a check that fails is a finding too."""
    try:
        return list(check())
    except Exception as error:
        advice = "Reinstall: pip install --force-reinstall unisep"
        return [Finding(check.__name__.strip("_"), "broken", f"{type(error).__name__}: {error}", advice)]


def _unisep() -> Iterator[Finding]:
    version = f"{unisep.__version__} for Python {platform.python_version()}"
    yield Finding("unisep", "ok", f"{version} at {Path(unisep.__file__).parent}")


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable} on {platform.platform()}")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            import_module(name)
            yield Finding(name, "ok", metadata.version(name))
        except Exception as error:  # a package of compiled code may fail in any way
            advice = f"Run: pip install --force-reinstall {name}"
            yield Finding(name, "broken", f"{type(error).__name__}: {error}", advice)


def _devices() -> Iterator[Finding]:
    import torch

    from unisep.engine.device import cpu_computes_bfloat16, find_device

    names = ["cpu (computes in bfloat16)" if cpu_computes_bfloat16() else "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver too old for this torch is said below: there is no cuda then
        names += [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
        names += ["mps"] if torch.backends.mps.is_available() else []
        chosen = find_device("auto")
    detail = f"torch {torch.__version__}: {', '.join(names)}; chosen: {chosen}; {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield Finding("devices", "ok", detail)


def _plugins() -> Iterator[Finding]:
    from unisep.plugins.registry import installed

    plugins = installed(strict=False)
    if not plugins:
        advice = "Run: pip install unisep-htdemucs unisep-film unisep-clap"
        yield Finding("plugins", "broken", "none is installed", advice)
    for plugin in plugins:
        what, origin = f"plugin {plugin.name}", f"{plugin.distribution} {plugin.version}"
        if plugin.state == "ok":
            yield Finding(what, "ok", f"{origin}: {', '.join(spec.name for spec in plugin.specs)}")
        elif plugin.state == "blocked":
            yield Finding(what, "note", f"{origin}: {plugin.complaint}")
        else:
            upgrade = f"pip install --upgrade {plugin.distribution}"
            advice = f"`unisep plugins --verbose` shows why. {upgrade}, or uninstall it."
            yield Finding(what, "broken", f"{origin} is {plugin.state}: {plugin.complaint}", advice)


def _weights() -> Iterator[Finding]:
    from unisep.cli.models import is_intact, models
    from unisep.weights.cards import read_card
    from unisep.weights.store import WeightsStore

    store = WeightsStore()
    for model in models(store):
        what, state, pull = f"weights {model.name}", model.weights, f"unisep models pull {model.name}"
        reinstall = f"Reinstall {model.distribution}."
        try:
            damaged = [check.name for check in store.verify(read_card(model.spec.card)) if not is_intact(check)]
        except UnisepError as error:
            yield Finding(what, "broken", str(error), reinstall)
            continue
        if state == "missing":
            yield Finding(what, "note", state, f"To have it: {pull}")
        elif damaged:
            advice = f"Run: {pull}" if state == "present" else reinstall
            yield Finding(what, "broken", f"{state}, damaged: {damaged}", advice)
        else:
            yield Finding(what, "ok", state)


def _answers() -> Iterator[Finding]:
    """Yield who would answer without a download; nothing is loaded."""
    from unisep.audio import Audio
    from unisep.session.explain import explain

    example = Audio([[0.5] * 100], 44_100)
    queries = {"fixed stems": None, "text queries": "electric guitar", "example queries": example}
    errors = {}
    for what, query in queries.items():
        try:
            explanation = explain(query, offline=True)
            names = dict.fromkeys(answer.chosen.backend.name for answer in explanation.answers)
            yield Finding(what, "ok", f"answered by {', '.join(names)}", explanation.warning)
        except UnisepError as error:
            errors[what] = str(error)
    for what, advice in errors.items():
        yield Finding(what, "broken" if len(errors) == len(queries) else "note", "not answered", advice)


def _ffmpeg() -> Iterator[Finding]:
    from unisep.files import ffmpeg

    place = ffmpeg.program()
    advice = "Install the ffmpeg program to read m4a, wma and video; wav, flac, mp3, ogg and opus work without."
    yield Finding("ffmpeg", "ok", place) if place else Finding("ffmpeg", "note", "not installed", advice)


def _disk() -> Iterator[Finding]:
    from unisep.weights.hub import offline_by_environment
    from unisep.weights.store import default_folder

    folder = default_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    n_free_bytes = shutil.disk_usage(existing).free
    offline = ", offline (HF_HUB_OFFLINE)" if offline_by_environment() else ""
    advice = ""
    if not os.access(existing, os.W_OK):
        advice = "It cannot be written. Set UNISEP_HOME to a folder that can."
    elif n_free_bytes < LEAST_FREE_BYTES:
        advice = "There is little room for weights. Free some, or set UNISEP_HOME to a folder with more."
    detail = f"{folder}, {n_free_bytes / 1e9:.1f} GB free{offline}"
    yield Finding("weights folder", "note" if advice else "ok", detail, advice)


CHECKS: tuple[Check, ...] = (_unisep, _python, _packages, _devices, _plugins, _weights, _answers, _ffmpeg, _disk)
# In brief they are one line, or none where all is well.
COUNTED = {_python: "", _packages: "", _plugins: "plugins", _weights: "weights"}
