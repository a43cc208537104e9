"""For the API reference: show the doctests at the end of a docstring as code, not as quotations."""

from __future__ import annotations

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Put the doctests of a docstring under a heading `Examples:`, which its parser asks for."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of each object that is loaded."""
        text = obj.docstring.value if obj.docstring else ""
        before, mark, doctests = text.partition("\n>>> ")
        if obj.docstring and mark:
            lines = (mark.strip("\n") + doctests).splitlines()
            obj.docstring.value = "\n".join([before, "Examples:", *(f"    {line}".rstrip() for line in lines)])
