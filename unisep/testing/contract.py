"""What the contracts of backends and encoders share."""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar, TypeVar

import pytest
import torch
from torch import Tensor

from unisep.plugins.plugin import Plugin, read
from unisep.plugins.specs import ModelSpec
from unisep.weights.cards import read_card

LoadedT = TypeVar("LoadedT")


class Contract:
    """What both contracts share.

    Attributes:
        plugin_module: The hook module ("my_plugin.plugin"). Declared, its hooks must return specs that hold, and it must
            import without torch and numpy.
    """

    plugin_module: str = ""

    _loaded: ClassVar[object]

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
        cards = [spec.card for spec in self._plugin().specs_of(ModelSpec) if spec.card]
        if not cards:
            pytest.skip("declares no card")
        for card in cards:
            assert read_card(card).licence

    def test_same_input_same_output(self) -> None:
        for first, second in zip(self._run(), self._run(), strict=True):
            assert torch.equal(first, second)

    def test_uses_no_global_randomness(self) -> None:
        before = torch.get_rng_state()
        self._run()
        assert torch.equal(torch.get_rng_state(), before)

    def _run(self) -> list[Tensor]:
        """Return what comes of all that it can do, for an input that is always the same."""
        raise NotImplementedError

    def _plugin(self) -> Plugin:
        module = self._need_plugin_module()
        return read(Plugin(module, "the tested plugin"), partial(import_module, module))

    def _need_plugin_module(self) -> str:
        if not self.plugin_module:
            pytest.skip("declares no plugin_module")
        return self.plugin_module

    def _load_once(self, load: Callable[[], LoadedT]) -> LoadedT:
        """Return what `load` returns, called once for the class."""
        contract = type(self)
        if "_loaded" not in contract.__dict__:
            contract._loaded = load()
        return contract._loaded  # type: ignore[return-value]
