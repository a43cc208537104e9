"""Every example runs as a user would run it: in a process of its own, offline, from another folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_the_picture_of_the_readme_is_what_its_script_draws(tmp_path):
    run(EXAMPLES / "draw_picture.py", "--out", tmp_path / "drawn.png", cwd=tmp_path)
    shown, drawn = EXAMPLES.parent / "docs" / "separation.png", tmp_path / "drawn.png"
    assert shown.stat().st_size <= 250_000
    old, new = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) for path in (shown, drawn))
    assert old.shape == new.shape and old.shape[1] >= 1800
    assert abs(old - new).mean() < 8, "other weights, another picture: run `make picture`"
