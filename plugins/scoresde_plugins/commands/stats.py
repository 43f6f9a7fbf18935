"""``scoresde stats``: reference statistics of a data set, in a file."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import OURS, Command, Registry, Spec, UsageError
from scoresde_run.commands.options import add_shared, check_counts


@attrs.frozen
class StatsCommand(Command):
    """Writes the mean and covariance of the features of a split and, with ``--raw``, the features themselves.

    ``frechet[statistics=FILE]`` needs the moments, ``kernel`` and ``precision_recall`` the features. The same option
    reads published files of pytorch-fid, clean-fid and score_sde. ``--show`` prints what a file holds.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", metavar="DATASET", nargs="?", help="such as 'mnist[root=data]'")
        parser.add_argument("--out", type=Path, metavar="FILE", help="the .safetensors file to write")
        parser.add_argument("--show", type=Path, metavar="FILE", help="print what a file of statistics holds")
        parser.add_argument("--features", metavar="X", help="extractor (default: inception)")
        parser.add_argument("--split", default="train", choices=("train", "test"), help="default: train")
        parser.add_argument("--images", type=int, metavar="N", help="use the first N events only")
        parser.add_argument("--raw", action="store_true", help="also keep the features")
        parser.add_argument("--batch-size", type=int, default=250, metavar="N", help="events at a time (default: 250)")
        add_shared(parser, "device")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        if (arguments.dataset is None) == (arguments.show is None):
            raise UsageError("give either a data set or --show FILE")
        if arguments.show is not None:
            return _show(arguments.show)
        if arguments.out is None:
            raise UsageError("--out FILE is missing: name the file to write")
        check_counts(arguments, "images", "batch_size", least=2)
        if arguments.out.suffix != ".safetensors":
            raise UsageError(f"--out {arguments.out} must end in .safetensors: rename it")
        return _make(arguments, registry)


def _make(arguments: argparse.Namespace, registry: Registry) -> int:
    import torch
    from scoresde_run import Extraction
    from scoresde_run.data.dataset import content_hash
    from scoresde_run.machine.device import find_device, use_tf32
    from scoresde_run.machine.progress import Progress, is_tenth
    from scoresde_run.results import request
    from ..evaluators.statistics_file import FeatureMoments, write

    request.check_place(arguments.out)
    dataset = registry.create("datasets", arguments.dataset)
    extractor = registry.create("extractors", arguments.features or f"{OURS}:inception")
    if reason := extractor.skip(dataset.shape):
        raise UsageError(reason)
    device = find_device(arguments.device)
    use_tf32(False)  # as for the samples that are compared with them
    extraction = Extraction(extractor, batch_size=arguments.batch_size)
    protocol = extraction.protocol
    events: torch.Tensor = dataset.load(arguments.split)[: arguments.images]
    if len(events) < 2:
        few = f"{arguments.dataset} has {len(events)} events in its {arguments.split} split"
        raise UsageError(f"{few}: two or more are needed")
    rounding = protocol["rounding"] if events.is_floating_point() else None
    known = {"hash": content_hash(events), "protocol": protocol, "device": device.type}
    asked = request.digits(registry, arguments, dataset, extractor, **known)
    if request.finished(arguments.out, asked):
        return 0
    moments: Any = None
    kept, done, total = list[torch.Tensor](), 0, len(events)
    with Progress() as progress:
        for pooled in (batch.pooled for batch in extraction(events, device)):
            found = FeatureMoments.of(pooled)
            moments = found if moments is None else moments.merge(found)
            kept += [pooled.cpu()] if arguments.raw else []
            before, done = done, done + len(pooled)
            progress.show("events", done, total, f"{done} of {total} events", is_tenth(before, done, total))
    report = {"dataset": repr(dataset), "split": arguments.split, "events": len(events), "rounding": rounding}
    report |= {"protocol": protocol["features"], "torch": str(torch.__version__)}
    write(arguments.out, moments, torch.cat(kept) if arguments.raw else None, report, asked)
    print(f"{len(events)} events of {dataset!r}, {len(moments.mean)} features of {extractor.name}")
    evaluator = Spec("frechet", {"features": arguments.features or "inception", "statistics": str(arguments.out)})
    print(f"wrote {arguments.out}: scoresde-bench --evaluator {shlex.quote(str(evaluator))}")
    return 0


def _show(path: Path) -> int:
    from ..evaluators.statistics_file import read

    found = read(path)
    count = "an unknown number of" if found.moments.count is None else str(found.moments.count)
    print(f"{path}: moments of {count} events, {len(found.moments.mean)} features")
    print(f"raw features: {'no' if found.features is None else len(found.features)}")
    for name, value in found.report.items():
        if value is not None:
            print(f"{name}: {value}")
    return 0
