"""What a notebook and a terminal show of results."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unisep import Audio, Embedding, Plan, Separation, Separator, files
from unisep.engine.timeline import Presence
from unisep.errors import AudioFileError
from unisep.notebook import MAX_SECONDS
from unisep.routing.types import Choice
from unisep.testing import noise, tone, toy_plugin

HALF_A_STEP = 2.0**-16


class Page(HTMLParser):
    """The texts and the players of a piece of HTML, whose tags must be balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.players: list[tuple[np.ndarray, int]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "br":
            self._open.append(tag)
        if tag == "audio":
            assert "controls" in dict(attrs)
            kind, _, data = (dict(attrs)["src"] or "").partition(",")
            assert re.fullmatch(r"data:audio/(flac|wav);base64", kind)
            frames, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(data)), always_2d=True)
            self.players.append((frames.T, rate_hz))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 1_000), (2, 44_100), (1, 44_101), (2, 768_000)])
def test_audio_is_a_player_of_what_it_holds(channels: int, rate_hz: int) -> None:
    audio = tone(300, 0.2, rate_hz, channels)
    page = Page(audio._repr_html_())
    ((samples, played_hz),) = page.players
    assert played_hz == rate_hz
    np.testing.assert_allclose(samples, audio.samples, atol=2 * HALF_A_STEP)
    assert page.texts[0] == repr(audio)


def test_a_long_or_loud_recording_is_played_in_part_and_turned_down() -> None:
    audio = Audio(np.linspace(-4, 0, (MAX_SECONDS + 2) * 1_000, dtype=np.float32), 1_000)
    page = Page(audio._repr_html_())
    samples, _ = page.players[0]
    np.testing.assert_allclose(samples, audio.samples[:, : MAX_SECONDS * 1_000] / 4, atol=2 * HALF_A_STEP)
    assert page.texts[1] == "the first 30 s, turned down by 12.0 dB"


def separation(name: str = "bass") -> Separation:
    plan = Plan({name: Choice("film", "clap", "'film' answers <queries>.", "MIT", "embedded")})
    presence = {name: [Presence(0, 1, 0.25), Presence(1, 2, 0.875)]}
    return Separation(
        {name: tone(80, 0.1), "hat & co": Audio(noise(0.1).samples * 8, 44_100)},
        rest=tone(700, 0.1),
        presence_over_time=presence,
        plan=plan,
        source_name="my <b>song</b>",
    )


def test_a_separation_shows_its_plan_its_presence_and_a_player_for_each_part() -> None:
    name = '<script>alert("&amp;")</script>'
    result = separation(name)
    page = Page(result._repr_html_())
    assert "script" not in page.tags
    text = "|".join(page.texts)
    assert f"|{name}|0.88|film with clap. 'film' answers <queries>.|" in text
    assert "my <b>song</b>" in page.texts and "rest" in page.texts and "hat & co" in page.texts
    peak = np.abs(result["hat & co"].samples).max()
    parts = [*result.values(), result.rest]
    assert peak > 1 and len(page.players) == 3
    for (samples, rate_hz), audio in zip(page.players, parts, strict=True):  # all turned down alike
        assert rate_hz == 44_100
        np.testing.assert_allclose(samples, audio.samples / peak, atol=2 * HALF_A_STEP)


def test_without_a_rest_none_is_shown() -> None:
    assert len(Page(Separation({"a": tone(seconds=0.1)})._repr_html_()).players) == 1


def test_a_terminal_shows_one_readable_line() -> None:
    assert repr(tone(440, 0.5, channels=1)) == "Audio(mono, 0.500 s, 44100 Hz)"
    shown = repr(separation("ba\nss"))
    assert shown == "Separation('ba\\nss' (presence 0.88), 'hat & co': Audio(stereo, 0.100 s, 44100 Hz))"
    vector = Embedding(np.arange(1, 257), "clap-mini-1", {"query": "oboe", "encoder": "clap-mini"})
    assert repr(vector) == "Embedding(256 numbers, space='clap-mini-1', query='oboe', encoder='clap-mini')"
    assert len(repr(Embedding(np.ones(3), "s" * 5_000, {"query": "q" * 5_000}))) < 200
    with toy_plugin():
        assert repr(Separator(device="cpu")) == "Separator(device='cpu')"
        chosen = Separator("toy", query_backend="toy", encoder="toy", device="cpu")
        assert repr(chosen) == "Separator(backend='toy', query_backend='toy', encoder='toy', device='cpu')"


def test_audio_saves_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audio = noise(0.2)
    path = audio.save(tmp_path / "new" / "a.wav")
    assert path == tmp_path / "new" / "a.wav" and np.array_equal(files.read(path).samples, audio.samples)
    assert files.probe(audio.save(str(tmp_path / "b"), format="flac", subtype="PCM_16")).subtype == "PCM_16"
    assert files.probe(audio.save(tmp_path / "c.mp3", bitrate_kbps=128)).format == "mp3"
    assert not caplog.messages
    Audio([[2.0]], 44_100).save(tmp_path / "d.flac")
    assert "scaled by 0.5000" in caplog.text
    with pytest.raises(AudioFileError, match="Cannot write the format"):
        audio.save(tmp_path / "e.xyz")
