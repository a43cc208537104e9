"""The plugin's hook: light, and in step with the modules it names."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from unisep_clap.checkpoints import DEFAULT_SPACE
from unisep_clap.mini import SPACE
from unisep_clap.plugin import unisep_encoders


def test_specs_name_functions_that_exist_and_their_spaces():
    specs = {spec.name: spec for spec in unisep_encoders()}
    assert specs["clap-mini"].space == SPACE
    assert specs["clap"].space == DEFAULT_SPACE
    for spec in specs.values():
        module, function = spec.load.split(":")
        assert callable(getattr(import_module(module), function))
        assert spec.modalities == {"text", "audio"}


def test_listing_loads_nothing_heavy():
    code = (
        "import sys\nfrom unisep_clap.plugin import unisep_encoders\nassert len(list(unisep_encoders())) == 2\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'soxr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
