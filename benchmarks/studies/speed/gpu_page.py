"""The last parts of benchmarks/studies/gpu.sh: how often the host waits for a GPU, and the page of all parts.

python benchmarks/studies/speed/gpu_page.py waits --device cuda
python benchmarks/studies/speed/gpu_page.py page --out gpu --device cuda
"""

import argparse
import json
import re
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path

import torch

from scoresde import ExactScore, create, default_registry, sample
from scoresde_run.machine.environment import describe_device
from scoresde_run.machine.version import own_version

COLUMNS = ("name", "fastest ms", "median ms", "images/s", "speed", "memory MiB", "of peak")


def waits(device):
    """Print a line of JSON for every predictor: synchronisations of the host in a run of 20 steps."""
    if device.type != "cuda":
        print(json.dumps({"predictor": "all", "waits": None, "reason": "the CPU is the host"}))
        return
    model = ExactScore(create("targets", "mixture2d").to(device), create("sdes", "vp"))
    for entry in default_registry().entries("predictors"):
        sampler = create("samplers", f"pc[predictor={entry.row.name},steps=20]")
        sample(model, sampler, 64, device=device)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            sample(model, sampler, 64, device=device)
        torch.cuda.set_sync_debug_mode("default")
        print(json.dumps({"predictor": entry.row.name, "waits": len(found)}))


def tables(text):
    """The tables that side_by_side.show printed, by title: rows of the name and the columns."""
    found, rows = {}, None
    for line in text.splitlines():
        name, cells = line[:42].strip(), line[42:].split()
        if "fastest ms" in line:
            rows = found[name] = []
        elif rows is not None and line.strip():
            rows.append([name, *cells])
    return found


def read(out):
    """Everything that the parts left, as plain data."""
    logs = out / "logs"
    states = [line.split() for line in (logs / "parts").read_text().splitlines()]
    text = {path.stem: path.read_text(errors="replace") for path in logs.glob("*.txt")}
    data = {"parts": {name: {"exit code": int(code), "seconds": int(taken)} for name, code, taken in states}}
    for name in ("forward", "training_float32", "training"):
        data[name] = {"about": text[name].split("\n\n")[0].splitlines(), "tables": tables(text[name])}
    for name in ("predictors", "waits"):
        data[name] = [json.loads(line) for line in text[name].splitlines() if line.startswith("{")]
    metrics = out / "cifar10" / "metrics.jsonl"
    data["cifar10"] = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    return data


def table(heads, rows):
    """A Markdown table; rows may be shorter than the heads."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return lines + [f"| {' | '.join(str(cell) for cell in row[: len(heads)])} |" for row in rows]


def page(data, device, pictures):
    """The lines of the page."""
    about = f"{describe_device(device)}, torch {torch.__version__}, scoresde {own_version()}, {data['date']}"
    lines = ["# On a GPU", "", f"What `bash benchmarks/studies/gpu.sh` measured: {about}.", ""]
    for name, title in (
        ("forward", "Forward pass"),
        ("training_float32", "Training step, float32 products"),
        ("training", "Training step, torch's defaults (TF32 in convolutions)"),
    ):
        lines += [f"## {title}", "", *data[name]["about"], ""]
        for rows in data[name]["tables"].values():
            lines += [*table(COLUMNS if name == "forward" else COLUMNS[:-1], rows), ""]
        lines += _failed(data, name)
    rows = [
        [p["predictor"], p["nfe"], f"{p['samples_per_second']:.3g}", f"{p['share_outside_network']:.0%}"]
        for p in data["predictors"]
        if "nfe" in p
    ]
    lines += ["## Predictors", "", *table(("predictor", "NFE", "samples/s", "outside the network"), rows), ""]
    lines += _failed(data, "predictors")
    counted = [[row["predictor"], row.get("reason", row["waits"])] for row in data["waits"]]
    lines += [
        "## How often the host waits",
        "",
        "In a run of 20 steps on an exact score; 1 is the clock of the run.",
        "",
    ]
    lines += [*table(("predictor", "synchronisations"), counted), "", *_failed(data, "waits")]
    losses = [row for row in data["cifar10"] if "loss" in row]
    lines += ["## CIFAR-10 in three minutes", ""]
    if losses:
        last = losses[-1]
        lines += [f"{last['step']} steps, loss {last['loss']:.4g}, {last['events_per_second']:.0f} images/s.", ""]
    lines += [*(f"![samples]({name})" for name in pictures), *_failed(data, "cifar10", limit=True)]
    return lines


def _failed(data, name, limit=False):
    """A line if a part failed; ``limit``: it may end at its limit."""
    code = data["parts"].get(name, {}).get("exit code", 1)
    fine = code in (0, 124, 143) if limit else code == 0
    return [] if fine else [f"This part ended with exit code {code}: see `logs/{name}.err`.", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("waits", "page"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.what == "waits":
        waits(device)
        return
    data = read(options.out) | {"date": f"{datetime.now(UTC):%Y-%m-%d}", "device": describe_device(device)}
    pictures = [shutil.copy(path, options.out / "samples.png").name for path in newest(options.out)]
    (options.out / "gpu.json").write_text(json.dumps(data, indent=1))
    text = "\n".join(page(data, device, pictures))
    (options.out / "gpu.md").write_text(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n")
    print(f"wrote {options.out}/gpu.md and {options.out}/gpu.json")


def newest(out):
    """The picture of the last model, in a list, or none."""
    return sorted(out.glob("cifar10/samples/*.png"))[-1:]


if __name__ == "__main__":
    main()
