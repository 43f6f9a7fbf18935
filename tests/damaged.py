"""Folders of diffusers, damaged at random, and what is wrong with how the import took one."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path

from scoresde_core.registry import load_registry
from scoresde_plugins.formats.diffusers_folder import write_folder
from scoresde_run.commands.shell import main
from scoresde_run.models.config import Config
from scoresde_run.models.model import plan_model

REGISTRY = load_registry()
VALUES = [None, True, -1, 0, 3, 2**40, 1e400, -0.5, "", "linear", "../x", "\x00", [], [1], [0, 0], {}, {"a": []}, [[1]]]
FILES = ("unet/config.json", "scheduler/scheduler_config.json", "unet/diffusion_pytorch_model.safetensors")


def made(folder: Path) -> Path:
    """A small model, as a folder of diffusers."""
    network = {"name": "ddpm", "nf": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8]}
    model = {"network": network, "sde": "table", "shape": [3, 16, 16]}
    folder.mkdir()
    write_folder(folder, plan_model(Config.from_plain({"model": model}, "here"), REGISTRY).build())
    return folder


def damage(folder: Path, seed: int) -> str:
    """Damage one file, and say how."""
    draw = random.Random(seed)
    name = draw.choice(FILES)
    path = folder / name
    data = bytearray(path.read_bytes())
    if name.endswith("json") and draw.random() < 0.7:
        content = json.loads(data)
        key = draw.choice([key for key in content if key != "trained_betas"] or list(content))
        value = draw.choice(VALUES)
        if draw.random() < 0.2:
            del content[key]
        else:
            content[key] = value
        path.write_text(json.dumps(content))
        return f"{name}: {key}={value!r}"
    head = min(len(data), draw.choice([8, 64, 4096, len(data)]))
    for _ in range(draw.choice([1, 1, 2, 8])):
        data[draw.randrange(head)] = draw.randrange(256)
    cut = draw.randrange(len(data)) if draw.random() < 0.3 else len(data)
    path.write_bytes(data[:cut])
    return f"{name}: bytes below {head}, {cut} of {len(data)}"


def wrong(whole: Path, scratch: Path, seed: int) -> str:
    """Import a damaged copy of ``whole`` in ``scratch``; what is wrong with the answer, or nothing."""
    shutil.copytree(whole, scratch / "a")
    how, out, err = damage(scratch / "a", seed), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["import-checkpoint", str(scratch / "a"), "--out", str(scratch / "ck")])
    lines, there = err.getvalue().count("\n"), (scratch / "ck").exists()
    for name in ("a", "ck"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    fine = (code == 0 and there and not lines) or (code in (2, 3) and not there and lines == 1)
    return "" if fine else f"seed {seed}, {how}: exit {code}, {lines} lines, {err.getvalue()[:300]}"
