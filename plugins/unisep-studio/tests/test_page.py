"""The page, in a real Chromium without a window: what people do with it, and what they hear."""

from __future__ import annotations

import base64
import contextlib
import runpy
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisep import files
from unisep.testing import chirp, mix, noise

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
BENCH = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "studio.py"))
RATE_HZ = 22_050
HEARD = """async () => {
  const buffer = await unisepStudio.player.render();
  const bytes = [0, 1].flatMap((index) => Array.from(new Uint8Array(buffer.getChannelData(index).buffer)));
  return btoa(bytes.map((byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Any]:
    running = BENCH["Running"](place / "data", "--no-open", command="studio", STUDIO_TOYS_GATE=str(place / "gate"))
    try:
        yield running.start()
    finally:
        (place / "gate").unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError):
            running.stop(9)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for this module alone: its event loop would be in the way of tests that have one."""
    with playwright.sync_playwright() as driver:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), driver.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("There is no Chromium here: apt-get install chromium, or playwright install chromium.")
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any, server: Any) -> Iterator[Any]:
    """A fresh tab at the page, where nothing may fail, be forbidden, or be asked of others."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield from _tab(context, server)


def _tab(context: Any, server: Any) -> Iterator[Any]:
    page, problems = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: request.url.startswith((server.url, "blob:")) or problems.append(request.url))
    page.goto(server.url)
    yield page
    assert problems == []


@pytest.fixture(scope="module")
def song(place: Path) -> Path:
    return files.write(place / "a song.wav", mix(chirp(3.0, RATE_HZ), noise(3.0, RATE_HZ, deviation=0.1)))


@pytest.fixture
def gate(place: Path) -> Iterator[Path]:
    """What holds up the model "gated" as long as it is there."""
    path = place / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


def until(page: Any, expression: str) -> None:
    """Wait until an expression holds; playwright's own way to wait is forbidden by the page's rules on scripts."""
    limit = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < limit, f"waited in vain: {expression}"
        page.wait_for_timeout(20)


def opened(page: Any, path: Path) -> None:
    page.get_by_label("Recording").set_input_files(path)
    page.get_by_role("heading", name=path.name).wait_for()
    until(page, "unisepStudio.player.tracks.has('mixture')")


def chosen(page: Any, model: str) -> None:
    if not page.get_by_label("Answered by").is_visible():
        page.get_by_text("More options").click()
    page.get_by_label("Answered by").select_option(model)


def asked(page: Any, *texts: str, model: str = "paced") -> Any:
    """Ask, wait for the lanes and their sound, and return the lane of the first question."""
    chosen(page, model)
    page.get_by_label("What to isolate").fill(", ".join(texts))
    page.get_by_role("button", name="Isolate").click()
    return ready(page, texts[0])


def ready(page: Any, name: str) -> Any:
    lane = page.get_by_role("region", name=name, exact=True).first
    playwright.expect(lane.get_by_role("button", name="Play")).to_be_enabled()
    until(page, "document.querySelectorAll('.lane:not(.ready)').length === 0")
    return lane


def heard(page: Any) -> Any:
    """Return what is heard now, `[channels, samples]`, rendered offline through the same gains."""
    return np.frombuffer(base64.b64decode(page.evaluate(HEARD)), np.float32).reshape(2, -1)


def result(page: Any, server: Any, name: str) -> Any:
    """Return a result of the newest job as the server has it, in stereo."""
    answer = page.request.get(f"{server.url}/v1/separations/{jobs(page)[-1]}/files/{name}").body()
    return np.broadcast_to(files.read(answer).samples, (2, 3 * RATE_HZ))


def jobs(page: Any) -> list[str]:
    return [job for job in page.evaluate("unisepStudio.jobs.map(job => job.id)")]


def job(page: Any, server: Any) -> dict[str, Any]:
    return dict(page.request.get(f"{server.url}/v1/separations/{jobs(page)[-1]}").json())


def test_from_a_file_to_lanes_that_play(tab, server, song):
    opened(tab, song)
    lane = asked(tab, "chirping birds")
    playwright.expect(tab.get_by_role("region", name="Rest")).to_be_visible()
    lane.get_by_role("button", name="Play").click()
    until(tab, "unisepStudio.player.position > 0.3 && unisepStudio.player.level() > 0.001")
    before = tab.evaluate("unisepStudio.player.position")
    tab.wait_for_timeout(300)
    assert 0.15 < tab.evaluate("unisepStudio.player.position") - before < 1.5, "the clock of the sound moves"
    lane.get_by_role("button", name="Play").click()
    assert not tab.evaluate("unisepStudio.player.isPlaying")
    columns = tab.evaluate("unisepStudio.peaks.columns(0, 3, 300)")
    shown = np.array([pair for pair in columns if pair])
    assert len(shown) == 300 and shown[:, 1].max() > 0.3 > -0.3 > shown[:, 0].min()


def test_a_download_is_the_servers_file(tab, server, song, place):
    opened(tab, song)
    lane = asked(tab, "whistle")
    url = f"{server.url}/v1/separations/{jobs(tab)[-1]}/files/whistle"
    for suffix in ("wav", "flac"):
        tab.get_by_label("Format").select_option(suffix)
        with tab.expect_download() as waiting:
            lane.get_by_role("link", name="Download").click()
        assert waiting.value.suggested_filename == f"whistle.{suffix}"
        assert Path(waiting.value.path()).read_bytes() == tab.request.get(f"{url}?format={suffix}").body()


def test_solo_mute_volume_pan_and_original_change_what_is_heard(tab, server, song):
    opened(tab, song)
    mixture = heard(tab)
    np.testing.assert_allclose(mixture, np.broadcast_to(files.read(song).samples, mixture.shape), atol=1e-6)
    lane = asked(tab, "a bird")
    target, rest = result(tab, server, "a bird"), result(tab, server, "rest")
    np.testing.assert_allclose(heard(tab), mixture, atol=1e-5)
    lane.get_by_role("button", name="Solo").click()
    np.testing.assert_allclose(heard(tab), target, atol=1e-6)
    lane.get_by_role("button", name="Solo").click()
    lane.get_by_role("button", name="Mute").click()
    np.testing.assert_allclose(heard(tab), rest, atol=1e-6)
    playwright.expect(lane.get_by_role("button", name="Mute")).to_have_attribute("aria-pressed", "true")
    tab.keyboard.press("Shift+Digit2")
    assert not heard(tab).any(), "all are muted"
    tab.get_by_role("button", name="Original").click()
    np.testing.assert_allclose(heard(tab), mixture, atol=1e-6)
    tab.keyboard.press("a")
    lane.get_by_role("button", name="Mute").click()
    lane.get_by_label("Volume").fill("0.5")
    np.testing.assert_allclose(heard(tab), 0.5 * target, atol=1e-6)
    lane.get_by_label("Pan").fill("1")
    left, right = heard(tab)
    assert abs(left).max() < 1e-6 and abs(right).max() > abs(0.5 * target).max() * 0.9
