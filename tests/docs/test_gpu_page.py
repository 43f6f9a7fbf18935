"""The GPU page: its parts end in 9 minutes, it reads the tables of the studies, and says which part failed."""

import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SPEED = ROOT / "benchmarks" / "studies" / "speed"
SCRIPT = (ROOT / "benchmarks" / "studies" / "gpu.sh").read_text(encoding="utf-8")


@pytest.fixture
def study(monkeypatch):
    """The modules of the study, as the script finds them."""
    monkeypatch.syspath_prepend(str(SPEED))
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "pictures"))
    import gpu_page
    import side_by_side

    yield gpu_page, side_by_side
    for name in ("gpu_page", "side_by_side"):
        sys.modules.pop(name, None)


def test_the_parts_take_at_most_nine_minutes_as_the_page_says():
    limits = dict(re.findall(r"^(?:\S+=\S+ |.*\|\| )?part (\w+) (\S+) ", SCRIPT, re.M))
    limits["cifar10"] = re.search(r"^cifar=.* minutes=(\d+)$", SCRIPT, re.M)[1]
    assert set(limits) == {"forward", "training_float32", "training", "predictors", "waits", "cifar10", "picture"}
    assert sum(map(int, limits.values())) <= 540
    table = "".join(line for line in (ROOT / "docs/gpu.md").read_text().splitlines() if line.endswith(" s |"))
    assert sorted(map(int, re.findall(r"(\d+) s\b", table.replace("images/s", "")))) == sorted(
        map(int, limits.values())
    )


def test_the_tables_of_the_studies_are_read(study, capsys):
    page, speed = study
    found = {
        "ours": speed.Measured([0.5, 0.25], memory=3 * speed.MIB),
        "theirs": speed.Measured(failure="out of memory"),
    }
    speed.show("images, batch 2", found, 2, of_peak={"ours": "41%"})
    (rows,) = page.tables(capsys.readouterr().out).values()
    assert rows[0] == ["ours", "125.000", "187.500", "8.0", "1.00x", "3", "41%"]
    assert rows[1][:2] == ["theirs", "out"]


def test_the_page_shows_numbers_and_failures(study, tmp_path):
    page, _ = study
    (tmp_path / "logs").mkdir()
    for name in ("forward", "training_float32", "training"):
        (tmp_path / "logs" / f"{name}.txt").write_text(f"about {name}\n")
    line = '{"predictor": "ddim", "nfe": 10, "samples_per_second": 1234.5, "share_outside_network": 0.07}'
    (tmp_path / "logs" / "predictors.txt").write_text(f"{line}\n\n| a table |\n")
    (tmp_path / "logs" / "waits.txt").write_text('{"predictor": "ddim", "waits": 1}\n')
    (tmp_path / "logs" / "parts").write_text(
        "forward 124 110\ntraining_float32 0 9\ntraining 0 9\npredictors 0 9\nwaits 0 3\ncifar10 124 180\n"
    )
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "metrics.jsonl").write_text('{"step": 50, "loss": 0.25, "events_per_second": 900.4}\n')
    data = page.read(tmp_path) | {"date": "2026-01-01"}
    text = "\n".join(page.page(data, torch.device("cpu"), ["samples.png"]))
    assert "| ddim | 10 | 1.23e+03 | 7% |" in text
    assert "| ddim | 1 |" in text
    assert "50 steps, loss 0.25, 900 images/s." in text
    assert "This part ended with exit code 124: see `logs/forward.err`." in text
    assert text.count("ended with exit code") == 1  # the training may end at its limit
