"""The pages of a newcomer, start.md, your_sde.md, your_model.md and your_data.md, as a newcomer follows them.

Every block runs, in its order and in one folder: a block that begins with the name of a file is that file. Only numbers
are smaller.
"""

import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_blocks import ROOT, blocks, commands
from scoresde_bench.cli import main as bench
from scoresde_run.commands.shell import main as scoresde

SMALLER = {
    "train": ["training.iterations=30", "training.warmup=5", "sampling.sampler.steps=4", "training.log_every=10"],
    "scoresde-bench": ["--samples", "64"],
}
TINY = ["model.network.nf=16", "training.batch_size=4", "training.iterations=2"]
MODULES = {"my_sdes", "my_networks", "trained_model"}


def smaller(words):
    """The command with fewer steps and samples where it leaves them open."""
    if words[0] == "scoresde-bench":
        words = words + ["--samples", "64"] * ("--samples" not in words)
        return words + ["--steps", "2,3"] * ("--steps" not in words)
    if words[1] == "train":
        return words + SMALLER["train"] + TINY * ("mnist_vp" in words)
    return words


@pytest.mark.parametrize("page", ["start.md", "your_sde.md", "your_model.md", "your_data.md"])
def test_a_newcomer_follows_the_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SCORESDE_MODULES", "")
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.new("L", (40, 50), number * 10).save(tmp_path / "photos" / f"{number}.png")
    names = {"__name__": "page"}
    for language, text, _ in blocks(f"docs/{page}"):
        if name := re.match(r"# (\w+\.(?:py|yaml))\n", text):
            Path(name[1]).write_text(text, encoding="utf-8")
        if language == "python":
            exec(compile(text, page, "exec"), names)
        for words in commands(text) if language == "bash" else ():
            if words[0] != "pip":
                run = {"scoresde": scoresde, "scoresde-bench": bench}[words[0]]
                code = run(smaller(words)[1:])
                assert code == 0, (words, capsys.readouterr().err)
    for module in MODULES:
        sys.modules.pop(module, None)
    assert capsys.readouterr().out


def test_a_door_is_at_most_two_pages_away():
    """From the README and from the first page of the site, each door is one link away."""
    doors = {"your_sde.md", "your_model.md", "your_data.md"}
    for page in ("README.md", "docs/index.md", "docs/start.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert doors <= {Path(link).name for link in re.findall(r"\]\(([\w./]+\.md)", text)}, page
