from __future__ import annotations

from collections.abc import Iterator

import pytest

from unisep import plugins
from unisep.testing.toy import toy_plugin


@pytest.fixture
def only_toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plugin but the toys, as on a machine where nothing else is installed."""
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    with toy_plugin():
        yield
    monkeypatch.undo()
    plugins.refresh()
