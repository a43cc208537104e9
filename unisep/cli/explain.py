"""`unisep explain`: who would answer, why, and who else could. Loads neither torch nor any model."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from unisep.cli.console import Console
from unisep.cli.questions import questions
from unisep.errors import OptionError
from unisep.session.explain import Answer, Candidate, Explanation, Part, n_segments
from unisep.session.explain import explain as explanation_of

if TYPE_CHECKING:
    from unisep.files.formats import AudioFileInfo


def explain(arguments: Namespace, console: Console) -> int:
    """0; prints who would answer each thing asked."""
    if arguments.weights or arguments.query_weights or (arguments.encoder and "@" in arguments.encoder):
        raise OptionError(
            "explain loads nothing, so it cannot look into weights of your own: "
            "leave out --weights, --query-weights and NAME@PLACE."
        )
    song = None if arguments.input is None else _probed(arguments)
    stems = arguments.stems or ((arguments.two_stems,) if arguments.two_stems else None)
    found = explanation_of(
        questions(arguments),
        backend=arguments.backend,
        query_backend=arguments.query_backend,
        encoder=arguments.encoder,
        stems=stems,
        route=arguments.route,
        offline=arguments.offline,
    )
    seconds = None if song is None else song.seconds
    console.data({"input": None if song is None else str(arguments.input), "seconds": seconds, **found.to_json()})
    console.lines(_lines(found, seconds, verbose=arguments.verbose))
    return 0


def _probed(arguments: Namespace) -> AudioFileInfo:
    from unisep import files

    return files.probe(arguments.input)


def _lines(found: Explanation, seconds: float | None, *, verbose: bool) -> list[str]:
    lines = [] if seconds is None else [f"the recording: {seconds:.1f} s"]
    groups: dict[Any, list[Answer]] = {}
    for answer in found.answers:
        groups.setdefault((answer.chosen, answer.others), []).append(answer)
    for group in groups.values():
        lines += _answer_lines([answer.name for answer in group], group[0], seconds, verbose=verbose)
    if found.rules:
        lines.append(f"rules asked first: {', '.join(found.rules)}")
    if found.steps:
        lines.append(f"results go through: {', '.join(found.steps)}")
    return lines + ([f"warning: {found.warning}"] if found.warning else [])


def _answer_lines(names: list[str], answer: Answer, seconds: float | None, *, verbose: bool) -> list[str]:
    lines = [f"{', '.join(names)}: {_who(answer.chosen)}", f"  why: {answer.chosen.reason}"]
    lines += _part_lines(answer.chosen, seconds)
    for candidate in answer.others:
        lines.append(f"  could also: {_who(candidate)}")
        lines += [f"  {line}" for line in _part_lines(candidate, None)]
    if verbose:
        return lines + [f"  cannot: {_who(each)}: {_first_sentence(each.reason)}" for each in answer.unable]
    return lines + ([f"  cannot: {len(answer.unable)} others; --verbose says why"] if answer.unable else [])


def _who(candidate: Candidate) -> str:
    return candidate.backend.name + (f" with {candidate.encoder.name}" if candidate.encoder else "")


def _part_lines(candidate: Candidate, seconds: float | None) -> list[str]:
    lines = [f"  backend {candidate.backend.name}: {_facts(candidate.backend, seconds)}"]
    return lines + (
        [f"  encoder {candidate.encoder.name}: {_facts(candidate.encoder, None)}"] if candidate.encoder else []
    )


def _facts(part: Part, seconds: float | None) -> str:
    """Licence, state and cost in one line; of what is not known, nothing."""
    cost = part.cost
    facts = [f"of {part.distribution}", f"licence {part.licence}", _weights(part)]
    if cost.n_parameters or cost.n_values:
        what = "parameters" if cost.n_parameters else "numbers in its weights"
        facts.append(f"{(cost.n_parameters or cost.n_values or 0) / 1e6:.1f} million {what}")
    facts += [f"segments of {cost.segment_seconds:g} s"] if cost.segment_seconds else []
    if seconds is not None and cost.segment_seconds:
        facts.append(f"{n_segments(seconds, cost.segment_seconds)} of them for {seconds:.1f} s")
    return ", ".join(facts)


def _weights(part: Part) -> str:
    size = f", {part.cost.n_weight_bytes / 1e6:.0f} MB" if part.cost.n_weight_bytes else ""
    n_missing_bytes = part.cost.n_download_bytes or 0
    said = {
        "local": f"weights of its members{size}"
        + (f", {n_missing_bytes / 1e6:.0f} MB of them to download" if n_missing_bytes else ""),
        "none": "needs no weights",
        "embedded": f"weights come with it{size}",
        "present": f"weights are here{size}",
        "missing": f"weights are not here{size} to download: unisep models pull {part.name}",
    }
    return said.get(part.weights, f"weights {part.weights}")


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."
