from __future__ import annotations

import json
import math
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import soundfile
from unisep_evaluate import (
    Asking,
    Evaluation,
    Item,
    Record,
    WindowOptions,
    bsseval_v4,
    evaluate,
    evaluate_stems,
    lines,
    open_dataset,
    query_items,
    sdr_db,
    songs,
)
from unisep_evaluate.metrics import museval_metrics
from unisep_evaluate.report import median

from unisep import Embedding, Separator
from unisep.cli import main
from unisep.errors import DatasetError, OptionError
from unisep.testing import silence, tone, toy_plugin

RATE_HZ = 44_100
NOISY = {"bass": (100, 180), "guitar": (400, 800), "hat": (6_000, 12_000)}  # each in a band of the toy's


def band_noise(low_hz, high_hz, seconds, seed):
    n_samples = round(seconds * RATE_HZ)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal((2, n_samples)))
    frequencies_hz = np.fft.rfftfreq(n_samples, 1 / RATE_HZ)
    spectrum[:, (frequencies_hz < low_hz) | (frequencies_hz > high_hz)] = 0
    samples = np.fft.irfft(spectrum, n_samples)
    return (0.1 * samples / np.sqrt(np.mean(samples**2))).astype(np.float32)


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.T, RATE_HZ, subtype="FLOAT")


@pytest.fixture(scope="module")
def songs_folder(tmp_path_factory):
    """Two songs of 2 s; bass and guitar all through, the hat in the second half."""
    folder = tmp_path_factory.mktemp("songs")
    for number, song in enumerate(("one", "two")):
        for seed, (stem, band) in enumerate(NOISY.items()):
            samples = band_noise(*band, 2.0, 10 * number + seed)
            if stem == "hat":
                samples[:, :RATE_HZ] = 0
            write(folder / song / f"{stem}.wav", samples)
    return folder


@pytest.fixture(scope="module")
def halves_folder(tmp_path_factory):
    """A song of 2 s whose stems are the toy's fixed ones."""
    folder = tmp_path_factory.mktemp("halves")
    write(folder / "song" / "low.wav", band_noise(100, 900, 2.0, 1))
    write(folder / "song" / "high.wav", band_noise(1_200, 5_000, 2.0, 2))
    return folder


@pytest.fixture
def toy():
    with toy_plugin(), Separator("toy", query_backend="toy", encoder="toy", device="cpu") as separator:
        yield separator


@pytest.fixture
def whole_museval(monkeypatch):
    """The museval package as its users import it, without its reader of data sets, which asks for ffmpeg."""
    monkeypatch.setitem(sys.modules, "musdb", types.ModuleType("musdb"))
    return pytest.importorskip("museval")


def options(**changes):
    return WindowOptions(**{"window_seconds": 1.0, "n_per_class": 2, "n_absent": 2, "example_seconds": 0.5} | changes)


def items_of(folder, **changes):
    return list(query_items(open_dataset(folder), options(**changes)))


def test_the_toy_is_good_at_bands_in_every_way_of_asking(toy, songs_folder):
    asks = ("text", "audio", "vector", "combined")
    found = evaluate(toy, items_of(songs_folder), Asking(asks))
    assert {(r.name, r.start_seconds) for r in found.records if r.group == "absent"} == {("hat", 0.0)}
    for ask in asks:
        present = [r for r in found.records if r.ask == ask and r.group == "song"]
        assert {r.name for r in present} == {"bass", "guitar", "hat"} and len(present) == 6
        assert min(r.figures["si_sdri_db"] for r in present) > 10
        assert min(r.figures["sdr_db"] for r in present) > 10
        absent = [r for r in found.records if r.ask == ask and r.group == "absent"]
        assert len(absent) == 2 and max(r.figures["absent_level_db"] for r in absent) < -20
    assert max(r.figures["residual_db"] for r in found.records) < -120
    assert {(r.track, r.name, r.start_seconds) for r in found.records if r.ask == "text"} == {
        (r.track, r.name, r.start_seconds) for r in found.records if r.ask == "audio"
    }
    (overall,) = [s for s in found.summaries() if s.ask == "text" and s.group == s.name == "all"]
    assert overall.n == 6 and overall.n_tracks == 2 and overall.presence_auc == 1.0


def test_the_figures_are_those_of_the_separation(toy, songs_folder):
    item = items_of(songs_folder, classes=("guitar",), n_absent=0)[0]
    (record,) = evaluate(toy, [item]).records
    estimate = toy.separate(item.mixture, "guitar", route="conditioned").target.samples
    sdr, mixture_sdr = sdr_db(estimate, item.target), sdr_db(item.mixture, item.target)
    assert record.figures["sdr_db"] == pytest.approx(sdr, abs=1e-9)
    assert record.figures["mixture_sdr_db"] == pytest.approx(mixture_sdr, abs=1e-9)
    assert record.figures["sdri_db"] == pytest.approx(sdr - mixture_sdr, abs=1e-9)
    assert record.figures["nsdr_db"] == pytest.approx(sdr, abs=1e-2)
    assert record.backend == "toy" and record.encoder == "toy"
    assert record.computing_seconds > 0 and record.audio_seconds == 1.0


def test_bsseval_of_queries_is_musevals_own(toy, songs_folder, whole_museval):
    item = items_of(songs_folder, classes=("guitar",), n_absent=0, window_seconds=2.0, n_per_class=1)[0]
    (record,) = evaluate(toy, [item], Asking(bsseval=True)).records
    separation = toy.separate(item.mixture, "guitar", route="conditioned")
    references = np.stack([item.target.T, (item.mixture.samples - item.target).T])
    estimates = np.stack([separation.target.samples.T, separation.rest.samples.T])
    theirs = whole_museval.evaluate(references, estimates, win=RATE_HZ, hop=RATE_HZ, mode="v4")
    for key, values in zip(("bss_sdr_db", "bss_isr_db", "bss_sir_db", "bss_sar_db"), theirs, strict=True):
        assert values.shape == (2, 2)
        assert record.figures[key] == pytest.approx(np.nanmedian(values[0]), abs=1e-6)
    whole = whole_museval.evaluate(references, estimates, win=np.inf, hop=np.inf, mode="v4")
    assert record.figures["sdr_db"] == pytest.approx(whole[0][0, 0], abs=1e-6)


def test_bsseval_of_stems_is_musevals_own(toy, halves_folder, whole_museval):
    (song,) = songs(open_dataset(halves_folder))
    found = evaluate_stems(toy, [song], bsseval=True)
    separation = toy.separate(song.mixture)
    names = ["low", "high"]
    theirs = whole_museval.evaluate(
        np.stack([song.references[name].T for name in names]), np.stack([separation[name].samples.T for name in names]),
        win=RATE_HZ, hop=RATE_HZ,
    )  # fmt: skip
    assert {record.name for record in found.records} == set(names)
    for record in found.records:
        for key, values in zip(("bss_sdr_db", "bss_isr_db", "bss_sir_db", "bss_sar_db"), theirs, strict=True):
            assert record.figures[key] == pytest.approx(np.nanmedian(values[names.index(record.name)]), abs=1e-6)


def test_bsseval_says_nothing_where_museval_could_not():
    heard, silent = tone(440, 1.0).samples, silence(1.0).samples
    for estimates, references in [((heard, silent), (heard, heard)), ((heard, heard), (heard, silent))]:
        named = [dict(zip("ab", signals, strict=True)) for signals in (estimates, references)]
        found = bsseval_v4(*named, RATE_HZ)
        assert all(math.isnan(value) for figures in found.values() for value in figures.values())


def test_bsseval_without_museval_says_what_to_install(monkeypatch):
    museval_metrics.cache_clear()
    monkeypatch.setattr("unisep_evaluate.metrics.find_spec", lambda _name: None)
    with pytest.raises(OptionError, match=r"unisep\[evaluate\]"):
        Asking(bsseval=True)


def test_fixed_stems_of_whole_songs(toy, halves_folder, tmp_path):
    found = evaluate_stems(toy, songs(open_dataset(halves_folder)))
    assert {record.name: record.group for record in found.records} == {"low": "song", "high": "song"}
    assert min(record.figures["nsdr_db"] for record in found.records) > 20
    write(tmp_path / "song" / "low.wav", band_noise(100, 900, 1.0, 1))
    write(tmp_path / "song" / "high.wav", silence(1.0).samples)
    silent = evaluate_stems(toy, songs(open_dataset(tmp_path)), bsseval=True)
    by_name = {record.name: record for record in silent.records}
    assert by_name["high"].group == "absent" and by_name["high"].figures["absent_level_db"] < -20
    assert "absent_level_db" not in by_name["low"].figures


def test_a_stem_that_the_songs_lack_counts_to_their_other(toy, tmp_path):
    low, high = band_noise(100, 900, 1.0, 1), band_noise(1_200, 5_000, 1.0, 2)
    write(tmp_path / "song" / "low.wav", low)
    write(tmp_path / "song" / "other.wav", high)
    found = evaluate_stems(toy, songs(open_dataset(tmp_path)))
    assert [record.name for record in found.records] == ["low"]  # the toy gives no "other" to add `high` to
    write(tmp_path / "more" / "one" / "x.wav", low)
    with pytest.raises(DatasetError, match="none with a stem"):
        evaluate_stems(toy, songs(open_dataset(tmp_path / "more")))


def test_what_a_lossy_decoder_leaves_is_silence(toy, tmp_path):
    low, residue = band_noise(100, 900, 2.0, 1), band_noise(1_200, 5_000, 2.0, 2) * 1e-20
    high = band_noise(1_200, 5_000, 2.0, 3)
    high[:, :RATE_HZ] = residue[:, :RATE_HZ]  # museval's first frame must count as silent
    write(tmp_path / "song" / "low.wav", low)
    write(tmp_path / "song" / "high.wav", high)
    found = {r.name: r for r in evaluate_stems(toy, songs(open_dataset(tmp_path)), bsseval=True).records}
    assert min(record.figures["bss_sdr_db"] for record in found.values()) > 10
    write(tmp_path / "song" / "high.wav", residue)
    found = {r.name: r for r in evaluate_stems(toy, songs(open_dataset(tmp_path))).records}
    assert {name: record.group for name, record in found.items()} == {"low": "song", "high": "absent"}


def test_vectors_of_ones_own_are_asked_with(toy, songs_folder):
    item = items_of(songs_folder, classes=("guitar",), n_absent=0)[0]
    wrong = Embedding(np.array([1, 0, 0, 0]), "toy-bands-1")  # the bass's band
    own, made = (
        evaluate(toy, [item], Asking(("vector",), vectors)).records[0].figures["si_sdri_db"]
        for vectors in ({"guitar": wrong}, {})
    )
    assert own < 0 < made


def test_items_without_example_are_left_out_of_all_ways_alike(toy, songs_folder):
    item = items_of(songs_folder, classes=("guitar",), n_absent=0)[0]
    bare = Item(item.track, item.name, item.group, item.start_seconds, item.mixture, item.target)
    assert len(evaluate(toy, [item, bare]).records) == 2
    found = evaluate(toy, [item, bare], Asking(("text", "audio")))
    assert [record.ask for record in found.records] == ["text", "audio"]
    assert "1 windows without an example" in "\n".join(lines(found))
    with pytest.raises(DatasetError, match="no item with an example"):
        evaluate(toy, [bare], Asking(("audio",)))


@pytest.mark.parametrize("asks", [(), ("text", "text"), ("txt",)])
def test_ways_of_asking_are_checked(asks):
    with pytest.raises(OptionError, match="text"):
        Asking(asks)


def record(name, si_sdri_db, presence, group="song", ask="text", track="t"):
    figures = {"si_sdri_db": si_sdri_db, "presence": presence, "residual_db": -math.inf}
    return Record(track, name, group, ask, 0.0, 6.0, 2.0, figures, "toy", None)


def test_summaries_are_medians_by_group_and_class():
    found = Evaluation("query", (
        record("drums", 1.0, 0.9), record("drums", 3.0, 0.4), record("bass", -math.inf, 0.8, track="u"),
        record("dog", math.nan, 0.7, "single"), record("drums", 0.0, 0.5, "absent"),
    ))  # fmt: skip
    by_key = {(s.group, s.name): s for s in found.summaries()}
    assert list(by_key) == [
        ("all", "all"), ("song", "all"), ("song", "drums"), ("song", "bass"), ("single", "all"), ("single", "dog"),
        ("absent", "all"),
    ]  # fmt: skip
    assert by_key["song", "drums"].median["si_sdri_db"] == 2.0
    assert by_key["song", "drums"].presence_auc == 0.5 and by_key["song", "bass"].presence_auc is None
    assert by_key["all", "all"].n == 4 and by_key["all", "all"].presence_auc == 0.75
    assert by_key["all", "all"].median["si_sdri_db"] == 1.0  # the undefined one does not count
    assert math.isnan(by_key["single", "dog"].median["si_sdri_db"])
    assert by_key["song", "all"].mean["si_sdri_db"] == -math.inf


def test_the_real_time_factor_counts_each_separation_once():
    one = Record("t", "low", "song", "stems", 0.0, 10.0, 2.0, {}, "toy", None)
    other = Record("t", "high", "song", "stems", 0.0, 10.0, 2.0, {}, "toy", None)
    assert Evaluation("stems", (one, other)).real_time_factor == pytest.approx(0.2)
    next_song = Record("u", "low", "song", "stems", 0.0, 30.0, 2.0, {}, "toy", None)
    assert Evaluation("stems", (one, other, next_song)).real_time_factor == pytest.approx(0.1)


def test_json_holds_every_record_and_formula_and_no_bare_infinity(tmp_path):
    found = Evaluation("query", (record("drums", math.nan, 0.9), record("bass", math.inf, 0.9)), {"data": "d"})
    values = json.loads(found.save(tmp_path / "a" / "report.json").read_text(), parse_constant=pytest.fail)
    assert [r["figures"]["si_sdri_db"] for r in values["records"]] == [None, "inf"]
    assert values["about"]["real_time_factor"] == pytest.approx(1 / 3) and values["about"]["data"] == "d"
    assert values["formulas"]["sdr_db"].startswith("SDR = 10 log10(|s|^2 / |s-e|^2)")
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(OptionError, match="Cannot write"):
        found.save(tmp_path / "a" / "report.json" / "below.json")


def test_medians_order_infinities():
    assert median([-math.inf, 1.0]) == -math.inf
    assert median([math.inf, math.inf]) == math.inf
    assert median([5.0, 1.0, 2.0, 4.0]) == 3.0
    assert math.isnan(median([]))


def test_the_picture_shows_every_class(tmp_path):
    from matplotlib.image import imread

    present = [record(name, 5.0 * n, 0.9, ask=ask) for n, name in enumerate(NOISY) for ask in ("text", "audio")]
    silent = Record("t", "dog", "absent", "text", 0.0, 6.0, 2.0, {"absent_level_db": -math.inf}, "toy", None)
    found = Evaluation("query", (*present, record("bass", math.inf, 0.9), silent))
    image = imread(found.plot(tmp_path / "figures.png"))
    assert image.shape[0] > 300 and image.shape[1] > 900
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 50
    with pytest.raises(OptionError, match="png"):
        found.plot(tmp_path / "figures.nothing")


def command(*arguments):
    return main(["evaluate", *map(str, arguments), "--device", "cpu"])


def test_the_command_prints_a_table_and_writes_report_and_picture(songs_folder, tmp_path, capsys):
    report, plot = tmp_path / "report.json", tmp_path / "figures.png"
    with toy_plugin():
        code = command(
            songs_folder, "--query-backend", "toy", "--encoder", "toy", "--window", 1, "--per-class", 1, "--n-absent", 1,
            "--ask", "text", "audio", "--report", report, "--plot", plot,
        )  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0, err
    for expected in ("song: guitar", "SI-SDRi", "AUC", "Real-time factor", "peak memory"):
        assert expected in out
    assert "10 log10" not in out and "--formulas" in err
    formula = "SDR: 10 log10(|s|^2 / |s-e|^2), in dB; a silent e scores 0"
    with toy_plugin():
        assert command(songs_folder, "--query-backend", "toy", "--encoder", "toy", "--n-absent", 1, "--formulas") == 0
    assert formula in capsys.readouterr().out.splitlines()
    assert plot.is_file()
    about = json.loads(report.read_text())["about"]
    assert about["songs"] == ["one", "two"] and about["options"]["window"] == 1.0
    assert about["route"] == about["options"]["route"] == "conditioned"


def test_places_and_seeds_are_looked_at_before_anything_is_computed(songs_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for options in (
        ("--report", tmp_path), ("--report", tmp_path / "file" / "x.json"), ("--draw-seed", -1),
    ):  # fmt: skip
        assert command(songs_folder, *options) == 2
        assert str(options[1]) in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".part")] == []


def test_the_command_measures_fixed_stems_as_json(halves_folder, capsys):
    with toy_plugin():
        assert command(halves_folder, "--mode", "stems", "--backend", "toy", "--json", "--seconds", 1) == 0
    values = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert values["mode"] == "stems" and {r["name"] for r in values["records"]} == {"low", "high"}
    assert {r["audio_seconds"] for r in values["records"]} == {1.0}
    assert values["about"]["route"] == values["about"]["options"]["route"] == "auto"
    with toy_plugin():
        assert command(halves_folder, "--mode", "stems", "--backend", "toy", "--route", "fixed", "--json") == 0
    assert json.loads(capsys.readouterr().out)["about"]["route"] == "fixed"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--mode", "stems", "--ask", "audio"], 2, "--mode query"),
        (["--mode", "stems", "--window", "2"], 2, "--mode query"),
        (["--mode", "stems", "--absent", "piano"], 2, "--mode query"),
        (["--stems", "drums"], 2, "--mode stems"),
        (["--plot", "figures.txt"], 2, ".png"),
        (["--within-db", "-3"], 2, "within_db"),
        (["--songs", "three"], 1, "one, two"),
        (["--classes", "gitar"], 1, "Did you mean 'guitar'"),
        (["--ask", "telepathy"], 2, "combined"),
    ],
)
def test_wrong_usage_and_data_have_codes_and_messages(songs_folder, arguments, code, said, capsys):
    with toy_plugin():
        assert command(songs_folder, "--query-backend", "toy", "--encoder", "toy", *arguments) == code
    out, err = capsys.readouterr()
    assert not out and said in err and "Traceback" not in err


def test_a_warning_is_shown_once(halves_folder, monkeypatch, capsys):
    def warning(separator, mixture, **_options):
        with warnings.catch_warnings():  # what a model does while it loads
            pass
        warnings.warn("a weaker model answers", stacklevel=1)
        return real(separator, mixture)

    real = Separator.separate
    monkeypatch.setattr(Separator, "separate", warning)
    with toy_plugin():
        assert command(halves_folder, "--mode", "stems", "--backend", "toy") == 0
    assert capsys.readouterr().err.count("a weaker model answers") == 1


def test_help_of_the_command_loads_no_torch():
    code = (
        "import sys; from unisep.cli import main\n"
        "code = main(['evaluate', '--help'])\n"
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)) or code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--bsseval" in done.stdout


def test_separate_keeps_its_own_default_route():
    from unisep_evaluate.command import parser

    from unisep.cli.arguments import parse

    assert parse(["separate", "x.wav"]).route == "auto"
    assert parser().parse_args(["x"]).route is None
