"""`unisep explain`: who would answer, why, and who else could. Loads neither torch nor any model."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from unisep.cli.console import Console
from unisep.cli.questions import questions
from unisep.errors import OptionError
from unisep.session.explain import Answer, Candidate, Explanation, Part, n_segments
from unisep.session.explain import explain as explanation_of

N_OTHERS = 3


def explain(arguments: Namespace, console: Console) -> int:
    """Print who would answer each thing asked, and return 0."""
    if arguments.weights or arguments.query_weights or (arguments.encoder and "@" in arguments.encoder):
        raise OptionError(
            "explain loads nothing, so it cannot look into weights of your own: "
            "leave out --weights, --query-weights and NAME@PLACE."
        )
    song, seconds = None, None
    if arguments.input is not None:
        from unisep import files

        song, seconds = str(arguments.input), files.probe(arguments.input).seconds
    names = ("backend", "query_backend", "encoder", "licences", "stems", "route", "cascade", "offline")
    options = {name: getattr(arguments, name) for name in names}
    query: Any = questions(arguments)
    explanation = explanation_of(query, **options)
    console.data({"input": song, "seconds": seconds, **explanation.to_json()})
    console.lines(_lines(explanation, seconds, verbose=arguments.verbose))
    return 0


def _lines(explanation: Explanation, seconds: float | None, *, verbose: bool) -> list[str]:
    lines = [] if seconds is None else [f"the recording: {seconds:.1f} s"]
    groups: dict[Any, list[Answer]] = {}
    for answer in explanation.answers:
        groups.setdefault((answer.chosen, answer.others), []).append(answer)
    for answers in groups.values():
        lines += _answer_lines(", ".join(answer.name for answer in answers), answers[0], seconds, verbose=verbose)
    more = {"rules asked first": explanation.rules, "results go through": explanation.steps}
    lines += [f"{head}: {', '.join(titles)}" for head, titles in more.items() if titles]
    return lines + ([f"warning: {explanation.warning}"] if explanation.warning else [])


def _answer_lines(names: str, answer: Answer, seconds: float | None, *, verbose: bool) -> list[str]:
    lines = [f"{names}: {_who(answer.chosen)}", f"  why: {answer.chosen.reason}", *_part_lines(answer.chosen, seconds)]
    n_shown = len(answer.others) if verbose else N_OTHERS
    for candidate in answer.others[:n_shown]:
        lines += [f"  could also: {_who(candidate)}", *(f"  {line}" for line in _part_lines(candidate, None))]
    if answer.others[n_shown:]:
        lines.append(f"  could also: {len(answer.others) - n_shown} more; --verbose lists them")
    for candidate in answer.unable if verbose else ():
        first_sentence = candidate.reason.split(". ")[0].rstrip(".")
        lines.append(f"  cannot: {_who(candidate)}: {first_sentence}.")
    if answer.unable and not verbose:
        lines.append(f"  cannot: {len(answer.unable)} others; --verbose says why")
    return lines


def _who(candidate: Candidate) -> str:
    level = "" if candidate.level_db is None else f", {candidate.level_db:.1f} dB"
    return candidate.backend.name + (f" with {candidate.encoder.name}" if candidate.encoder else "") + level


def _part_lines(candidate: Candidate, seconds: float | None) -> list[str]:
    lines = [f"  backend {candidate.backend.name}: {_facts(candidate.backend, seconds)}"]
    if candidate.encoder:
        lines.append(f"  encoder {candidate.encoder.name}: {_facts(candidate.encoder, None)}")
    return lines


def _facts(part: Part, seconds: float | None) -> str:
    """Return licence, state and cost in one line; of what is not known, nothing."""
    cost = part.cost
    facts = [f"of {part.distribution}", f"licence {part.licence}", _weights(part)]
    if cost.n_parameters:
        facts.append(f"{cost.n_parameters / 1e6:.1f} million parameters")
    elif cost.n_values:
        facts.append(f"{cost.n_values / 1e6:.1f} million numbers in its weights")
    if cost.segment_seconds:
        facts.append(f"segments of {cost.segment_seconds:g} s")
        if seconds is not None:
            facts.append(f"{n_segments(seconds, cost.segment_seconds)} of them for {seconds:.1f} s")
    return ", ".join(facts)


def _weights(part: Part) -> str:
    size = f", {part.cost.n_weight_bytes / 1e6:.0f} MB" if part.cost.n_weight_bytes else ""
    n_missing_bytes = part.cost.n_download_bytes
    missing = f", {n_missing_bytes / 1e6:.0f} MB of them to download" if n_missing_bytes else ""
    sentences = {
        "local": f"weights of its members{size}{missing}",
        "none": "needs no weights",
        "embedded": f"weights come with it{size}",
        "present": f"weights are here{size}",
        "missing": f"weights are not here{size and f'{size} to download'}: unisep models pull {part.name}",
    }
    return sentences.get(part.weights, f"weights {part.weights}")
