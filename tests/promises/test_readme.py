"""The README and the docs are true: what they show is run, what they link to is there.

A ```python block is executed; the blocks of one page share their names. A block with a title is written
to a file of that name, which the others can import. In a ```console block each line that starts with `$ `
is executed, if it is unisep or pytest. Other blocks are only looked at. A page finds these files beside
it: song.flac (32 s for the README, else 10 s), lick.wav, and album/ with two songs.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
AUDIO = ROOT / "examples" / "audio"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for place in ("docs/**", "plugins/*", "examples") for page in sorted(ROOT.glob(f"{place}/*.md"))),
]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([\w.]+)"')
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def blocks(page, language):
    """The blocks of a language that are run, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for kind, title, text in found if kind == language and not TITLE.search(title)]


def write_titled_blocks(page, folder):
    for _, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if name := TITLE.search(title):
            (folder / name[1]).write_text(text, encoding="utf-8")


def pages_with(language):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, language)]


@pytest.fixture
def desk(page, tmp_path, monkeypatch):
    """A working folder with the audio that the pages speak of, and no network."""
    mixture, rate_hz = soundfile.read(AUDIO / "mixture.flac")
    seconds = 32 if page == ROOT / "README.md" else 10
    song = np.concatenate([mixture, mixture])[: seconds * rate_hz]
    soundfile.write(tmp_path / "song.flac", song, rate_hz)
    clip, clip_rate_hz = soundfile.read(AUDIO / "example-electric-guitar.ogg")
    soundfile.write(tmp_path / "lick.wav", clip, clip_rate_hz)
    (tmp_path / "album").mkdir()
    for name in ("one", "two"):
        soundfile.write(tmp_path / "album" / f"{name}.flac", mixture[: 2 * rate_hz], rate_hz)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("UNISEP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):  # another page may have a file of the same name
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", pages_with("python"))
@pytest.mark.filterwarnings("ignore:The stems come from:UserWarning")
def test_python_blocks_run(page, desk, monkeypatch):
    write_titled_blocks(page, desk)
    monkeypatch.syspath_prepend(str(desk))
    names = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, python block {number}", "exec"), names)


@pytest.mark.parametrize("page", pages_with("console"))
def test_console_blocks_run(page, desk):
    commands = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line[:2] == "$ "]
    assert commands
    write_titled_blocks(page, desk)
    environment = {**os.environ, "PYTHONPATH": str(desk)}
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[0] in ("unisep", "pytest"), f"{command}: use sh for what is not run"
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_the_files_named_in_code_are_there(page):
    """A page that names a test, a benchmark or an example names one that is there."""
    named = re.findall(
        r"(?<![\w/-])(?:tests|benchmarks|examples|plugins)/[\w/.-]+\.(?:py|ipynb|toml|json)\b", page.read_text("utf-8")
    )
    for name in named:
        assert (ROOT / name).exists() or (page.parent / name).exists(), f"{page.name} names {name}"


def test_the_first_screen_of_the_readme_has_the_two_commands():
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "make demo" in first_screen and "make test" in first_screen


def test_the_readme_is_short_and_opens_with_a_picture():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert "](docs/separation.png)" in "".join(lines[:5])
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for page in PAGES:
        head = 0
        for line in page.read_text(encoding="utf-8").replace("\\|", "").splitlines():
            cells = line.count("|") if line.startswith("|") else 0
            head = cells if cells and not head else head if cells else 0
            assert cells in (0, head), f"{page.name}: {line}"


def test_the_readme_has_the_questions_people_ask_as_they_ask_them():
    text = "\n".join(blocks(ROOT / "README.md", "python"))
    assert 'query="electric guitar"' in text
    assert '{"text": "electric guitar", "audio": guitar_sample, "time_range": (30, 60)}' in text


def test_every_option_named_in_the_pages_exists(capsys):
    from unisep.cli import main

    helps = ""
    for command in (
        ["separate"],
        ["plugins"],
        ["models", "pull"],
        ["models", "list"],
        ["models", "card"],
        ["models", "recommend"],
        ["embed"],
        ["learn"],
        ["evaluate"],
        ["align"],
        ["serve"],
        ["studio"],
        ["live"],
        ["export"],
        ["catalogue"],
        ["doctor"],
        ["explain"],
        ["new-plugin"],
    ):
        assert main([*command, "--help"]) == 0
        helps += capsys.readouterr().out
    known = set(re.findall(r"--[a-z][a-z-]+", helps))
    for page in PAGES:
        commands = [line for kind in ("console", "sh") for block in blocks(page, kind) for line in block.splitlines()]
        named = {flag for line in commands if "unisep " in line for flag in re.findall(r"--[a-z][a-z-]+", line)}
        assert named <= known, page.name
