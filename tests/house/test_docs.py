"""The Python blocks of the pages in docs/ run, in their order, with what the text around them speaks of."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import scoresde_plugins
from scoresde_core import ExactScore, create, default_registry
from scoresde_run.models import checkpoint
from scoresde_run.models.model import plan_model

DOCS = Path(__file__).parents[2] / "docs"
DOORS = {"start.md", "your_sde.md", "your_model.md", "your_data.md"}  # tests/docs/test_doors.py follows them
BLOCK = re.compile(r"(^<!-- not run: .+ -->\n)?^```python\n(.*?)^```", re.M | re.S)
PAGES = {
    path.name: blocks
    for path in sorted(DOCS.glob("*.md"))
    if path.name not in DOORS
    if (blocks := [text for skipped, text in BLOCK.findall(path.read_text(encoding="utf-8")) if not skipped])
}


def of_a_gaussian(*shape):
    """A target, its exact score, and some events."""
    target = create("targets", f"gaussian[shape=[{','.join(map(str, shape))}],std=0.5]")
    sde = create("sdes", "vp")
    return {"target": target, "model": ExactScore(target, sde), "sde": sde, "torch": torch}


def for_checkpoints(folder):
    shipped = Path(scoresde_plugins.__file__).parent / "checkpoints" / "mnist_vp"
    shutil.copytree(shipped, folder / "ncsnpp")
    return {}


def for_classifiers(folder):
    np.savez(folder / "digits.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 10)
    changes = ["model.network.multiplier=1", "model.shape=[1,8,8]", "data.dataset=npz[path=digits.npz,labels=labels]"]
    registry = default_registry()
    config = registry.create("presets", "mnist_classifier").override(changes)
    network = plan_model(config, registry, outputs=("logits",)).build().network
    (folder / "runs").mkdir()
    checkpoint.save(folder / "runs" / "classifier", config, network.state_dict())
    return {**of_a_gaussian(1, 8, 8), "images": torch.zeros(4, 1, 8, 8)}


def for_conditions(folder):
    given = of_a_gaussian(1, 8, 8)
    return {**given, "images": given["target"].sample(4)}


def for_likelihood(folder):
    given = of_a_gaussian(1, 4, 4)
    return {**given, "x": given["target"].sample(3), "images": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}


GIVEN = {
    "checkpoints.md": for_checkpoints,
    "classifiers.md": for_classifiers,
    "conditions.md": for_conditions,
    "likelihood.md": for_likelihood,
}
SHORTER = (("n=16", "n=1"), ("steps=500", "steps=20"), ("steps=100", "steps=10"), ("times=1000", "times=100"))


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    """Fewer steps and samples than the page has, where it has many."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "docs", **GIVEN.get(page, lambda folder: {})(tmp_path)}
    for block in PAGES[page]:
        for long, short in SHORTER:
            block = block.replace(long, short)
        exec(compile(block, page, "exec"), namespace)
