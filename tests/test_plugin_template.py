"""The plugin template passes its own tests, and is registered as the example says."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
TEMPLATE = EXAMPLES / "plugin-template"


def test_template_passes_the_backend_contract(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", str(TEMPLATE / "tests")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TEMPLATE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_example_registers_what_pip_would() -> None:
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    (name, module), *others = project["entry-points"]["unisep"].items()
    assert not others
    assert f"{name} = {module}" in (EXAMPLES / "07_write_a_plugin.py").read_text()


def test_hook_module_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, unisep_splitter.plugin as p; p.unisep_backends(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(TEMPLATE)})
    assert done.returncode == 0
