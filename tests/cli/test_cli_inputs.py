from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisep.cli.separate import MissingInput, check_distinct, expand
from unisep.errors import OptionError
from unisep.files.paths import Template


def never(_path):
    return False


@pytest.fixture
def album(tmp_path):
    for name in ("b.flac", "a.mp3", "cover.jpg", ".hidden.wav", "deep/c.WAV"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_stands_for_its_audio_files_in_order(album):
    assert expand([str(album)], recursive=False, skip=never) == [album / "a.mp3", album / "b.flac"]
    deep = expand([str(album)], recursive=True, skip=never)
    assert deep == [album / "a.mp3", album / "b.flac", album / "deep/c.WAV"]


def test_results_of_earlier_runs_are_not_taken_from_a_folder(album):
    found = expand([str(album)], recursive=True, skip=lambda path: path.name == "b.flac")
    assert album / "b.flac" not in found


def test_patterns_are_expanded_and_nothing_is_taken_twice(album):
    pattern = str(album / "*.flac")
    assert expand([pattern, str(album / "b.flac"), pattern], recursive=False, skip=never) == [album / "b.flac"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    song = tmp_path / "song [live].wav"
    song.touch()
    assert expand([str(song)], recursive=False, skip=never) == [song]


def test_what_stands_for_nothing_becomes_an_error_in_its_place(album):
    (album / "empty").mkdir()
    argv = [str(album / "empty"), str(album / "*.ape"), str(album / "a.mp3")]
    empty, unmatched, song = expand(argv, recursive=False, skip=never)
    assert isinstance(empty, MissingInput) and (empty.text, "empty" in str(empty.error)) == (argv[0], True)
    assert isinstance(unmatched, MissingInput) and "*.ape" in str(unmatched.error)
    assert song == album / "a.mp3"


def test_one_file_under_two_spellings_is_one_input(album, monkeypatch):
    monkeypatch.chdir(album)
    argv = ["a.mp3", str(album / "a.mp3"), "./x/../a.mp3"]
    assert expand(argv, recursive=False, skip=never) == [Path("a.mp3")]


def test_the_template_places_every_result():
    template = Template("{folder}/{track}-{trackext}/{stem}.{ext}")
    placed = template.place(Path("/music/live/song.mp3"), ["lead vocal", "rest"], "flac")
    assert placed == {"lead vocal": Path("live/song-mp3/lead vocal.flac"), "rest": Path("live/song-mp3/rest.flac")}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{track}.{ext}", "{stem}"),
        ("{artist}/{stem}.{ext}", "artist"),
        ("{stem", "no template"),
        ("{stem!r}.{ext}", "format"),
        ("{stem:>99}.{ext}", "format"),
        ("{stem.__class__}", "__class__"),
        ("../{stem}.{ext}", "folder="),
        ("/tmp/{stem}.{ext}", "folder="),
        ("C:/{stem}.{ext}", "folder="),
    ],
)
def test_templates_that_cannot_work_are_refused(pattern, message):
    with pytest.raises(OptionError, match="filename") as caught:
        Template(pattern)
    assert message in str(caught.value)


@given(track=st.text(min_size=1), stem=st.text(min_size=1))
def test_no_name_leaves_the_output_folder(track, stem):
    source = Path("/in") / (track.replace("/", "_").replace("\0", "_") or "_")
    place = Template("{track}/{stem}.{ext}").place(source, [stem], "wav")[stem]
    assert not place.is_absolute() and ".." not in place.parts and len(place.parts) == 2


def test_inputs_with_the_same_names_are_refused_with_what_to_do():
    songs = [Path("a/song.wav"), Path("b/song.wav")]
    with pytest.raises(OptionError, match=r"same names.*\{folder\}"):
        check_distinct(songs, Template("{track}/{stem}.{ext}"))
    check_distinct(songs, Template("{folder}/{track}/{stem}.{ext}"))
