"""The tables of docs/few_evaluations.md are those of the committed rows; run as a script, this prints them."""

import re
from pathlib import Path

import pytest
from scoresde_bench.report.ranking import rank
from scoresde_bench.report.result_sets import merge, read_result_sets

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "few_evaluations.md"
PAPERS = {"vp": "VP", "subvp": "sub-VP", "ve": "VE", "ve[sigma_max=200]": "VE to 200"}
LATER = {"edm": "EDM", "cosine": "cosine", "rectified_flow": "rectified flow", "trigflow": "TrigFlow"}
SDES = PAPERS | LATER
DISTANCES = ("sliced_wasserstein", "moments", "energy_distance", "mode_weights")
METRICS = {
    "few_tuned": DISTANCES,
    "few_tuned_cifar10": DISTANCES,
    "few_tuned_mnist": ("frechet_mnist_classifier_infinity",),
    "few_tuned_density": ("nll_gap",),
    "few_tuned_density_cifar10": ("nll_gap",),
}


def method(row):
    """How the cell of a row samples, without the number of steps."""
    text = row["sampler"]
    if text == "pc":
        return f"`{row['predictor']}`, `{row['grid']}`"
    if found := re.match(r"tuned\[.*(weights|density)_(\w+_mfa|mnist_vp)_?", text):
        return f"times and weights tuned on `{found[2]}`" + ", with its density" * (found[1] == "density")
    if found := re.match(r"pc\[.*file\[path=.*/(?:times_|weights_)?(\w+_mfa|mnist_vp)_?(.*)\.json", text):
        kind = "times of that file" if "/weights_" in text else f"times tuned on `{found[1]}`"
        return f"{kind}, `{row['parameters']['sampler']['predictor']['type'].split(':')[1]}`"
    if found := re.match(r"pc\[predictor=(\w+),(?:steps=\d+,)?grid=(\w+(?:\[[^]]*\])?)", text):
        return f"`{found[1]}`, `{found[2]}`"
    if text.startswith("restart["):
        return "`restart`, `ipndm` on `logsnr`"
    until = re.match(r"warm_start\[.*until=([\d.]+),", text)
    return f"`ipndm`, `logsnr`, after a warm start until {until[1]}"


def ranked(folder, seeds=None):
    (found,) = read_result_sets([str(ROOT / "benchmarks" / "results" / folder)])
    return rank([row for row in merge([found]) if seeds is None or row["seed"] in seeds])


def fewest(folder, metrics, sdes, seeds=(0, 1, 2)):
    """For every method and process the fewest evaluations that are as good as exact samples by all ``metrics``.

    A dash before those tried: none. Of every cell the same ``seeds`` count, which make the margin.
    """
    ranking, found = ranked(folder, seeds), {}
    for at, row in ranking.done.items():
        if len(row.get("seeds", ())) == len(seeds) and row["sde"] in sdes:
            good = all(ranking.as_good(at, name) for name in metrics)
            found.setdefault(method(row), {}).setdefault(row["sde"], []).append((round(row["nfe"]), good))
    lines = ["| | " + " | ".join(sdes.values()) + " |", "|---" * (len(sdes) + 1) + "|"]
    for name in sorted(found):
        cells = []
        for sde in sdes:
            tried = sorted(found[name].get(sde, []))
            least = min((nfe for nfe, good in tried if good), default=None)
            cells.append(f"{least}" if least else f"– ({', '.join(str(nfe) for nfe, _ in tried)})" if tried else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def values(folder, metrics):
    """The values of all cells, over all of their seeds; ``°`` where they are as good as exact samples."""
    ranking, lines = ranked(folder), []
    for at, row in ranking.done.items():
        found = [(ranking.value(at, name), ranking.as_good(at, name)) for name in metrics]
        cells = " | ".join(f"{one.text}{' °' * good}" if one else "" for one, good in found)
        lines.append(f"| {SDES[row['sde']]}, {row['nfe']:.0f} evaluations, {method(row)} | {cells} |")
    return lines


FOLDERS = [*METRICS]
EXACT = ("few_tuned", "few_tuned_density", "few_tuned_density_cifar10")
JUDGES = {folder: METRICS[folder] for folder in EXACT}
JUDGES["few_tuned_cifar10"] = ("sliced_wasserstein", "energy_distance", "mode_weights")


@pytest.mark.parametrize("sdes", [PAPERS, LATER], ids=["papers", "later"])
@pytest.mark.parametrize(("folder", "metrics"), JUDGES.items())
def test_the_fewest_evaluations_are_those_of_the_committed_rows(folder, metrics, sdes):
    assert "\n".join(["", *fewest(folder, metrics, sdes), ""]) in PAGE.read_text(encoding="utf-8")


def test_the_values_are_those_of_the_committed_rows():
    lines = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if re.match(rf"\| ({'|'.join(SDES.values())}), \d+ evaluations", line)
    ]
    known = [line for folder in FOLDERS for line in values(folder, METRICS[folder])]
    assert len(lines) > 40
    assert [line for line in lines if line not in known] == []


if __name__ == "__main__":
    for folder, metrics in JUDGES.items():
        print(folder, *fewest(folder, metrics, PAPERS), *fewest(folder, metrics, LATER), sep="\n")
    for folder in FOLDERS:
        print(folder, *values(folder, METRICS[folder]), sep="\n")
