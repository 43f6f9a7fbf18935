"""The last parts of benchmarks/studies/gpu.sh: how often the host waits for a GPU, and the page of all parts.

python docs/pictures/gpu_page.py waits --device cuda
python docs/pictures/gpu_page.py page --out gpu --device cuda
"""

import argparse
import json
import re
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader
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


def page(data, device, pictures):
    about = f"{describe_device(device)}, torch {torch.__version__}, scoresde {own_version()}, {data['date']}"
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True)
    text = templates.get_template("gpu.md.j2").render(data=data, about=about, columns=COLUMNS, pictures=pictures)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip().splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("waits", "page"))
    parser.add_argument("--device", type=torch.device, default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = options.device
    if options.what == "waits":
        return waits(device)
    data = read(options.out) | {"date": f"{datetime.now(UTC):%Y-%m-%d}", "device": describe_device(device)}
    newest = sorted(options.out.glob("cifar10/samples/*.png"))[-1:]
    pictures = [shutil.copy(path, options.out / "samples.png").name for path in newest]
    (options.out / "gpu.json").write_text(json.dumps(data, indent=1))
    (options.out / "gpu.md").write_text("\n".join(page(data, device, pictures)) + "\n")
    print(f"wrote {options.out}/gpu.md and {options.out}/gpu.json")


if __name__ == "__main__":
    main()
