"""Separating in the tab: the page, with what examples/browser builds, in a real Chromium without a window."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisep import Audio, Separator, files
from unisep.testing import noise

PAGE = runpy.run_path(str(Path(__file__).with_name("test_page.py")))
EXAMPLE = Path(__file__).parents[3] / "examples" / "browser"
DEMO = EXAMPLE.parent / "audio" / "mixture.flac"
RATE_HZ = 44_100
PATIENCE = 600_000  # milliseconds, for the models on a busy machine
browser, expect = PAGE["browser"], PAGE["playwright"].expect


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("in tab")


@pytest.fixture(scope="module")
def server(browser: Any, place: Path) -> Iterator[Any]:
    """The studio, with the folder that `npm run build` writes."""
    if not (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install --ignore-scripts, in examples/browser.")
    if shutil.which("node") is None:
        pytest.skip("There is no node here, which builds the folder.")
    pytest.importorskip("unisep_onnx", reason="unisep-onnx writes the models: pip install unisep-onnx")
    folder = place / "dist"
    subprocess.run(
        ["node", "build.js", str(folder)], cwd=EXAMPLE, check=True, env={**os.environ, "PYTHON": sys.executable}
    )
    running = PAGE["BENCH"]["Running"](place / "data", "--no-open", "--in-tab", str(folder), command="studio")
    try:
        yield running.start()
    finally:
        running.stop(9)


@pytest.fixture
def tab(browser: Any, server: Any) -> Iterator[Any]:
    """A fresh tab at the page, where nothing may be sent once sound is computed here."""
    sent: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.on("request", lambda request: request.method == "GET" or sent.append(request.url))
        for page in PAGE["_tab"](context, server):
            page.get_by_label("In this tab").check()
            yield page
    assert sent == []


def opened(page: Any, place: Path, audio: Audio) -> Audio:
    """Open a recording in the tab, and return what is in its file."""
    path = files.write(place / "a clip.wav", audio)
    page.get_by_label("Recording").set_input_files(path)
    return files.read(path)


def asked(page: Any, text: str) -> None:
    page.get_by_label("What to isolate").fill(text)
    page.get_by_role("button", name="Isolate").click()


def test_a_clip_is_separated_in_the_tab_as_in_python(tab: Any, place: Path) -> None:
    song = opened(tab, place, Audio(files.read(DEMO).samples[:, : 8 * RATE_HZ], RATE_HZ))  # two segments
    tab.get_by_text("stereo · in this tab").wait_for()
    asked(tab, "electric guitar, drums")
    expect(tab.get_by_text("Loading the model")).to_be_visible()
    for name in ("electric guitar", "Rest"):
        lane = tab.get_by_role("region", name=name, exact=True)
        expect(lane.get_by_role("button", name="Play")).to_be_enabled(timeout=PATIENCE)
    separator = Separator(query_backend="htdemucs-film", encoder="clap-mini", cascade="off")
    expected = separator.separate(song, query=["electric guitar", "drums"], route="conditioned")
    tolerance = 1e-3 * np.abs(song.samples).max()
    for name, sound in {**expected, "Rest": expected.rest}.items():
        solo = tab.get_by_role("region", name=name, exact=True).get_by_role("button", name="Solo")
        solo.click()
        np.testing.assert_allclose(PAGE["heard"](tab), sound.samples, atol=tolerance)
        solo.click()
    np.testing.assert_allclose(PAGE["heard"](tab), song.samples, atol=1e-6)
    badge = tab.get_by_role("region", name="drums", exact=True).locator(".badge")
    expect(badge).to_have_text(f"{100 * expected.presence['drums']:.0f} % present")
    with tab.expect_download() as waiting:
        lane.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename == "Rest.wav"
    saved = files.read(Path(waiting.value.path()).read_bytes())
    np.testing.assert_allclose(saved.samples, expected.rest.samples, atol=tolerance)
    assert tab.evaluate("crossOriginIsolated"), "so that WebAssembly has threads"
    assert "#" not in tab.url, "the address holds nothing of it"
    assert [fault["id"] for fault in PAGE["axe"].Axe().run(tab).response["violations"]] == []


def test_what_the_tab_cannot_do_is_not_offered(tab: Any, place: Path) -> None:
    opened(tab, place, noise(31.0, 8_000))
    expect(tab.locator("#alert")).to_contain_text("a clip.wav has 31 s. In this tab, up to 30 s")
    broken = place / "broken.wav"
    broken.write_bytes(b"no audio")
    tab.get_by_label("Recording").set_input_files(broken)
    expect(tab.locator("#alert")).to_contain_text("cannot play the sound")
    opened(tab, place, noise(1.0, RATE_HZ, channels=1))
    for name in ("Four stems", "More options"):
        expect(tab.get_by_role("button", name=name)).to_be_hidden()
    tab.evaluate("unisepStudio.view.select([0.2, 0.6])")
    expect(tab.get_by_role("button", name="More like this")).to_be_hidden()
    tab.keyboard.press("e")
    assert tab.locator(".chip").count() == 0
    asked(tab, "Rest")
    expect(tab.locator("#alert")).to_contain_text("Use other words")
    tab.get_by_role("button", name="Remove Rest").click()
    asked(tab, "piano")
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.get_by_text("Cancelled.", exact=True)).to_be_visible()
    tab.get_by_role("button", name="Export mix").click()
    assert tab.get_by_role("dialog").get_by_role("option").all_text_contents() == ["wav"]
