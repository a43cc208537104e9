"""The hooks of pre-commit are `make lint`: the same commands, offline."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS = [
    hook | {"repo": repo["repo"]}
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repo["hooks"]
]


@pytest.fixture
def commands(tmp_path):
    """Say which commands a target of the Makefile runs in an environment that is ready."""
    (tmp_path / "bin").mkdir()
    for name in ("bin/python", ".test-ready"):
        (tmp_path / name).touch()

    def commands(command):
        words = [*shlex.split(command), "--dry-run", f"VENV={tmp_path}"]
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(words, cwd=ROOT, env=outside, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return commands


def test_the_hooks_run_what_make_lint_runs(commands):
    hooks = [line for hook in HOOKS for line in commands(hook["entry"])]
    assert hooks == commands("make lint")
    assert sum("/ruff " in line for line in hooks) == 2 and sum("/mypy " in line for line in hooks) > 10


def test_the_hooks_need_no_network():
    assert {(hook["repo"], hook["language"]) for hook in HOOKS} == {("local", "system")}


def test_the_hooks_look_at_everything():
    assert not any(hook["pass_filenames"] for hook in HOOKS)
