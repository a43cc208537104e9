"""What the contracts of backends and encoders share."""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import pytest

from unisep.plugins.plugin import Plugin, read
from unisep.plugins.specs import ModelSpec
from unisep.weights.cards import read_card


class Contract:
    """What both contracts share.

    plugin_module: the hook module ("my_plugin.plugin"); declared, its hooks must return specs that hold, and it
        must import without torch and numpy.
    """

    plugin_module: str = ""

    def test_listing_imports_neither_torch_nor_numpy(self) -> None:
        module = self._need_plugin_module()
        code = f"import sys, {module}; print([m for m in ('torch', 'numpy') if m in sys.modules])"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.stdout.strip() == "[]", done.stdout + done.stderr

    def test_its_hooks_return_specs_that_hold(self) -> None:
        plugin = self._plugin()
        assert plugin.state == "ok", plugin.error
        assert plugin.specs, "its hooks return nothing; do they have @hookimpl?"

    def test_its_load_strings_lead_to_modules(self) -> None:
        for spec in self._plugin().specs:
            module, _, _ = spec.load.partition(":")
            assert find_spec(module) is not None, f"'{spec.name}': there is no module {module}"

    def test_its_cards_can_be_read_and_state_a_licence(self) -> None:
        specs = [spec for spec in self._plugin().specs_of(ModelSpec) if spec.card]
        if not specs:
            pytest.skip("declares no card")
        for spec in specs:
            assert read_card(spec.card).licence

    def _plugin(self) -> Plugin:
        module = self._need_plugin_module()
        return read(Plugin(module, "the tested plugin"), partial(import_module, module))

    def _need_plugin_module(self) -> str:
        if not self.plugin_module:
            pytest.skip("declares no plugin_module")
        return self.plugin_module
