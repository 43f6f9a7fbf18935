"""A module of the user's own, on every command, in the bench, and in memory."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn
import scoresde
from scoresde_bench.cli import main as bench_main
from scoresde_core import UsageError, create
from scoresde_run.commands.shell import main

SOURCE = '''
import torch
from torch import nn

class Gauss(nn.Module):
    """The exact noise of N(0, s^2) under vp: sigma x / (alpha^2 s^2 + sigma^2)."""
    def __init__(self, s):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(float(s)))
    def forward(self, x, label):
        t = (label / 999).view(-1, *[1] * (x.ndim - 1))
        signal = torch.exp(-(0.1 * t + 0.5 * 19.9 * t * t))
        return (1 - signal).sqrt() * x / (signal * self.s**2 + 1 - signal)

def build(s=1.0):
    return Gauss(s)

def number():
    return 3
'''
NETWORK = "module[target=own_gauss:build,args={s=2.0},shape=[2]]"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working folder with the module and its weights, of standard deviation 1/2."""
    (tmp_path / "own_gauss.py").write_text(SOURCE)
    torch.save({"s": torch.tensor(0.5)}, tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("SCORESDE_MODULES", "")
    yield tmp_path
    sys.modules.pop("own_gauss", None)


OWN = ["--network", NETWORK, "--weights", "w.pt", "--sde", "vp", "--parameterisation", "noise"]


def test_samples_have_the_law_of_the_weights(home):
    """Standard deviation 1/2, as the file has it, not the 2 of args."""
    assert main(["sample", *OWN, "--n", "4000", "--sampler", "pc[predictor=heun,steps=40]", "--out", "s"]) == 0
    x = np.load("s/samples.npz")["floats"]
    assert x.shape == (4000, 2)
    assert x.std() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2 * x.size))


def test_likelihood_is_that_of_the_gaussian(home):
    x = (torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) / 2).numpy()
    np.save("x.npy", x)
    assert main(["likelihood", *OWN, "--dataset", "x.npy", "--t-min", "1e-5", "--trace", "exact", "--out", "l"]) == 0
    found = np.load("l/likelihood.npz")
    exact = (0.5 * math.log(2 * math.pi * 0.25) + x**2 / (2 * 0.25)).mean(1) / math.log(2)
    assert found["bits_per_dim"].ravel() == pytest.approx(exact, abs=1e-3)


def test_evaluate_measures_it_and_repeats_nothing(home, capsys):
    words = ["evaluate", *OWN, "--evaluator", "moments", "--target", "gaussian[std=0.5]", "--samples", "500"]
    words += ["--sampler", "pc[predictor=ddim,steps=50]", "--out", "e"]
    assert main(words) == 0
    row = json.loads((home / "e/results.jsonl").read_text().splitlines()[0])
    assert row["status"] == "done"
    assert row["network"] == "module"
    assert "own_gauss.py" in " ".join(row["files"])
    assert main(words) == 0
    assert len((home / "e/results.jsonl").read_text().splitlines()) == 1
    torch.save({"s": torch.tensor(0.7)}, "w.pt")
    assert main(words) == 0
    assert "measured anew" in capsys.readouterr().err


def test_the_bench_sweeps_it_and_a_row_repeats_itself(home):
    network = f"{NETWORK[:-1]},weights=w.pt]"
    words = ["--network", network, "--sde", "vp", "subvp", "--predictor", "ddim", "--steps", "5", "--samples", "64"]
    assert bench_main([*words, "--evaluator", "moments", "--target", "gaussian[std=0.5]", "--out", "b"]) == 0
    rows = [json.loads(line) for line in (home / "b/results.jsonl").read_text().splitlines()]
    assert [(row["sde"], row["status"], row["network"]) for row in rows] == [
        ("vp", "done", network),
        ("subvp", "done", network),
    ]
    from scoresde_bench.report.repeat import command

    assert f"--network '{network}' --sde vp" in command(rows[0])


def test_workers_run_it(home):
    words = ["--network", f"{NETWORK[:-1]},weights=w.pt]", "--sde", "vp", "--predictor", "ddim", "--steps", "2", "3"]
    words += ["--samples", "8", "--evaluator", "moments", "--target", "gaussian", "--jobs", "2", "--out", "b"]
    assert bench_main(words) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "module[target=own_gauss:nix,shape=[2]]", "--sde", "vp"], "no attribute 'nix'"),
        (["--network", "module[target=own_gauss:number,shape=[2]]", "--sde", "vp"], "must return an nn.Module"),
        (["--network", "module[target=own_gauss:build]", "--sde", "vp"], r"write module[shape="),
        (["--network", NETWORK], "give --sde"),
        ([*OWN[:2], "--weights", "no.pt", "--sde", "vp"], "cannot read no.pt"),
        ([*OWN[:2], "--weights", "other.pt", "--sde", "vp"], "1 missing, 1 unexpected"),
        (["--checkpoint", "mnist_vp", "--weights", "w.pt"], "--weights must be ema or raw"),
        (["--checkpoint", "mnist_vp", "--parameterisation", "v"], "--parameterisation has no effect"),
    ],
)
def test_bad_input_is_one_line(home, capsys, words, message):
    torch.save({"other": torch.zeros(())}, "other.pt")
    assert main(["sample", *words, "--out", "q"]) in (2, 3)
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_code_that_a_configuration_names_runs_only_where_a_person_has_named_it(home):
    network = create("networks", "module[target=own_gauss:build,shape=[2]]")
    with pytest.raises(UsageError, match=r"nobody has allowed.*SCORESDE_MODULES=own_gauss:build"):
        network.build((2,))
    assert "own_gauss" not in sys.modules
    network.trust()
    assert isinstance(network.build((2,)), nn.Module)


def test_a_mapping_is_written_as_it_is_read():
    text = "module[target=a:b,args={width=3,sides=[1,2],name='x,y'}]"
    spec = scoresde.Spec("module", {"target": "a:b", "args": {"width": 3, "sides": [1, 2], "name": "x,y"}})
    assert scoresde_parse(text) == spec
    assert scoresde_parse(str(spec)) == spec


def scoresde_parse(text):
    from scoresde_core import parse

    return parse(text)


@pytest.mark.parametrize(("predictor", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_solve_converges_to_the_flow_of_a_gaussian(predictor, order):
    """Under alpha = 1 - t, sigma = t the flow multiplies x by std(t_min) / std(t_max) before the last step."""
    s, x = 0.5, torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None]

    def denoiser(x, t):
        t = t[:, None]
        return x * (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)

    def exact(x, end=1e-3):
        early = math.hypot((1 - end) * s, end)
        return denoiser(x * early, torch.full((len(x),), end, dtype=torch.float64))

    errors = []
    for steps in (40, 80):
        found = scoresde.solve(
            denoiser, lambda t: 1 - t, lambda t: t, x, steps=steps, predictor=predictor, grid="uniform"
        )
        errors.append(float((found - exact(x)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)
    assert errors[1] < 0.05


def test_solve_takes_constants_and_refuses_by_name():
    x = torch.randn(8, 3)
    found = scoresde.solve(lambda x, t: x / (1 + t[:, None] ** 2), lambda t: 1.0, lambda t: 3 * t, 3 * x, steps=4)
    assert found.shape == x.shape
    with pytest.raises(UsageError, match="ddmi"):
        scoresde.solve(lambda x, t: x, lambda t: 1.0, lambda t: t, x, predictor="ddmi")


def test_a_model_in_memory_is_swept_and_known_by_its_answers(tmp_path, capsys):
    model = scoresde.ExactScore(create("targets", "gaussian"), create("sdes", "vp"))
    how = {
        "target": "gaussian",
        "predictors": ["ddim", "heun"],
        "steps": [4, 8],
        "evaluators": ["moments"],
        "samples": 64,
    }
    rows = scoresde.bench(model, out=tmp_path / "b", **how)
    assert [(row["predictor"], row["steps"], row["status"], row["sde"]) for row in rows] == [
        (predictor, steps, "done", "vp") for predictor in ("ddim", "heun") for steps in (4, 8)
    ]
    assert (tmp_path / "b/report.html").is_file()
    capsys.readouterr()
    assert scoresde.bench(model, out=tmp_path / "b", **how) == rows
    assert "4 of 4 cells are already done" in capsys.readouterr().out
    other = scoresde.ExactScore(create("targets", "gaussian[std=2.0]"), create("sdes", "vp"))
    assert {row["cell"] for row in scoresde.bench(other, out=tmp_path / "b", **how)}.isdisjoint(r["cell"] for r in rows)


def test_importing_the_facade_imports_no_torch():
    import subprocess

    code = "import sys, scoresde; print('torch' in sys.modules, 'solve' in scoresde.__all__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "True",
    ]
