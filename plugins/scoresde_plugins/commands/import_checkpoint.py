"""``scoresde import-checkpoint``: converts a published ``.pth`` file to a checkpoint."""

import argparse
from pathlib import Path

import attrs

from scoresde_core import Command, FileError, Registry, UsageError
from scoresde_run.commands.options import add_changes


@attrs.frozen
class ImportCheckpointCommand(Command):
    """Imports files of score_sde_pytorch, ncsn and ncsnv2; every tensor must have its place in the preset's network."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="the published file, such as checkpoint_24.pth")
        parser.add_argument("--preset", required=True, metavar="NAME", help="its preset: see 'scoresde presets'")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint folder to make")
        add_changes(parser, "model.network.nf=64")
        text = "prefix of the network's tensors in the file, such as net. (default: detected)"
        parser.add_argument("--prefix", metavar="P", help=text)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        from scoresde_run import plan_model
        from scoresde_run.commands.presets import find_preset
        from scoresde_run.models import checkpoint
        from scoresde_run.results import request
        from ..song2021.published_checkpoint import Misfit, convert, read_published

        config = find_preset(registry, arguments.preset).override(arguments.set)
        request.check_place(arguments.out, checkpoint.INDEX)
        if arguments.file.is_dir():
            raise UsageError(f"{arguments.file} is a folder: name the published file in it")
        published = read_published(arguments.file)
        sha256 = checkpoint.file_hash(arguments.file)
        asked = request.digits(registry, arguments, sha256=sha256, config=config.plain())
        if request.finished(arguments.out, asked, checkpoint.INDEX):
            return 0
        plan = plan_model(config, registry)
        how = {"table": hasattr(plan.sde, "sigma_max"), "prefix": arguments.prefix}
        try:
            converted = convert(published, plan.build().network, **how)
        except Misfit as misfit:
            print("\n".join(misfit.report))
            raise FileError(
                f"{arguments.file} does not fit the preset {arguments.preset}: {misfit}; choose its own preset"
            ) from misfit
        about = {"file": arguments.file.name, "sha256": sha256, "layout": published.layout}
        about |= {"preset": arguments.preset, "changes": list(arguments.set)}
        states = converted.weights, converted.ema
        written = checkpoint.save(arguments.out, config, *states, step=published.step, provenance=about, asked=asked)
        numbers = sum(tensor.numel() for tensor in converted.weights.values())
        averaged = "none averaged" if converted.ema is None else f"averages of {len(converted.ema)}"
        tensors = f"{len(converted.weights)} tensors with {numbers:,} numbers, {averaged}"
        print(f"{published.layout}, step {published.step}: {tensors}")
        for note in converted.notes:
            print(note)
        print(f"wrote {written.folder}: scoresde sample --checkpoint {written.folder} --out samples")
        return 0
