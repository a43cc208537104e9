"""Licences as a filter: who may answer, by what the licence of their weights allows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unisep.errors import OptionError, arg
from unisep.routing.catalog import BackendEntry, Catalog, EncoderEntry

if TYPE_CHECKING:
    from unisep.routing.types import Request  # loads NumPy

COMMERCIAL = (  # licences that allow commercial use, and ask for no more than credit and the same licence for changed weights
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0",
    "CC-BY-SA-4.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "Unlicense", "Zlib",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def checked_licences(licences: object) -> tuple[str, ...]:
    """Return the SPDX names allowed by one name or a list, "commercial" spelt out; none for None. Raise OptionError for all else."""
    names: Any = [licences] if isinstance(licences, str) else licences
    if names is None:
        return ()
    is_list = isinstance(names, list | tuple) and bool(names)
    if not is_list or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise OptionError(f"{arg('licences', licences)}: give 'commercial', or SPDX names, such as MIT and Apache-2.0.")
    return tuple(spdx for name in names for spdx in (COMMERCIAL if name.casefold() == "commercial" else (name,)))


def allows(names: tuple[str, ...], entry: BackendEntry | EncoderEntry) -> bool:
    """Tell whether one side of an OR in the entry's licence, and there all sides of an AND, are in `names`; without any, all are.

    What has no weights, and weights of the caller's own, are always allowed.
    """
    if not names or entry.weights in ("none", "local"):
        return True
    known = {name.casefold() for name in names}
    return any(known.issuperset(side.split(" and ")) for side in entry.licence.casefold().split(" or "))


def check_licence(names: tuple[str, ...], entry: BackendEntry | EncoderEntry) -> None:
    """Raise OptionError for a model that the caller named, but does not allow."""
    if not allows(names, entry):
        reason = f"The licence of '{entry.name}' is {entry.licence}, which {arg('licences')} does not allow."
        raise OptionError(f"{reason} Allowed: {', '.join(names)}.")


def permitted_by(request: Request, catalog: Catalog) -> Catalog:
    """Return the catalog without models that are not allowed, or not live where the request is. Raise OptionError for one named."""
    able = [entry for entry in catalog.backends if entry.spec.live or not request.live]
    for name in filter(None, (request.backend, request.query_backend)):
        check_licence(request.licences, entry := catalog.backend(name))
        if entry not in able:
            names = ", ".join(other.name for other in able) or "none"
            raise OptionError(f"'{entry.name}' hears whole segments and cannot work live. Live here: {names}.")
    if request.encoder:
        check_licence(request.licences, catalog.encoder(request.encoder))
    backends = tuple(entry for entry in able if allows(request.licences, entry))
    encoders = tuple(entry for entry in catalog.encoders if allows(request.licences, entry))
    every: tuple[BackendEntry | EncoderEntry, ...] = (*catalog.backends, *catalog.encoders)
    left_out = tuple(entry for entry in every if not allows(request.licences, entry))
    return replace(catalog, backends=backends, encoders=encoders, left_out=left_out)
