"""Hostile input by grammar, as Hypothesis strategies, and what is wrong with how a command took it.

A case is the words of a command, the files that it finds in its folder, and the name of its grammar. Most inputs are
valid ones with a few edits, which get further than noise does.
"""

import io
import json
import os
import re
import signal
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import attrs
import flax_files
import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save
from scoresde_bench import cli
from scoresde_run.commands import shell

ODD = [
    "",
    " ",
    "\0",
    "\x1b[2J",
    "\r",
    "\u202e",
    "\ufeff",
    "é",
    "'",
    '"',
    "''",
    "[",
    "]",
    "(",
    ")",
    "[[",
    "]]",
    ",",
    "=",
    "==",
    ":",
    "/",
    "..",
    "~",
    "null",
    "true",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1",
    "0",
    "1.5",
    "9" * 25,
    "9" * 500,
    "9" * 5000,
    "0x" + "f" * 300,
    "a" * 1000,
    "[" * 60,
    "]" * 60,
    "{",
    "}",
    "&a",
    "*a",
    "!!python/object:os.system ls",
    "<<: *a",
    "\n",
    "- ",
    "? ",
    "2001-99-99",
    "2e-4",
    "\\u0000",
    "None",
    "1_000",
    "١",
    "²",
    "%s",
    "{0}",
    "$HOME",
    "`id`",
    "<b>",
    "=1+1",
    "@",
    "|",
    ">",
    "#",
    "\x85",
    "\u2028",
    "\udcff",
]
edits = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "replace", "repeat", "cut"]), st.floats(0, 1), st.sampled_from(ODD)),
    min_size=1,
    max_size=4,
)


@attrs.frozen
class Case:
    """A command in a folder of files."""

    grammar: str
    words: list[str]
    files: dict[str, bytes] = attrs.field(factory=dict)


def edited(text, changes):
    """``text`` after some edits, at places given as shares of its length."""
    for kind, share, odd in changes:
        at = int(share * len(text))
        span = text[at : at + 8]
        if isinstance(text, bytes):
            odd = odd.encode("utf-8", "surrogateescape")
        new = {"insert": odd + span, "delete": text[:0], "replace": odd, "repeat": span * 50, "cut": span}[kind]
        text = text[:at] + new + (text[:0] if kind == "cut" else text[at + len(span) :])
    return text


def changed(valid):
    """Edited members of ``valid``."""
    return st.builds(edited, st.sampled_from(valid), edits)


def typed(text):
    """As a word of a command line, which has no NUL and no lone surrogate."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


SAMPLE = ["sample", "--n", "2", "--steps", "2", "--device", "cpu", "--out", "o"]
BENCH = [
    "bench",
    "--target",
    "mixture2d",
    "--sde",
    "vp",
    "--steps",
    "2",
    "--samples",
    "8",
    "--device",
    "cpu",
    "--dry-run",
]
KINDS = {
    "--corrector": ["langevin[snr=0.16,n_steps=1]", "ald[snr=0.1]", "none"],
    "--predictor": ["ddim[eta=[0,0.5]]", "reverse_diffusion", "dpmpp_2m", "heun"],
    "--sampler": ["pc[predictor=ddim[eta=0.5],corrector=langevin]", "ode[rtol=1e-3]", "adaptive_sde"],
    "--grid": ["uniform", "karras[rho=7]"],
    "--evaluator": ["energy_distance", "sliced_wasserstein[directions=8]"],
    "--executor": ["processes[jobs=2]", "slurm[gpus=1,partition=short]"],
}
components = st.one_of(
    *(
        st.builds(lambda text, option=option: Case("components", [*BENCH, f"{option}={typed(text)}"]), changed(valid))
        for option, valid in KINDS.items()
    ),
    st.builds(
        lambda text: Case("components", [*SAMPLE, f"--target={typed(text)}"]),
        changed(["mixture2d", "mixture2d[kind=moons]", "gaussian[shape=[2]]", "mfa[file=a.safetensors]"]),
    ),
)
overrides = st.builds(
    lambda text: Case("overrides", [*SAMPLE, "--preset", "moons_vp", "--set", " " + typed(text)]),
    changed(
        [
            "model.network.width=8",
            "training.batch_size=64",
            "sampling.sampler=ode",
            "model.sde=vp[beta_max=10]",
            "sampling.t_min=1e-3",
            "model.shape=[2]",
            "data.dataset=npz[path=a]",
            "training.betas=[0.9,0.99]",
            "evaluation.split=test",
        ]
    ),
)
options = st.builds(
    lambda option, text: Case("options", [*SAMPLE, "--target", "mixture2d", f"--{option}={typed(text)}"]),
    st.sampled_from(
        [
            "n",
            "steps",
            "seed",
            "batch-size",
            "rounds",
            "device",
            "dtype",
            "precision",
            "sde",
            "out",
            "condition",
            "observe",
            "registry",
        ]
    ),
    st.sampled_from(ODD),
)

SUITE = """format: 1
about: a test
blocks:
  - {sde: [vp], target: mixture2d, predictor: 'ddim[eta=[0,1]]', steps: [2, 3], samples: 8}
  - {sde: vp, for_sdes: [vp], corrector: {name: langevin, snr: [0.01, 0.02]}, seed: 0, batch_size: 4, timing: false}
published: [{metric: fid, value: 3.24, stderr: 0.02, where: {sde: vp, steps: 1000}}]
"""
REGISTRY = """api: 1
kinds: {optimisers: {singular: optimiser, contract: "a.b:C", summary: steps}}
sdes:
  mine: {target: "scoresde_plugins.song2021.sdes:VPSDE", summary: a copy, paper: a, aliases: [my_vp], requires: [torch]}
"""
CONFIG = """format: 1
model: {network: {name: mlp, width: 8}, sde: vp, shape: [2], levels: null}
sampling: {sampler: ode, n: 2}
quirks: [a]
"""


@st.composite
def plain(draw, valid):
    """Data like ``valid`` with some values replaced."""
    value = (
        draw(st.sampled_from([None, True, -1, 10**30, 1e400, "", "a", [], {}, [[]], "\x1b"]))
        if draw(st.integers(0, 9)) == 0
        else valid
    )
    if isinstance(value, dict):
        return {key: draw(plain(item)) for key, item in value.items() if draw(st.integers(0, 19))}
    return [draw(plain(item)) for item in value] if isinstance(value, list) else value


def documents(text):
    """A YAML file: ``text`` with edits, or with values replaced."""
    whole = plain(yaml.safe_load(text)).map(lambda data: yaml.safe_dump(data).encode())
    return st.one_of(changed([text]).map(lambda found: found.encode("utf-8", "surrogateescape")), whole)


suites = st.builds(
    lambda data: Case("suites", ["bench", "--suite", "a.yaml", "--dry-run"], {"a.yaml": data}), documents(SUITE)
)
registries = st.builds(
    lambda data, words: Case("registry", [*words, "--registry", "a.yaml"], {"a.yaml": data}),
    documents(REGISTRY),
    st.sampled_from([["list", "sdes"], ["show", "sdes", "mine"], ["plugins"]]),
)
configurations = st.builds(
    lambda data: Case("configurations", [*SAMPLE, "--preset", "a.yaml"], {"a.yaml": data}), documents(CONFIG)
)

ROW = {
    "schema": 2,
    "cell": "0a",
    "status": "done",
    "reason": "",
    "sde": "vp",
    "predictor": "ddim",
    "target": "mixture2d",
    "steps": 2,
    "seed": 0,
    "sampler": "pc",
    "nfe": 2.0,
    "samples": 8,
    "seconds": 0.1,
    "samples_per_second": 80.0,
    "dtype": "float32",
    "device": "cpu",
    "warnings": {},
    "combination": {"sde": "vp", "steps": 2},
    "plugins": {"scoresde": "1"},
    "sources": {"a": "b"},
    "files": {},
    "parameters": {"a": 1},
    "metrics": {
        "m": {
            "value": 1.0,
            "stderr": 0.1,
            "unit": "",
            "better": "lower",
            "floor": 0.0,
            "floor_stderr": 0.1,
            "details": {},
        }
    },
}
lines = st.one_of(
    plain(ROW).map(lambda row: json.dumps(row).encode()),
    changed([json.dumps(ROW)]).map(lambda text: text.encode("utf-8", "surrogateescape")),
    st.just(b"[" * 5000),
)
rows = st.builds(
    lambda found, words: Case("rows", ["bench", *words], {"r/results.jsonl": b"\n".join(found) + b"\n"}),
    st.lists(lines, min_size=1, max_size=3),
    st.sampled_from(
        [
            ["report", "r", "--format", "csv"],
            ["report", "r", "--format", "markdown"],
            ["report", "r"],
            ["compare", "r", "r"],
        ]
    ),
)


def npz(**arrays):
    """The bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@st.composite
def lying(draw):
    """An .npz file whose header may say anything."""
    numbers = st.sampled_from([-1, 0, 1, 2, 4, 2**20, 2**43, 2**63, 10**30])
    header = {
        "descr": draw(
            st.sampled_from(["<f8", "<f4", "|u1", "<f16", "|O", "<U3", "<c16", "|V8", ">f8", "<i8", "xx", "|b1"])
        ),
        "fortran_order": draw(st.booleans()),
        "shape": tuple(draw(st.lists(numbers, max_size=4))),
    }
    text = str(header).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        name = draw(st.sampled_from(["images", "mu", "latents"]))
        data = b"\x93NUMPY" + bytes([draw(st.sampled_from([1, 2, 3, 9])), 0]) + struct.pack("<H", len(text)) + text
        archive.writestr(f"{name}.npy", data + b"\1" * draw(st.sampled_from([0, 8, 64, 4096])))
    return file.getvalue()


ARRAYS = [
    npz(images=np.zeros((4, 2))),
    npz(images=np.zeros((4, 8, 8), np.uint8)),
    npz(mu=np.zeros(2), sigma=np.eye(2)),
    npz(latents=np.zeros((2, 2), np.float32)),
    npz(images=np.zeros((4, 2), np.longdouble)),
    npz(images=np.full((4, 2), np.nan)),
]
arrays = st.builds(
    lambda data, words: Case("npz", words, {"a.npz": data}),
    st.one_of(changed(ARRAYS), lying(), st.sampled_from(ARRAYS)),
    st.sampled_from(
        [
            [*SAMPLE, "--target", "mixture2d", "--condition", "inpaint[mask=left]", "--observe", "./a.npz"],
            ["stats", "npz[path=a.npz]", "--features", "identity", "--out", "x.safetensors"],
            ["encode", "--target", "mixture2d", "--decode", "./a.npz", "--out", "o", "--device", "cpu"],
            ["stats", "--show", "a.npz"],
            [
                "fit-target",
                "npz[path=a.npz]",
                "--components",
                "1",
                "--factors",
                "1",
                "--iterations",
                "1",
                "--out",
                "x.safetensors",
            ],
        ]
    ),
)


def stored():
    """Safetensors files of every format that is read."""
    report = json.dumps({"dataset": "a", "split": "train", "events": 4})
    mixture = {
        "weights": torch.ones(1).double(),
        "means": torch.zeros(1, 2),
        "factors": torch.zeros(1, 1, 2).half(),
        "noise": torch.ones(2),
    }
    made = {"version": "1", "report": report}
    return [
        save(mixture, {**made, "format": "scoresde.mfa", "shape": "[2]", "entropy": "1.0", "entropy_stderr": "0.1"}),
        save(
            {"mean": torch.zeros(2).double(), "m2": torch.eye(2).double()},
            {**made, "format": "scoresde.statistics", "count": "4"},
        ),
        save({"head.bias": torch.zeros(3)}, {**made, "format": "scoresde.classifier", "shape": "[1,8,8]"}),
    ]


@st.composite
def headers(draw):
    """A safetensors file whose header may say anything."""
    valid = draw(st.sampled_from(stored()))
    size = struct.unpack("<Q", valid[:8])[0]
    header = edited(valid[8 : 8 + size], draw(edits))
    told = draw(st.sampled_from([len(header), len(header), 0, 2**20, 2**46, 2**64 - 1]))
    return struct.pack("<Q", told) + header + valid[8 + size :]


tensors = st.builds(
    lambda data, words: Case("safetensors", words, {"a.safetensors": data}),
    st.one_of(changed(stored()), headers()),
    st.sampled_from(
        [
            [*SAMPLE, "--target", "mfa[file=a.safetensors]"],
            ["stats", "--show", "a.safetensors"],
            [
                "stats",
                "exact[target=mixture2d,count=8]",
                "--features",
                "classifier[file=a.safetensors]",
                "--out",
                "x.safetensors",
            ],
        ]
    ),
)


def pickled():
    """A published checkpoint, zipped and not."""
    state = {"model": {"a": torch.zeros(2)}, "ema": {"shadow_params": [torch.zeros(2)]}, "step": 3, "optimizer": {}}
    files = [io.BytesIO(), io.BytesIO()]
    for file, zipped in zip(files, (True, False), strict=True):
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return [file.getvalue() for file in files]


pickles = st.builds(
    lambda data: Case("pickles", ["import-checkpoint", "a.pth", "--preset", "moons_vp", "--out", "o"], {"a.pth": data}),
    changed(pickled()),
)


def trained():
    """A train state of the JAX code."""
    weights = {"Conv_0/kernel": torch.zeros(3, 3, 2, 4), "GroupNorm_0/scale": torch.ones(1, 1, 1, 4)}
    return [flax_files.encoded(flax_files.state(weights, weights))]


flax_states = st.builds(
    lambda data: Case(
        "flax",
        ["import-checkpoint", "checkpoint_1", "--preset", "vp_cifar10_ddpmpp", "--out", "o"],
        {"checkpoint_1": data},
    ),
    changed(trained()),
)
GRAMMARS = {
    "components": components,
    "overrides": overrides,
    "options": options,
    "suites": suites,
    "registry": registries,
    "configurations": configurations,
    "rows": rows,
    "npz": arrays,
    "safetensors": tensors,
    "pickles": pickles,
    "flax": flax_states,
}


def fault(code, out, err):
    """What is wrong with the end of a command, or None."""
    if code not in (0, 1, 2, 3):
        return f"exit code {code}"
    if "Traceback" in out + err:
        return "traceback"
    if "--debug shows the traceback" in err:
        return "unexpected error"
    if "use a smaller batch" in err:
        return "memory"
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    if (len(told) != 1 or err.count("\n") > 20) if code else told:
        return f"{len(told)} errors, exit code {code}"
    return (
        "control characters"
        if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", out.replace("\r\n", "\n") + err)
        else None
    )


IDLE = 0.002


def attempt(case, seconds):
    """Run a case in a fork; return its exit code (None: it hung), output, errors, seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in case.files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        started, child = time.monotonic(), os.fork()
        if child == 0:
            run(case.words, folder)
        while (found := os.wait4(child, os.WNOHANG))[0] == 0 and time.monotonic() - started < seconds:
            time.sleep(IDLE)
        took = time.monotonic() - started
        if found[0] == 0:
            os.kill(child, signal.SIGKILL)
            found = os.wait4(child, 0)
        code = None if took >= seconds else os.waitstatus_to_exitcode(found[1])
        texts = [Path(folder, name).read_text(encoding="utf-8", errors="replace") for name in (".out", ".err")]
        return code, *texts, took, found[2].ru_maxrss / 1024


def run(words, folder):
    """Run a command in the child, and end it."""
    code = 70
    try:
        os.chdir(folder)
        for name, number in ((".out", 1), (".err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        code = cli.main(words[1:]) if words[0] == "bench" else shell.main(words)
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        code = 71
    finally:
        os._exit(code)
