"""Every example runs as a user would run it: in a process of its own, offline, from another folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]*.py"))


def run(*command, cwd, **extra):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "UNISEP_HOME": str(cwd / "home"), **extra}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example(script, tmp_path):
    done = run(script, tmp_path / "out", cwd=tmp_path)
    assert done.stdout
    assert written(tmp_path / "out")


def test_the_demo_writes_targets_rests_and_a_picture(tmp_path):
    done = run(EXAMPLES / "demo.py", "--out", tmp_path / "out", cwd=tmp_path)
    for said in ("plan", "presence", "SDR", "SI-SDR", "target + rest"):
        assert said in done.stdout
    files = written(tmp_path / "out")
    assert "demo.png" in files
    assert sum(name.endswith("/rest.flac") for name in files) == 2 and len(files) == 5
