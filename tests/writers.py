"""The commands that write, each with the smallest input that makes it write everything it can."""

import json
import re
from pathlib import Path

import numpy as np
import yaml
from safetensors import safe_open

SMALL = ["model.network=mlp[width=8,depth=1,parameterisation=denoised]", "model.shape=[1,8,8]"]
DATA = "data.dataset=npz[path=tiny.npz,test_share=0.5]"
TRAINED = ["training.batch_size=4", "training.iterations=4", "training.log_every=2", "training.evaluate_every=2",
           "training.resume_every=2", "training.snapshot_every=2", "training.keep=1", "training.warmup=0",
           "sampling.sampler.steps=1", "sampling.n=2"]  # fmt: skip
FLOW = [f"model.network.{key}={value}" for key, value in
        {"filters": 2, "couplings": 1, "blocks": 1, "components": 2, "heads": 1, "context": 2}.items()]  # fmt: skip
TINY = ["model.network.nf=8", "model.network.ch_mult=[1]", "model.shape=[1,8,8]", "model.network.num_res_blocks=1",
        "model.network.attn_resolutions=[]"]  # fmt: skip
CELLS = ["--target", "mixture2d", "--sde", "vp", "ve", "--predictor", "ddim", "--samples", "16", "--steps", "2"]
CPU = ["--device", "cpu"]

COMMANDS = {
    "scoresde-bench": ["scoresde-bench", *CELLS, *CPU, "--out", "out"],
    "train": ["scoresde", "train", "mnist_vp", DATA, *SMALL, *TRAINED, *CPU, "--out", "out"],
    "evaluate": [
        "scoresde", "evaluate", "model", "--loss", "--likelihood", "--evaluator", "sliced_wasserstein",
        "--target", "gaussian[shape=[1,8,8]]", "--samples", "4", "--events", "4", "--batch-size", "4",
        "--repeats", "1", "--tolerance", "1e-1", "--sampler", "pc[predictor=ddim,steps=1]", *CPU, "--out", "out",
    ],
    "likelihood": [
        "scoresde", "likelihood", "--target", "gaussian[shape=[1,8,8]]", "--dataset", "tiny.npz", "--images", "4",
        "--batch-size", "2", "--rtol", "1e-2", "--latents", *CPU, "--out", "out",
    ],
    "train-dequantizer": [
        "scoresde", "train-dequantizer", "--target", "gaussian[shape=[1,8,8]]", "--dataset", "npz[path=tiny.npz]",
        *FLOW, *TRAINED, *CPU, "--out", "out",
    ],
    "export": ["scoresde", "export", "--checkpoint", "model", "--out", "out"],
    "sample": ["scoresde", "sample", "--checkpoint", "model", "--n", "2", "--steps", "1", *CPU, "--out", "out"],
    "encode": [
        "scoresde", "encode", "--target", "gaussian[shape=[1,8,8]]", "--dataset", "tiny.npz", "--images", "2",
        "--interpolate", "2", "--temperature", "0.5", *CPU, "--out", "out",
    ],
    "stats": [
        "scoresde", "stats", "npz[path=tiny.npz]", "--features", "identity", "--raw", *CPU,
        "--out", "out.safetensors",
    ],
    "fit-target": [
        "scoresde", "fit-target", "npz[path=tiny.npz,test_share=0.5]", "--components", "2", "--factors", "1",
        "--iterations", "2", "--out", "out.safetensors",
    ],
    "report": ["scoresde-bench", "report", "rows", "--out", "out.html"],
    "import-checkpoint": [
        "scoresde", "import-checkpoint", "file.pth", "--preset", "ve_cifar10_ncsnpp_continuous", "--set", *TINY,
        "--out", "out",
    ],
    "new": ["scoresde", "new", "predictor", "my_step", "--folder", "out"],
}  # fmt: skip
"""Command lines by name; every output is called ``out``."""

PASSING = {"seconds", "samples_per_second", "cell_seconds", "evaluation_seconds", "peak_memory_bytes", "date",
           "command", "git", "picture", "warnings", "events_per_second", "costs", "digest", "log", "seal"}  # fmt: skip
"""Entries of rows and records that may differ between two runs."""


def prepare(folder: Path) -> None:
    """Make what the commands read, with nothing that imports slowly in this process."""
    import torch
    from scoresde_core.registry import load_registry
    from scoresde_run.models import checkpoint
    from scoresde_run.models.model import plan_model

    images = np.random.default_rng(0).integers(100, 156, (12, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "tiny.npz", images=images)
    registry = load_registry()
    changes = [*SMALL, f"data.dataset=npz[path={folder}/tiny.npz,test_share=0.5]"]
    plan = plan_model(registry.create("presets", "mnist_vp").override(changes), registry)
    weights = plan.build(0).network.state_dict()
    checkpoint.save(folder / "model", plan.config, weights, None)
    theirs = plan_model(registry.create("presets", "ve_cifar10_ncsnpp_continuous").override(TINY), registry)
    network = theirs.build(1).network
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    averages = [p.detach() for p in network.parameters() if p.requires_grad]
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": averages}
    torch.save({"optimizer": {}, "model": state, "ema": ema, "step": 3}, folder / "file.pth")


def content(folder: Path) -> dict:
    """What a command left in ``folder``, without what may differ between two runs."""
    return {
        str(path.relative_to(folder)): _plain(path) for path in sorted(folder.glob("out*/**/*")) if path.is_file()
    } | {path.name: _plain(path) for path in sorted(folder.glob("out*")) if path.is_file()}


def _plain(path):
    if path.suffix == ".jsonl":
        rows = [_steady(json.loads(line)) for line in path.read_text().splitlines()]
        return {row["cell"]: row for row in rows} if path.stem == "results" else rows  # the last row of a cell counts
    if path.suffix == ".json":
        return _steady(json.loads(path.read_text()))
    if path.suffix == ".yaml":
        return _steady(yaml.safe_load(path.read_text()))
    if path.suffix == ".html":
        text = path.read_text()  # of which timings move numbers and ticks
        return "</html>\n" in text, set(re.findall(r"\b[0-9a-f]{16}\b", text))
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            about = {name: _loaded(text) for name, text in (file.metadata() or {}).items()}
            return _steady(about), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    return path.read_bytes()


def _loaded(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def _steady(value):
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in PASSING}
    return value


def unpictured(folder: Path, told: str = "") -> list[str]:
    """The pictures that rows, or the warnings of a training, say could not be written, which is no failure."""
    path = folder / "out" / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = [f"out/pictures/{row['cell']}.png" for row in rows if "picture" in (row.get("warnings") or {})]
    return found + re.findall(r"warning: no picture (out/samples/\w+\.png): ", told)


def left(folder: Path) -> list[str]:
    """Temporary files in ``folder``: hidden ones but locks and workflows."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name not in (".lock", ".github")]
