"""The page of examples/browser in a real Chromium without a window gives what Python gives."""

from __future__ import annotations

import base64
import functools
import http.server
import runpy
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unisep_clap.mini import load_mini

from unisep import Audio, Separator, files

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
EXAMPLE = Path(__file__).parents[3] / "examples" / "browser"
DEMO = EXAMPLE.parent / "audio" / "mixture.flac"
TEXTS = [
    "electric guitar",
    "Hi-hat, CLOSED!",
    "  crème\tbrûlée ",
    "鼓 drum",
    "x" * 101,
    "a_b^c",
    "word " * 80,
    "ﬁddle №5",
]
SEPARATE = """async ([bytes, text]) => {
  const { separate } = await import("./client.js");
  const all = new Float32Array(Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0)).buffer);
  const half = all.length / 2;
  let began;
  const onProgress = () => (began ??= performance.now());
  const song = [all.subarray(0, half), all.subarray(half)];
  const { targets: [target], rest, presence: [presence] } = await separate(song, [text], { onProgress });
  const seconds = (performance.now() - began) / 1000;
  const packed = (parts) => parts.map((part) => {
    let letters = "";
    for (const byte of new Uint8Array(part.buffer)) letters += String.fromCharCode(byte);
    return btoa(letters);
  });
  return { target: packed(target), rest: packed(rest), presence, seconds };
}"""


@pytest.fixture(scope="module")
def folder(embedded: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, built."""
    if not (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install --ignore-scripts, in examples/browser.")
    if shutil.which("node") is None:
        pytest.skip("There is no node here, which builds the page.")
    place = tmp_path_factory.mktemp("dist")
    models = runpy.run_path(str(EXAMPLE / "models.py"))
    shutil.copyfile(embedded[0], place / "film.onnx")
    models["write_text_tower"](place)
    models["write_vocabulary"](place)
    subprocess.run(["node", "build.js", str(place)], cwd=EXAMPLE, check=True)
    return place


@pytest.fixture(scope="module")
def tab(folder: Path) -> Iterator[Any]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), driver.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("There is no Chromium here: apt-get install chromium, or playwright install chromium.")
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = chromium.new_page()
        page.set_default_timeout(300_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((address, "blob:", "data:")) or problems.append(request.url),
        )
        page.goto(address)
        yield page
        chromium.close()
    server.shutdown()
    server.server_close()
    assert problems == []


def unpacked(parts: list[str]) -> np.ndarray:
    return np.stack([np.frombuffer(base64.b64decode(part), np.float32) for part in parts])


def test_the_page_gives_what_python_gives(tab: Any) -> None:
    audio = files.read(DEMO)
    song = Audio(audio.samples[:, : 8 * 44_100], audio.sample_rate_hz)  # two segments, of which one is short
    assert (song.sample_rate_hz, song.n_channels) == (44_100, 2)
    bytes_ = base64.b64encode(np.ascontiguousarray(song.samples).tobytes()).decode()
    found = tab.evaluate(SEPARATE, [bytes_, "electric guitar"])
    separator = Separator(query_backend="htdemucs-film", encoder="clap-mini", cascade="off")
    expected = separator.separate(song, query="electric guitar", route="conditioned")
    peak = np.abs(song.samples).max()
    assert np.abs(unpacked(found["target"]) - expected.target.samples).max() < 1e-3 * peak
    assert np.abs(unpacked(found["target"]) + unpacked(found["rest"]) - song.samples).max() < 1e-6
    assert len(found["presence"]) == 2
    print(f"{found['seconds']:.1f} s for 8 s: {8 / found['seconds']:.2f} times real time")


@pytest.mark.parametrize(("error", "is_taken"), [(0.0, True), (0.1, False)])
def test_webgpu_goes_on_only_where_it_agrees(tab: Any, error: float, is_taken: bool) -> None:
    """With stand-ins for the models: one halves what it hears, the other does so on another device, with an error."""
    script = """async (error) => {
      const { Separator } = await import("./separate.js");
      const calls = [];
      const halver = (name, error) => ({
        inputMetadata: [{ name: "mixture", shape: [1, 2, 400] }],
        run: async ({ mixture }) => {
          calls.push(name);
          return { sources: { data: mixture.data.map((x) => x / 2 + error) }, presence: { data: [1] } };
        },
      });
      const separator = new Separator({
        ort: { Tensor: class { constructor(type, data, dims) { Object.assign(this, { data, dims }); } } },
        model: halver("wasm", 0),
        textTower: { run: async () => ({ vector: { data: [1] } }) },
        tokens: { encode: () => [1] },
        openOnGpu: async () => halver("webgpu", error),
      });
      const noise = () => Float32Array.from({ length: 1000 }, Math.random);
      const song = [noise(), noise()];
      const { targets: [target], rest } = await separator.separate(song, ["half"]);
      const worst = Math.max(...target.flatMap((part, index) => [...part.map((x, at) => Math.abs(x - rest[index][at]))]));
      return [calls, worst];
    }"""
    calls, worst = tab.evaluate(script, error)
    assert calls == ["wasm", "webgpu", *["webgpu" if is_taken else "wasm"] * 3] and worst < 1e-6


def test_texts_become_the_tokens_and_vectors_of_python(tab: Any) -> None:
    encoder = load_mini()
    script = """async (texts) => {
      const { Separator } = await import("./separate.js");
      const separator = (window.kept ??= await Separator.load());
      const vectors = [];
      for (const text of texts) vectors.push(Array.from(await separator.vector(text)));
      return [texts.map((text) => separator.tokens.encode(text)), vectors];
    }"""
    tokens, vectors = tab.evaluate(script, TEXTS)
    assert tokens == [encoder.tokens.encode(text) for text in TEXTS]
    assert np.abs(np.array(vectors) - encoder.encode_text(TEXTS).numpy()).max() < 1e-4


def test_a_person_drops_a_file_and_hears_two(tab: Any, tmp_path: Path) -> None:
    clip = files.write(tmp_path / "clip.wav", Audio(files.read(DEMO).samples[:1, :22_050], 44_100))
    status = tab.locator("#status")
    tab.locator("#file").set_input_files(str(clip))
    playwright.expect(status).to_have_text("clip.wav: 0.5 s", timeout=300_000)
    tab.get_by_label("What to isolate").fill("drums")
    tab.get_by_role("button", name="Isolate").click()
    playwright.expect(status).to_contain_text("times real time", timeout=300_000)
    assert tab.locator("h2").all_text_contents() == ["drums", "rest"]
    assert tab.get_by_role("link", name="Download").count() == 2
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    tab.locator("#file").set_input_files(str(broken))
    playwright.expect(status).to_contain_text("cannot be decoded")
