"""The harness: cells, rows, resuming, failures as rows, exit codes."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import rows_in

SMALL = ["--target", "mixture2d", "--samples", "64"]
ONE = [*SMALL, "--sde", "vp", "--steps", "5"]


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A local registry file with components in a module beside it."""
    (tmp_path / "broken_parts.py").write_text(
        "import attrs, torch\n"
        "from scoresde_core import Evaluator, Predictor\n"
        "@attrs.frozen\n"
        "class Blind(Evaluator):\n"
        "    def evaluate(self, evidence):\n"
        "        return 3 / 0\n"
        "@attrs.frozen\n"
        "class Raises(Predictor):\n"
        "    def step(self, x, step, model, noise):\n"
        "        raise RuntimeError('the moon is full')\n"
        "@attrs.frozen\n"
        "class Diverges(Predictor):\n"
        "    def step(self, x, step, model, noise):\n"
        "        return x * torch.inf, x * torch.inf\n"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(
        "api: 1\npredictors:\n"
        "  raises: {target: 'broken_parts:Raises'}\n"
        "  diverges: {target: 'broken_parts:Diverges'}\n"
        "evaluators:\n  blind: {target: 'broken_parts:Blind'}\n"
    )
    return str(path)


def test_the_main_job_has_a_cell_for_every_sde_and_step_count(bench):
    code, out, _ = bench("--predictor", "reverse_diffusion", "--corrector", "langevin", "--dry-run")
    assert code == 0
    lines = out.strip().splitlines()
    assert lines[-1].startswith("9 cells, about ")
    assert {line.split(" · ")[1] for line in lines[:-1]} == {"ve", "vp", "subvp"}
    assert all("mnist_mfa" in line and "reverse_diffusion · langevin" in line for line in lines[:-1])


def test_a_row_tells_its_whole_story(bench, tmp_path):
    code, out, _ = bench(*ONE, "--corrector", "langevin[snr=0.1]", "--out", "here")
    assert code == 0
    (row,) = rows_in(tmp_path / "here")
    assert row["status"] == "done"
    assert row["nfe"] == 10
    assert row["corrector"] == "langevin[snr=0.1]"
    assert row["parameters"]["sampler"]["corrector"]["n_steps"] == 1
    assert row["parameters"]["sde"]["beta_max"] == 20.0
    assert row["samples_per_second"] == pytest.approx(64 / row["seconds"])
    assert set(row["metrics"]) == {"nll_gap", "sliced_wasserstein", "mode_weights", "moments", "energy_distance"}
    for metric in row["metrics"].values():
        assert metric["stderr"] > 0
        assert metric["floor"] is not None
    missing = {
        *("reason", "target", "checkpoint", "network", "sampler", "grid", "steps", "seed", "samples", "batch_size"),
        *("compile_seconds", "peak_memory_bytes", "device", "dtype", "tf32", "torch", "scoresde", "plugins", "git"),
        *("date", "command", "picture", "schema"),
    } - set(row)
    assert not missing
    assert (tmp_path / "here" / row["picture"]).stat().st_size > 0
    assert (tmp_path / "here" / "report.html").stat().st_size > 0
    assert "nll_gap" in out
    assert "\x1b" not in out


def test_the_same_command_repeats_nothing(bench, tmp_path):
    bench(*SMALL, "--sde", "vp", "--steps", "4,5")
    (folder,) = (tmp_path / "scoresde-runs").iterdir()
    before = (folder / "results.jsonl").read_text()
    code, out, _ = bench(*SMALL, "--sde", "vp", "--steps", "4,5")
    assert code == 0
    assert "2 of 2 cells are already done" in out
    assert (folder / "results.jsonl").read_text() == before


def test_an_interrupted_run_goes_on(bench, tmp_path, monkeypatch):
    from scoresde_bench.run import cell as run

    real, calls = run.Bench.run, []

    def interrupted(self, cell, progress=None):
        calls.append(cell.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, cell, progress)

    monkeypatch.setattr(run.Bench, "run", interrupted)
    code, out, err = bench(*SMALL, "--sde", "vp", "--steps", "4,5,6", "--out", "here")
    assert (code, "interrupted" in err, "1 of 3" in out) == (130, True, True)
    code, _, _ = bench(*SMALL, "--sde", "vp", "--steps", "4,5,6", "--out", "here")
    assert code == 0
    rows = rows_in(tmp_path / "here")
    assert len(rows) == len({row["cell"] for row in rows}) == 3
    assert calls.count(calls[0]) == 1


def test_in_one_process_the_runner_gets_what_the_plan_built(bench, tmp_path, monkeypatch):
    """One sampler per cell, plus one that says which axes it uses; every other component once."""
    from scoresde_bench.run import cell as run
    from scoresde_core.registry import Registry

    real, create, built, ran = run.Bench.run, Registry.create, [], []
    monkeypatch.setattr(run.Bench, "run", lambda self, cell, progress=None: ran.append(cell) or real(self, cell))

    def counted(self, kind, *given, **more):
        built.append((kind, create(self, kind, *given, **more)))
        return built[-1][1]

    monkeypatch.setattr(Registry, "create", counted)
    assert bench(*SMALL, "--sde", "vp", "--steps", "4,5", "--seed", "0,1", "--evaluator", "moments")[0] == 0
    kinds = [kind for kind, _ in built]
    counts = {kind: kinds.count(kind) for kind in ("samplers", "sdes", "targets", "evaluators")}
    assert counts == {"samplers": 3, "sdes": 1, "targets": 1, "evaluators": 1}
    made = {id(component) for _, component in built}
    assert len(ran) == 4
    for cell in ran:
        parts = (cell.sampler, cell.source.sde, cell.source.target, *cell.judges.values())
        assert {id(part) for part in parts} <= made


def test_a_pickled_task_is_text(tmp_path):
    """Another process builds the same cell from it."""
    import pickle

    from scoresde_bench.plan.suite import Block, read_block
    from scoresde_bench.plan.sweep import Sweep
    from scoresde_bench.run.executor import Settings, Task
    from scoresde_core.registry import load_registry

    axes = {"target": ("mixture2d",), "sde": ("vp",), "steps": ("7",), "seed": (3,), "evaluator": ("moments",)}
    sweep = Sweep(load_registry(), "cpu")
    (cell,) = sweep.cells([Block(axes, samples=64)])
    task = Task.of(cell, Settings(str(tmp_path), str(tmp_path)))
    sent = pickle.loads(pickle.dumps(task))
    assert (task.cell, sent.cell, sent) == (cell, None, task)
    assert json.dumps(sent.plain()) == json.dumps(task.plain())
    (twin,) = sweep.cells([read_block(sent.request, "here", [])])
    assert (twin.key, twin.steps, twin.seed) == (cell.key, 7, 3)


def test_a_line_cut_short_by_a_kill_is_dropped(bench, tmp_path):
    bench(*ONE, "--out", "here")
    path = tmp_path / "here" / "results.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:57])
    code, _, _ = bench(*ONE, "--out", "here")
    assert code == 0
    assert path.read_text() == whole


@pytest.mark.parametrize("text", ["not json\n", '{"schema": 1}\n', "[]\n"], ids=["words", "no cell", "list"])
def test_a_corrupt_results_file_is_named(bench, tmp_path, text):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "results.jsonl").write_text(text)
    code, _, err = bench(*ONE, "--out", "here")
    assert (code, err.count("\n")) == (3, 1)
    assert "line 1" in err
    assert (tmp_path / "here" / "results.jsonl").read_text() == text


def test_results_of_a_newer_version_are_left_alone(bench, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "results.jsonl").write_text('{"schema": 99, "cell": "x"}\n')
    code, _, err = bench(*ONE, "--out", "here")
    assert code == 3
    assert "schema 99" in err


def test_a_failing_cell_is_a_row_and_the_others_run(bench, tmp_path, local):
    arguments = [*ONE, "--registry", local, "--predictor", "raises", "diverges", "ddim", "--out", "here"]
    code, out, _ = bench(*arguments)
    assert code == 1
    rows = {row["predictor"]: row for row in rows_in(tmp_path / "here")}
    assert rows["raises"]["status"] == rows["diverges"]["status"] == "failed"
    assert rows["raises"]["reason"] == "RuntimeError: the moon is full"
    assert "64 of 64 samples are not finite" in rows["diverges"]["reason"]
    assert rows["ddim"]["status"] == "done"
    assert "the moon is full" in out
    # Only the failed ones are tried again.
    bench(*arguments)
    again = [row["predictor"] for row in rows_in(tmp_path / "here")]
    assert sorted(again) == ["ddim", "diverges", "diverges", "raises", "raises"]


def test_a_metric_that_fails_is_named(bench, tmp_path, local):
    assert bench(*ONE, "--registry", local, "--evaluator", "blind", "--out", "here")[0] == 1
    (row,) = rows_in(tmp_path / "here")
    assert row["reason"] == "ZeroDivisionError: division by zero, in the evaluator blind"


def test_a_combination_that_cannot_work_is_skipped_with_its_reason(bench, tmp_path):
    code, out, _ = bench(*ONE, "--predictor", "none", "ddim", "--out", "here")
    assert code == 0
    skipped = next(row for row in rows_in(tmp_path / "here") if row["status"] == "skip")
    assert "move nothing" in skipped["reason"]
    assert "move nothing" in out


USAGE = {
    "unknown predictor": (["--predictor", "reverse_difusion"], "Did you mean 'reverse_diffusion'"),
    "unknown parameter": (["--corrector", "langevin[snrr=1]"], "Did you mean 'snr'"),
    "out of range": (["--corrector", "langevin[snr=-1]"], "-1"),
    "wrong type": (["--corrector", "langevin[n_steps=2.5]"], "int, got 2.5"),
    "not a choice": (["--corrector", "langevin[norm=most]"], "'batch' or 'level', got 'most'"),
    "zero steps": (["--steps", "0"], "--steps must be integers of at least 1, got '0'"),
    "negative steps": (["--steps=-5"], "got '-5'"),
    "steps in words": (["--steps", "many"], "got 'many'"),
    "no samples": (["--samples", "0"], "--samples must be at least 1, got 0"),
    "dtype": (["--dtype", "int8"], "'int8'"),
    "device": (["--device", "cuda:99"], "this machine has cpu"),
    "device that is none": (["--device", "toaster"], "'toaster'"),
    "brackets": (["--corrector", "langevin[snr=1"], "langevin[snr=1"),
    "unknown option": (["--predicter", "ddim"], "--predicter ddim. Did you mean '--predictor'"),
    "unused axis": (["--sampler", "ode", "--predictor", "ddim"], "--predictor has no effect"),
    "registry": (["--registry", "nowhere.yaml"], "nowhere.yaml"),
    "channel means": (["--sde", "ve[prior_mean=[a]]"], "prior_mean"),
}


def test_a_word_that_is_no_command(bench):
    code, out, err = bench("reprot", "few_step")
    assert (code, out) == (2, "")
    assert err == "error: unknown command 'reprot'. Did you mean 'report'?\n"


def _cells(listing):
    """The cells of a dry run without their predicted times, which are measured anew each time."""
    return [line.partition("  (")[0] for line in listing.splitlines()[:-1]]


def test_the_arena_has_a_word_of_its_own(bench):
    asked = ("--sde", "vp", "--target", "mixture2d", "--steps", "10", "--dry-run")
    (code, word, _), (same, suite, _) = bench("arena", *asked), bench("--suite", "arena", *asked)
    assert code == same == 0
    assert _cells(word) == _cells(suite)
    assert len(_cells(word)) > 10
    assert "Did you mean 'arena'?" in bench("arna")[2]


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_a_usage_error_is_one_line_before_any_work(bench, tmp_path, arguments, message):
    code, out, err = bench(*SMALL, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(bench, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = bench(*ONE, "--out", "file/inside")
    assert (code, err.count("\n")) == (3, 1)
    assert "file/inside" in err
    assert "--out" in err


def test_a_picture_or_report_that_cannot_be_written_is_a_warning(bench, tmp_path, monkeypatch):
    from PIL import Image

    def full(self, path, *rest, **more):
        Path(path).write_bytes(b"\x89PNG")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    (tmp_path / "here" / "report.html").mkdir(parents=True)
    code, out, err = bench(*ONE, "--out", "here")
    (row,) = rows_in(tmp_path / "here")
    assert (code, row["status"], row["picture"]) == (0, "done", None)
    assert row["metrics"]["nll_gap"]["stderr"] > 0
    assert "no picture of the samples: cannot write" in row["warnings"]["picture"]
    assert "No space left on device" in err
    assert "warning: no report: cannot write here/report.html" in err
    assert "rows:    here/results.jsonl" in out
    assert not list((tmp_path / "here" / "pictures").iterdir())
    (tmp_path / "here" / "report.html").rmdir()
    code, out, _ = bench(*ONE, "--out", "here")
    assert (code, "report:  here/report.html" in out) == (0, True)


@pytest.mark.parametrize(("cost", "told"), [(None, "1 of unknown cost"), (5e4, "13.9 h"), (3599.0, "")])
def test_what_will_take_hours_says_so_before_it_begins(bench, monkeypatch, cost, told):
    """A cell of known cost, and one of cost ``cost``."""
    found = {"vp": cost, "ve": 4e4 if cost is None else 1.0}
    monkeypatch.setattr("scoresde_bench.run.costs.Costs.seconds", lambda self, cell: found[cell.names["sde"]])
    monkeypatch.setattr("scoresde_bench.run.work.FEW", 0)
    code, _, err = bench(*SMALL, "--sde", "vp", "ve", "--steps", "5", "--out", "here")
    announced = [line for line in err.splitlines() if "(--dry-run lists them)" in line]
    assert (code, len(announced), all(told in line for line in announced)) == (0, bool(told), True)
    assert "of work" not in bench(*SMALL, "--sde", "vp", "ve", "--steps", "5", "--out", "here")[2]  # nothing is left


@pytest.mark.parametrize(
    "more",
    [["--steps", *map(str, range(3, 60))], ["--steps", *map(str, range(3, 1500)), "--dry-run"]],
    ids=["run", "dry"],
)
def test_output_that_nobody_reads_ends_the_command_quietly(tmp_path, more):
    """As with ``head -1``; the rows of the cells so far are safe. (A dry run says more than a pipe holds.)"""
    words = [sys.executable, "-m", "scoresde_bench", *SMALL, "--sde", "vp", *more, "--out", "here"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (141, "")
    if "--dry-run" not in more:
        assert 1 <= len(rows_in(tmp_path / "here")) < 57


def test_a_list_expands_to_a_sweep(bench):
    _, out, _ = bench(*ONE, "--predictor", "ddim[eta=[0,0.5,1]]", "--corrector", "langevin[snr=[0.1,0.2]]", "--dry-run")
    assert "6 cells" in out
    _, out, _ = bench(*SMALL, "--sde", "ve[prior_mean=[0.1,0.2]]", "--steps", "5", "--dry-run")
    assert "1 cell, about" in out
    assert "skipped" not in out


def test_axes_that_a_sampler_does_not_use_are_not_swept(bench):
    _, out, _ = bench(*SMALL, "--sde", "vp", "--sampler", "pc", "ode", "--steps", "5,10", "--seed", "0,1", "--dry-run")
    assert "6 cells" in out  # pc: 2 step counts x 2 seeds; ode: 2 seeds


def test_adding_a_cell_changes_no_other(bench, tmp_path):
    bench(*SMALL, "--sde", "vp", "--steps", "5", "--out", "few")
    bench(*SMALL, "--sde", "vp", "ve", "--steps", "4,5", "--predictor", "ddim", "reverse_diffusion", "--out", "many")
    (few,) = rows_in(tmp_path / "few")
    twin = next(row for row in rows_in(tmp_path / "many") if row["cell"] == few["cell"])
    assert twin["metrics"] == few["metrics"]


def test_the_batch_size_changes_no_sample(bench, tmp_path):
    for size in ("64", "10"):
        bench(*ONE, "--corrector", "langevin[norm=level]", "--batch-size", size, "--out", size)
    first, second = (rows_in(tmp_path / size)[0] for size in ("64", "10"))
    for name, metric in first["metrics"].items():
        assert second["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-4, abs=1e-5)


def test_a_mistyped_number_is_answered_without_torch():
    code = (
        "import sys; from scoresde_bench.cli import main; main(['--steps', 'x']); sys.exit(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "got 'x'" in done.stderr


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "scoresde_bench", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("scoresde-bench ")


def far_rows(tmp_path: Path) -> list[str]:
    """A predictor whose samples are finite but huge, and a metric that is always nan."""
    (tmp_path / "far_steps.py").write_text(
        "import math\n"
        "import attrs\n"
        "from scoresde import Comparison, Estimate, Predictor\n"
        "@attrs.frozen\n"
        "class Far(Predictor):\n"
        "    stretch: float = 1e21\n"
        "    def step(self, x, step, model, noise):\n"
        "        mean = model.denoised(x, step.now) * (self.stretch if step.next.t == 0 else 1)\n"
        "        return mean, mean\n"
        "@attrs.frozen\n"
        "class Nothing(Comparison):\n"
        "    name = 'nothing'\n"
        "    def measure(self, samples, reference):\n"
        "        return Estimate(math.nan, math.nan)\n"
    )
    rows = tmp_path / "far.yaml"
    rows.write_text(
        "api: 1\npredictors: {far: {target: 'far_steps:Far'}}\nevaluators: {nothing: {target: 'far_steps:Nothing'}}\n"
    )
    return [
        "--registry",
        str(rows),
        "--target",
        "mixture2d",
        "--sde",
        "vp",
        "--steps",
        "2",
        "--samples",
        "16",
        "--out",
        "x",
    ]


def test_finite_samples_far_from_the_target_have_diverged(bench, tmp_path):
    code, _, _ = bench(*far_rows(tmp_path), "--predictor", "far", "--evaluator", "moments")
    (row,) = (json.loads(line) for line in Path("x/results.jsonl").read_text().splitlines())
    assert (code, row["status"]) == (1, "failed")
    assert row["reason"].startswith(
        "the sampler diverged: the root mean square of its samples is 1.42e+19, that of the largest"
    )
    assert "metrics" not in row


def test_a_cell_of_which_no_metric_is_a_number_is_not_done(bench, tmp_path):
    arguments = [*far_rows(tmp_path), "--predictor", "far[stretch=1]"]
    code, _, _ = bench(*arguments, "--evaluator", "nothing")
    (row,) = (json.loads(line) for line in Path("x/results.jsonl").read_text().splitlines())
    assert (code, row["status"]) == (1, "failed")
    assert row["reason"] == "no metric of finite samples has a finite value: nothing"
    code, _, _ = bench(*arguments, "--evaluator", "nothing", "moments")
    assert code == 0
