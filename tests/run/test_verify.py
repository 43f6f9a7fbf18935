"""``scoresde verify``: a change of a stored digit is noticed, wherever it is."""

import json
import shutil
from pathlib import Path

import pytest
import writers
from scoresde_core.errors import FileError
from scoresde_run.commands.shell import main
from scoresde_run.models import checkpoint
from scoresde_run.results.results import Results

PLACES = {"train": "run", "scoresde-bench": "sweep", "sample": "samples", "encode": "codes", "likelihood": "bits",
          "fit-target": "fit.safetensors", "stats": "stats.safetensors"}  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A training run, a checkpoint and a sweep."""
    folder = tmp_path_factory.mktemp("stored")
    writers.prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, place in PLACES.items():
            program, *words = writers.COMMANDS[name][:-1]
            assert faults_call([program, *words, place]) == 0
    return folder


def faults_call(words):
    from faults import call

    return call(words)


@pytest.fixture
def verify(stored, tmp_path, monkeypatch, capsys):
    """Runs the command on a copy of ``stored``; returns (exit code, lines)."""
    shutil.copytree(stored, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")

    def run(*folders):
        capsys.readouterr()
        code = main(["verify", *folders])
        out = capsys.readouterr()
        return code, (out.out or out.err).splitlines()

    return run


def test_what_was_written_is_sound(verify):
    code, lines = verify("run", "model", *list(PLACES.values())[1:])
    assert code == 0
    states = [line.split(maxsplit=1)[0] for line in lines[:-1]]
    assert lines[-1] == f"{states.count('sound')} sound, 0 not checked, 0 damaged"
    assert "sound        run/checkpoints/step_000000004" in lines
    assert "sound        run/models/step_000000002" in lines
    assert "sound        run/metrics.jsonl" in lines
    assert "sound        run/config.yaml" in lines
    assert "sound        model" in lines
    assert "sound        sweep/results.jsonl: 2 of 2 rows have a digest" in lines
    assert "sound        sweep/report.html" in lines
    for path in ("samples/sampling.yaml", "codes/encoding.yaml", "bits/likelihood.yaml", "fit.safetensors"):
        assert f"sound        {path}" in lines


def flip(path, old, new):
    text = Path(path).read_bytes()
    assert text.count(old), (path, old)
    Path(path).write_bytes(text.replace(old, new, 1))


def a_bit(path):
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


CHANGES = {
    "weights": ("model", lambda: a_bit("model/weights.safetensors"), "is damaged: its sha256 is"),
    "index": ("model", lambda: flip("model/model.yaml", b"step: 0", b"step: 1"), "its digest does not match"),
    "state": ("run", lambda: a_bit("run/checkpoints/step_000000004/state.safetensors"), "is damaged: its sha256 is"),
    "row": ("sweep", lambda: flip("sweep/results.jsonl", b'"value": 0.', b'"value": 1.'), "line 1: it was changed"),
    "page": (
        "sweep",
        lambda: flip("sweep/report.html", b"<p", b"<b"),
        "report.html: it is not as it was when it was written",
    ),
    "metrics": ("run", lambda: flip("run/metrics.jsonl", b'"step": 2', b'"step": 3'), "metrics.jsonl: it is not as it"),
    "configuration": ("run", lambda: flip("run/config.yaml", b"seed: 42", b"seed: 43"), "config.yaml: it is not as it"),
    "samples": (
        "samples",
        lambda: a_bit("samples/samples.npz"),
        "samples.npz: it is not as it was when it was written",
    ),
    "their record": ("samples", lambda: flip("samples/sampling.yaml", b"n: 2", b"n: 3"), "sampling.yaml: it is not as"),
    "latents": ("codes", lambda: a_bit("codes/latents.npz"), "latents.npz: it is not as it was when it was written"),
    "a drawing": ("codes", lambda: Path("codes/latents.png").unlink(), "latents.png"),
    "likelihood": (
        "bits",
        lambda: a_bit("bits/likelihood.npz"),
        "likelihood.npz: it is not as it was when it was written",
    ),
    "a target": ("fit.safetensors", lambda: a_bit("fit.safetensors"), "fit.safetensors: it is not as it was"),
    "statistics": ("stats.safetensors", lambda: a_bit("stats.safetensors"), "stats.safetensors: it is not as it was"),
    "picture": ("sweep", lambda: next(Path("sweep/pictures").iterdir()).unlink(), "a row names it, and it is missing"),
}


@pytest.mark.parametrize(("folder", "change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_damage(verify, folder, change, words):
    change()
    code, lines = verify(folder)
    (damaged,) = [line for line in lines[:-1] if line.startswith("damaged")]
    assert words in damaged
    assert (code, ", 1 damaged" in lines[-1]) == (1, True)


def test_what_has_no_digest_is_not_checked_and_still_loads(verify):
    index = [line for line in Path("model/model.yaml").read_text().splitlines(True) if not line.startswith("digest:")]
    Path("model/model.yaml").write_text("".join(index))
    rows = [json.loads(line) for line in Path("sweep/results.jsonl").read_text().splitlines()]
    for row in rows:
        del row["digest"]
        row["metrics"] = {key: {"value": 1.0} for key in row["metrics"]}
    Path("sweep/results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, lines = verify("model", "sweep")
    assert code == 0
    assert "not checked  model: its weights are sound, its index has no digest" in lines
    assert "not checked  sweep/results.jsonl: 0 of 2 rows have a digest" in lines
    assert checkpoint.read("model").step == 0
    assert len(Results.peek(Path("sweep"))) == 2


def test_metrics_after_the_newest_state_are_not_judged(verify):
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n')
    assert "sound        run/metrics.jsonl" in verify("run")[1]
    Path("run/checkpoints/step_000000004/state.json").write_text("{}")
    assert "not checked  run/metrics.jsonl: it has no digest" in verify("run")[1]


def test_a_changed_row_is_not_shown_as_measured(verify, capsys):
    flip("sweep/results.jsonl", b'"value": 0.', b'"value": 1.')
    assert len(Results.peek(Path("sweep"))) == 1
    assert "line 1, is not a result row: it was changed after it was written" in capsys.readouterr().err


def test_a_changed_index_is_refused(verify):
    flip("model/model.yaml", b"step: 0", b"step: 1")
    with pytest.raises(FileError, match="its digest does not match its content"):
        checkpoint.read("model")


def test_a_folder_of_something_else(verify):
    Path("empty").mkdir()
    code, lines = verify("empty")
    assert (code, len(lines)) == (2, 1)
    assert "empty holds no training run, checkpoint or results" in lines[0]
