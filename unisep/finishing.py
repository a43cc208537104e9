"""The steps of plugins that a result goes through, each held to its promise: same names, shape and rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from unisep.audio import Audio
from unisep.errors import FAILURES, AudioError, PluginError, UnisepError
from unisep.extensions import ResultSpec
from unisep.plugins import GIVEN, load_function
from unisep.resolve import Extra


def finish(targets: dict[str, Audio], mixture: Audio, steps: Iterable[Extra[ResultSpec]]) -> dict[str, Audio]:
    """The targets after all steps, in the order they had. What the steps get is read-only.

    Raises:
        UnisepError: a step raised it, and it is passed on.
        PluginError: a step failed otherwise, or gave other names, another shape or rate, or NaN; the message names it.
    """
    for step in steps:
        targets = _after(step, targets, mixture)
    return targets


def _after(step: Extra[ResultSpec], targets: dict[str, Audio], mixture: Audio) -> dict[str, Audio]:
    function = load_function(step.spec)
    shown = MappingProxyType({name: _read_only(audio) for name, audio in targets.items()})
    try:
        returned = function(shown, _read_only(mixture))
    except UnisepError as error:
        if not isinstance(error, AudioError):  # that of a broken Audio would not say whose it is
            raise
        raise PluginError(f"{_failed(step)}: {error} {_advice(step)}") from error
    except FAILURES as error:
        raise PluginError(f"{_failed(step)}: {type(error).__name__}: {error}. {_advice(step)}") from error
    wrong = _wrong(returned, mixture, set(targets))
    if wrong:
        raise PluginError(f"{_failed(step)}: {wrong}. {_advice(step)}")
    return {name: returned[name] for name in targets}


def _wrong(returned: Any, mixture: Audio, names: set[str]) -> str:
    """What is wrong with what a step returned, or ""."""
    if not isinstance(returned, Mapping) or not all(isinstance(audio, Audio) for audio in returned.values()):
        return f"it returned {type(returned).__name__}, not a mapping of names to Audio"
    if set(returned) != names:
        return f"it returned {', '.join(map(str, returned)) or 'nothing'}, and was given {', '.join(sorted(names))}"
    for name, audio in returned.items():
        if audio.samples.shape != mixture.samples.shape or audio.sample_rate_hz != mixture.sample_rate_hz:
            return f"'{name}' came back as {audio}, and the recording is {mixture}"
    return ""


def _read_only(audio: Audio) -> Audio:
    samples = audio.samples.view()
    samples.flags.writeable = False
    return Audio(samples, audio.sample_rate_hz)


def _failed(step: Extra[ResultSpec]) -> str:
    return f"The result step {step.title} failed"


def _advice(step: Extra[ResultSpec]) -> str:
    return f"To go without it: {without(step.distribution)}"


def without(distribution: str) -> str:
    """How to go without the plugins of a distribution, or without those that were given."""
    return "leave out --plugin (plugins=)" if distribution in GIVEN else f"UNISEP_PLUGINS=-{distribution}"
