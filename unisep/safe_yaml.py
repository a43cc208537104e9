"""Reads the YAML beside a checkpoint without making anything but plain values. Needs PyYAML, which plugins that use it bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from unisep.errors import WeightsError

_LARGEST_BYTES = 1 << 20


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, and tuples, which these files tag `!!python/tuple`.

    All other `!!python/...` tags stay unknown, so that a file naming a function or class is refused. References
    are refused too: none of these files needs them, and a few lines of them can stand for gigabytes.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; an error for a reference to another."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "references are not read here", mark)
        return super().compose_node(parent, index)


def _tuple(loader: _PlainLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.constructor.ConstructorError(None, None, "a tuple must be a list", node.start_mark)
    return tuple(loader.construct_sequence(node, deep=True))


_PlainLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, of plain values and tuples only.

    Raises WeightsError for a file that is missing, too large, damaged, no mapping, or names anything to be made.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise WeightsError(f"{path} is larger than any description of a model. Do not use it.")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path} cannot be read as a model's description ({reason}); nothing was run. "
            "Use the file from the checkpoint's publisher."
        ) from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} describes no model: it holds no sections by name.")
    return values
