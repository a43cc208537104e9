"""The page, in a real Chromium without a window: what people do with it, and what they hear."""

from __future__ import annotations

import base64
import contextlib
import re
import runpy
import shlex
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from unisep import Embedding, files, plugins
from unisep.cli import main
from unisep.testing import chirp, mix, noise

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
playwright.expect.set_options(timeout=60_000)
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
    page.set_default_timeout(60_000)
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


def test_a_part_of_the_waveform_is_an_example(tab, server, song):
    opened(tab, song)
    chosen(tab, "paced")
    drag(tab, 0.25, 0.5)
    tab.get_by_role("button", name="More like this").click()
    tab.get_by_role("button", name="Only in this part").click()
    tab.get_by_label("Leave out").fill("wind, rain")
    tab.get_by_role("button", name="Isolate").click()
    name = tab.locator(".lane h3").first.inner_text()
    lane = ready(tab, name)
    (query,) = job(tab, server)["query"]
    assert query["example_range"] == pytest.approx([0.75, 1.5], abs=0.02) and name.startswith("like 0:00.")
    assert query["time_range"] == pytest.approx([0.75, 1.5], abs=0.06) and query["exclude"] == ["wind", "rain"]
    tab.keyboard.press("l")
    lane.get_by_role("button", name="Play").click()
    until(tab, "unisepStudio.player.position > 1.3")
    until(tab, "unisepStudio.player.position < 1.0")
    assert tab.evaluate("unisepStudio.player.isPlaying"), "the selected part is repeated"


def drag(page: Any, start: float, stop: float) -> None:
    box = page.get_by_role("slider", name="Waveform").bounding_box()
    page.mouse.move(box["x"] + start * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + stop * box["width"], box["y"] + 50, steps=4)
    page.mouse.up()


def test_a_lane_can_be_an_example_or_be_left_out_and_a_clip_too(tab, server, song):
    opened(tab, song)
    lane = asked(tab, "owl")
    lane.get_by_role("button", name="This is not it").click()
    until(tab, "unisepStudio.jobs.length === 2 && unisepStudio.jobs[1].lanes.length")
    ready(tab, "owl")
    (query,) = job(tab, server)["query"]
    assert query["text"] == "owl" and len(query["exclude"][0]["audio"]) == 32
    muted = tab.evaluate("unisepStudio.jobs[0].lanes.every(lane => lane.track.isMuted)")
    assert muted, "the newest results are heard"
    tab.get_by_role("region", name="owl").last.get_by_role("button", name="More of this").click()
    until(tab, "unisepStudio.jobs.length === 3 && unisepStudio.jobs[2].lanes.length")
    (query,) = job(tab, server)["query"]
    assert query["text"] == "owl" and len(query["audio"]) == 32 and "exclude" not in query
    tab.get_by_label("Example clip").set_input_files(song)
    tab.get_by_role("button", name="Remove ♪ a song.wav").wait_for()
    tab.get_by_role("button", name="Isolate").click()
    ready(tab, "a song")


def test_several_questions_are_one_pass_and_remembered(tab, server, song):
    opened(tab, song)
    chosen(tab, "paced")
    field = tab.get_by_label("What to isolate")
    field.press_sequentially("cat,do")
    field.press("Enter")
    assert tab.locator(".chip").all_inner_texts() == ["cat\n×", "do\n×"]
    field.press("Backspace")
    field.press_sequentially("electric gui")
    assert tab.get_by_role("option", name="electric guitar").first.is_visible()
    field.press("ArrowDown")
    field.press("Enter")
    field.press("Enter")
    ready(tab, "electric guitar")
    assert [query["text"] for query in job(tab, server)["query"]] == ["cat", "electric guitar"]
    tab.get_by_role("button", name="Four stems").click()
    ready(tab, "low")
    tab.reload()
    ready(tab, "electric guitar")
    ready(tab, "low")
    assert len(jobs(tab)) == 2
    tab.get_by_label("What to isolate").focus()
    playwright.expect(tab.get_by_role("option").first).to_have_text("catasked before")


def waiting(tab, song, text):
    """Ask for a sound of a recording, and wait until the gated backend is at it."""
    opened(tab, song)
    chosen(tab, "gated")
    tab.get_by_label("What to isolate").fill(text)
    tab.get_by_role("button", name="Isolate").click()
    playwright.expect(tab.get_by_text("Separating")).to_be_visible()


def test_cancelling(tab, server, song, gate):
    waiting(tab, song, "a slow one")
    tab.get_by_role("button", name="Cancel").click()
    playwright.expect(tab.get_by_text("Cancelled.", exact=True)).to_be_visible()
    assert job(tab, server)["state"] == "cancelled"
    tab.get_by_role("button", name="Remove these results").click()
    assert jobs(tab) == []


def test_a_reload_in_the_middle_of_a_job_loses_nothing(tab, server, song, gate):
    waiting(tab, song, "patience")
    tab.reload()
    playwright.expect(tab.get_by_text("Separating")).to_be_visible()
    playwright.expect(tab.get_by_role("heading", name="a song.wav")).to_be_visible()
    gate.unlink()
    ready(tab, "patience")


def test_two_tabs_do_not_disturb_each_other(tab, server, song, place):
    other_song = files.write(place / "other.wav", noise(2.0, RATE_HZ))
    other = tab.context.new_page()
    other.goto(server.url)
    opened(tab, song)
    opened(other, other_song)
    asked(tab, "first")
    asked(other, "second")
    assert tab.get_by_role("region", name="second").count() == 0 == other.get_by_role("region", name="first").count()
    tab.reload()
    ready(tab, "first")
    assert tab.get_by_role("heading", name="a song.wav").is_visible()


def test_exports(tab, server, song, place):
    opened(tab, song)
    lane = asked(tab, "bee", "fly")
    with tab.expect_download() as waiting:
        tab.get_by_role("link", name="All as zip").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert archive.namelist() == ["bee.wav", "fly.wav", "rest.wav"]
    lane.get_by_role("button", name="Mute").click()
    expected = heard(tab)
    for suffix, tolerance in (("wav", 0.0), ("flac", 2e-4)):
        tab.get_by_role("button", name="Export mix").click()
        dialog = tab.get_by_role("dialog")
        dialog.get_by_label("Format").select_option(suffix)
        with tab.expect_download() as waiting:
            dialog.get_by_role("button", name="Save").click()
        assert waiting.value.suggested_filename == f"a song mix.{suffix}"
        saved = files.read(Path(waiting.value.path()).read_bytes())
        np.testing.assert_allclose(
            saved.samples / abs(saved.samples).max(), expected / abs(expected).max(), atol=tolerance
        )
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Save question").click()
    waiting.value.save_as(place / "question.safetensors")
    assert Embedding.load(place / "question.safetensors").space == "toy-bands-1"


def test_lines_to_copy_give_the_same_result(tab, server, song, place, monkeypatch):
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(tab, song)
    tab.get_by_text("More options").click()
    tab.get_by_label("Only from").fill("0:01-")
    tab.get_by_label("Leave out").fill("it's raining")
    asked(tab, "a cello", "oboe", "E=mc2")
    tab.get_by_role("button", name="Copy command").click()
    tab.get_by_text("Copied").wait_for()
    command = tab.evaluate("navigator.clipboard.readText()")
    assert shlex.split(command)[2:] == [
        "a song.wav", "-q", "a cello", "-q", "oboe", "-q", "E mc2=E=mc2", "--exclude", "it's raining", "--time-range", "1-",
        "--backend", "paced", "--query-backend", "paced", "-o", "out/",
    ]  # fmt: skip
    tab.get_by_role("button", name="Copy Python").click()
    until(tab, "navigator.clipboard.readText().then((text) => text.startsWith('from unisep'))")
    lines = tab.evaluate("navigator.clipboard.readText()")
    monkeypatch.chdir(place)
    with plugins.using(BENCH["TOYS"]):
        exec(lines, namespace := {})
    np.testing.assert_allclose(
        np.broadcast_to(namespace["result"]["oboe"].samples, (2, 3 * RATE_HZ)), result(tab, server, "oboe"), atol=1e-6
    )


def test_the_command_for_an_example_runs(tab, server, song, place, monkeypatch):
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(tab, song)
    chosen(tab, "paced")
    drag(tab, 0.25, 0.5)
    tab.get_by_role("button", name="More like this").click()
    tab.get_by_label("What to isolate").fill("a drip")
    tab.get_by_role("button", name="Isolate").click()
    ready(tab, "a drip")
    tab.get_by_role("button", name="Copy command").click()
    until(tab, "navigator.clipboard.readText().then((text) => text.startsWith('unisep separate'))")
    commands = [shlex.split(line)[1:] for line in tab.evaluate("navigator.clipboard.readText()").splitlines()]
    monkeypatch.chdir(place)
    for words in commands:
        assert main([*words, "--plugin", str(BENCH["TOYS"]), "--filename", "{stem}.{ext}", "--float32", "--quiet"]) == 0
    for entry, folder in zip(job(tab, server)["files"][:2], ("1", "2"), strict=True):
        (path,) = (path for path in (place / "out" / folder).glob("*.wav") if path.stem != "rest")
        saved = np.broadcast_to(files.read(path).samples, (2, 3 * RATE_HZ))
        np.testing.assert_allclose(saved, result(tab, server, quote(entry["name"])), atol=1e-5)


def test_the_keyboard_is_enough(tab, song):
    opened(tab, song)
    asked(tab, "mouse")
    tab.keyboard.press("Escape")
    tab.get_by_role("slider", name="Waveform").focus()
    for _ in range(4):
        tab.keyboard.press("Shift+ArrowRight")
    selection = tab.evaluate("unisepStudio.view.selection")
    assert selection[0] == 0 and selection[1] > 0.2
    tab.keyboard.press("e")
    assert tab.locator(".chip").count() == 1
    tab.keyboard.press("+")
    assert tab.evaluate("unisepStudio.view.stop - unisepStudio.view.start") == pytest.approx(1.5)
    tab.keyboard.press("0")
    tab.keyboard.press("v")
    playwright.expect(tab.get_by_role("button", name="Spectrogram")).to_have_attribute("aria-pressed", "true")
    tab.keyboard.press("1")
    assert tab.evaluate("unisepStudio.lanes[0].track.isSolo")
    tab.keyboard.press(" ")
    until(tab, "unisepStudio.player.isPlaying && unisepStudio.player.position > 0.1")
    tab.keyboard.press(" ")
    tab.keyboard.press("Home")
    assert tab.evaluate("unisepStudio.player.position") == 0
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog").is_visible()
    tab.keyboard.press("Escape")
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "query"
    tab.keyboard.press("Tab")
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is visible"


def test_everything_has_a_name(tab, song):
    opened(tab, song)
    asked(tab, "wolf")
    drag(tab, 0.2, 0.6)
    for role in ("button", "link", "slider", "textbox", "combobox", "region", "progressbar", "listbox", "img"):
        nameless = tab.get_by_role(role, name=re.compile("^$"))
        assert nameless.count() == 0, [role, nameless.first.evaluate("element => element.outerHTML")]
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.get_by_role("heading", level=1).count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_themes_and_axe_finds_no_fault(browser, server, song, scheme):
    with browser.new_context(viewport={"width": 400, "height": 800}, color_scheme=scheme) as context:
        for page in _tab(context, server):
            opened(page, song)
            asked(page, "a name that is really as long as people sometimes type it")
            drag(page, 0.2, 0.6)
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            for control in page.get_by_role("button").all():
                box = control.bounding_box()
                assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 400)
            text, back = page.evaluate(
                "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
            )
            brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (text, back)]
            assert (brightness[0] > brightness[1]) == (scheme == "dark")
            assert [fault["id"] for fault in axe.Axe().run(page).response["violations"]] == []


def test_what_goes_wrong_is_said(browser, server, place, song):
    bad = place / "bad.wav"
    bad.write_bytes(b"RIFF of nothing")
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(server.url)
        page.get_by_label("Recording").set_input_files(bad)
        alert = page.locator("#alert")
        playwright.expect(alert).to_contain_text("'bad.wav' cannot be decoded")
        assert str(place) not in alert.inner_text()
        opened(page, song)
        page.get_by_role("button", name="Isolate").click()
        playwright.expect(alert).to_contain_text("Type what to isolate")
        page.get_by_text("More options").click()
        page.get_by_label("Only from").fill("late")
        page.get_by_label("What to isolate").fill("a sound")
        page.get_by_role("button", name="Isolate").click()
        playwright.expect(alert).to_contain_text("Give a time range")
        page.get_by_label("Only from").fill("2:00-3:00")
        page.get_by_role("button", name="Isolate").click()
        playwright.expect(page.get_by_text("This did not work")).to_be_visible()


def test_lanes_are_in_step_to_the_sample(tab, song):
    """The recording upside down, which joins while its parts play, leaves silence; after a loop, too."""
    opened(tab, song)
    asked(tab, "cricket")
    tab.get_by_role("button", name="Play the mix").click()
    until(tab, "unisepStudio.player.position > 0.2 && unisepStudio.player.level() > 0.01")
    drag(tab, 0.4, 0.7)
    tab.keyboard.press("l")
    tab.evaluate(
        "(player => player.add('upside down', player.tracks.get('mixture').buffer, {scale: -1}))(unisepStudio.player)"
    )
    tab.wait_for_timeout(300)
    levels = [tab.evaluate("unisepStudio.player.level()")]
    until(tab, "unisepStudio.player.position > 1.9")
    until(tab, "unisepStudio.player.position < 1.8")
    tab.wait_for_timeout(300)
    levels.append(tab.evaluate("unisepStudio.player.level()"))
    assert tab.evaluate("unisepStudio.player.isPlaying") and max(levels) < 1e-5


def test_a_drop_opens_and_on_the_question_is_an_example(tab, song):
    transfer = tab.evaluate_handle(
        """(text) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))], "dropped.wav"));
          return transfer;
        }""",
        base64.b64encode(song.read_bytes()).decode(),
    )
    tab.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    tab.get_by_role("heading", name="dropped.wav").wait_for()
    tab.dispatch_event("#query", "drop", {"dataTransfer": transfer})
    tab.get_by_role("button", name="Remove ♪ dropped.wav").wait_for()


def test_the_demo_and_its_spectrogram(tab):
    tab.get_by_role("button", name="Try the demo song").click()
    until(tab, "unisepStudio.player.tracks.has('mixture')")
    tab.get_by_role("button", name="Spectrogram").click()
    pixels = "(({wave}) => new Set(wave.getContext('2d').getImageData(0, 60, 600, 1).data).size)(unisepStudio)"
    until(tab, f"unisepStudio.strip.element.matches('.spectrum') && {pixels} > 30")


def test_a_server_with_a_token_asks_for_it(browser, place):
    token = "a token of the test"
    server = BENCH["Running"](place / "other", "--no-open", "--token", token, command="studio").start()
    try:
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(server.url)
            page.get_by_label("Token").fill("wrong")
            page.get_by_role("button", name="Log in").click()
            playwright.expect(page.locator("#alert")).to_contain_text("not a token")
            page.goto(f"{server.url}/#token={token}")
            page.reload()
            playwright.expect(page.get_by_role("button", name="Try the demo song")).to_be_visible()
            assert token not in page.url and "token" not in page.url
    finally:
        server.stop(9)
