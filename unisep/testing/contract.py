"""What the contracts of backends and encoders share."""

# ruff: noqa: D102 - the names of the tests say what they check

from __future__ import annotations

import os
import subprocess
import sys

import pytest


class Contract:
    """What both contracts share.

    plugin_module: the hook module ("my_plugin.plugin"); declared, it must import without torch and numpy.
    """

    plugin_module: str = ""

    def test_listing_imports_neither_torch_nor_numpy(self) -> None:
        if not self.plugin_module:
            pytest.skip("declares no plugin_module")
        code = f"import sys, {self.plugin_module}; print([m for m in ('torch', 'numpy') if m in sys.modules])"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.stdout.strip() == "[]", done.stdout + done.stderr
