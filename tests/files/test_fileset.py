"""Several files get their places together, or everything is as it was before."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unisep import Audio, files
from unisep.errors import AudioFileError
from unisep.files.formats import Encoding
from unisep.files.writing import FileSet, _check_space
from unisep.testing import noise

NAMES = ("a", "b", "c")
Commit = Callable[[Path], object]


def by_write_all(folder: Path) -> object:
    return files.write_all({folder / f"{name}.wav": noise(0.1) for name in NAMES})


def by_file_set(folder: Path, subtype: str = "FLOAT") -> object:
    audio = noise(0.1)
    paths = {name: folder / f"{name}.wav" for name in NAMES}
    with FileSet(paths, audio.sample_rate_hz, 2, audio.n_samples, Encoding("wav", subtype)) as written:
        written.write(dict.fromkeys(NAMES, audio.samples))
        return written.commit()


def by_spooled_file_set(folder: Path) -> object:
    return by_file_set(folder, "PCM_16")


@pytest.fixture(params=[by_write_all, by_file_set, by_spooled_file_set])
def commit(request: pytest.FixtureRequest) -> Commit:
    return request.param


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems differ in whether a file can have a second name."""

    def refused(*_: object, **__: object) -> None:
        raise OSError("Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refused)


def failing_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException, *, done: bool = False) -> None:
    """The file of that name does not get its place; or does (`done`), and the error comes right after."""
    replace = os.replace

    def fragile(source: Path, target: Path) -> None:
        if Path(target).name == name and Path(source).suffix == ".part":
            if done:
                replace(source, target)
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fragile)


ERRORS = [(OSError("no"), AudioFileError), (KeyboardInterrupt(), KeyboardInterrupt)]


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("name", ["a.wav", "b.wav", "c.wav"])
@pytest.mark.parametrize(("error", "expected"), ERRORS)
@pytest.mark.parametrize("done", [False, True])
def test_where_one_file_fails_all_are_as_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commit: Commit,
    name: str,
    error: BaseException,
    expected: type[BaseException],
    done: bool,
) -> None:
    before = {"a.wav": b"old a", "c.wav": b"old c"}
    for file, content in before.items():
        (tmp_path / file).write_bytes(content)
    with monkeypatch.context() as patch:
        failing_at(patch, name, error, done=done)
        with pytest.raises(expected):
            commit(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    commit(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "c.wav"]
    assert all(files.read(path).n_samples == 4_410 for path in tmp_path.iterdir())


@pytest.mark.usefixtures("links")
def test_an_interrupt_while_a_former_file_is_kept_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: Commit
) -> None:
    from unisep.files import writing as fileset

    keep = fileset._keep

    def interrupted(path: Path, former: Path) -> None:
        keep(path, former)
        if path.name == "b.wav":
            raise KeyboardInterrupt

    for name in NAMES:
        (tmp_path / f"{name}.wav").write_text(name)
    with monkeypatch.context() as patch:
        patch.setattr(fileset, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            commit(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{n}.wav": n for n in NAMES}


def test_no_name_is_ever_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_write_all(tmp_path)
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        assert all((tmp_path / f"{name}.wav").is_file() for name in NAMES)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    by_write_all(tmp_path)


def test_what_cannot_be_put_back_is_kept_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.wav").write_text(name)
    replace = os.replace

    def fragile(source: Path, target: Path) -> None:
        if Path(target).name == "b.wav" or Path(source).suffix == ".old":
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fragile)
    with pytest.raises(AudioFileError, match=r"before is now '.*\.old'"):
        by_write_all(tmp_path)
    assert "a" in [path.read_text() for path in tmp_path.glob(".*.old")]


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
@pytest.mark.usefixtures("links")
def test_a_symbolic_link_comes_back_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").write_text("elsewhere")
    (tmp_path / "a.wav").symlink_to(tmp_path / "elsewhere")
    failing_at(monkeypatch, "b.wav", OSError("no"))
    with pytest.raises(AudioFileError):
        by_write_all(tmp_path)
    assert (tmp_path / "a.wav").is_symlink() and (tmp_path / "a.wav").read_text() == "elsewhere"
    assert len(list(tmp_path.iterdir())) == 2


# what the system refuses


@pytest.mark.parametrize("where", ["afile", "afile/sub"])
def test_a_folder_that_cannot_be_is_a_typed_error(tmp_path: Path, commit: Commit, where: str) -> None:
    (tmp_path / "afile").write_text("x")
    with pytest.raises(AudioFileError, match="Cannot write"):
        commit(tmp_path / where)
    assert (tmp_path / "afile").read_text() == "x"


class Full:
    """A spool on a full disk: one of `writes` and `reads` fails, and closing too."""

    def __init__(self, failing: str) -> None:
        self.failing = failing

    def _maybe(self, what: str) -> bytes:
        if what == self.failing:
            raise OSError(28, "No space left on device")
        return b""

    def write(self, data: bytes) -> None:
        self._maybe("write")

    def seek(self, offset: int) -> None:
        self._maybe("seek")

    def read(self, size: int) -> bytes:
        return self._maybe("read")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", ["write", "seek", "read"])
def test_a_spool_that_fails_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full(failing))
    with pytest.raises(AudioFileError, match="No space left"):
        by_spooled_file_set(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_drive_that_is_not_there_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    _check_space(Path("/nowhere/at/all"), 0)


def test_one_gain_and_the_same_samples_as_ever(tmp_path: Path) -> None:
    loud = Audio(np.full((2, 10), 2.0, dtype=np.float32), 44_100)
    with FileSet({"a": tmp_path / "a.wav"}, 44_100, 2, 10, Encoding("wav", "PCM_16")) as written:
        written.write({"a": loud.samples})
        report = written.commit()
    assert np.abs(files.read(report.paths[0]).samples - loud.samples * report.gain).max() < 2**-15
