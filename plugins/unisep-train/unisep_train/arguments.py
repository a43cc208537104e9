"""Command lines read off functions: what a command takes is the signature of the function that does it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from inspect import Parameter, getmodule, signature
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def parser_of(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Read a command off its function: keywords become options, without their unit, and `Args:` the help.

    >>> def pad(file: str, *, stop_after_seconds: float = 3.0) -> None: ...
    >>> vars(parser_of("pad", pad).parse_args(["a.wav", "--stop-after", "2"]))
    {'file': 'a.wav', 'stop_after_seconds': 2.0}
    """
    parser = argparse.ArgumentParser(
        f"python -m unisep_train {name}", description=getattr(getmodule(function), "__doc__", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    helps = dict(re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", function.__doc__ or "", re.MULTILINE))
    kinds: dict[str, Any] = get_type_hints(function)
    for argument, parameter in signature(function).parameters.items():
        kind, options = kinds[argument], dict[str, Any]()
        if isinstance(kind, UnionType):
            (kind,) = (member for member in get_args(kind) if member is not NoneType)
        if get_origin(kind) is list:
            (kind,), options["nargs"] = get_args(kind), "+"
        if get_origin(kind) is Literal:
            kind, options["choices"] = str, get_args(kind)
        flag = argument
        if parameter.kind is Parameter.KEYWORD_ONLY:
            flag = "--" + re.sub(r"(_hz|(?<=.)_seconds|_)$", "", argument).replace("_", "-")
            options |= {"dest": argument, "action": "extend" if "nargs" in options else "store"}
            has_default = parameter.default is not Parameter.empty
            options |= {"default": parameter.default} if has_default else {"required": True}
        text = " ".join(helps.get(argument, "").split()).replace("%", "%%")
        default = "" if options.get("default") is None else " Default: %(default)s."
        parser.add_argument(flag, type=kind, help=text + default, **options)
    return parser
