"""``scoresde import-checkpoint``: converts a published file or folder to a checkpoint."""

import argparse
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import Command, FileError, Registry, UsageError
from scoresde_run.commands.options import add_shared


@attrs.frozen
class ImportCheckpointCommand(Command):
    """Imports a folder of diffusers, a pickle of EDM, or with its preset a file of score_sde, score_flow or ncsn(v2).

    Every tensor must have its place in the network. Nothing that is read is run.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        text = "checkpoint_24.pth with --preset, a folder of diffusers, hub:google/ddpm-cifar10-32, or EDM's .pkl"
        add("file", metavar="FILE", help=text)
        add("--preset", metavar="NAME", help="the preset of a file that has no configuration: see 'scoresde presets'")
        add_shared(parser, out="the checkpoint folder to make", set="change the configuration: model.network.nf=64")
        text = "prefix of the network's tensors in the file, such as net. (default: detected)"
        add("--prefix", metavar="P", help=text)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        from scoresde_run.models import checkpoint
        from scoresde_run.models.names import plugins_of
        from scoresde_run.results import request
        from ..song2021.published_checkpoint import Misfit

        request.check_place(arguments.out, checkpoint.INDEX)
        file, config, about, convert = _source(arguments, registry)
        sha256 = checkpoint.file_hash(file)
        asked = request.digits(registry, arguments, sha256=sha256, config=config.plain())
        if request.finished(arguments.out, asked, checkpoint.INDEX):
            return 0
        try:
            converted = convert()
        except Misfit as misfit:
            print("\n".join(misfit.report))
            whose = f"the preset {arguments.preset}" if arguments.preset else "its own configuration"
            remedy = "choose its own preset" if arguments.preset else "get it again"
            raise FileError(f"{arguments.file} does not fit {whose}: {misfit}; {remedy}") from misfit
        about = {"file": file.name, "sha256": sha256, **about, "changes": list(arguments.set)}
        states, step = (converted.weights, converted.ema), about.pop("step", 0)
        use = about.pop("use", "sample --checkpoint {} --out samples")
        how: dict[str, Any] = {"provenance": about, "plugins": plugins_of(registry, config.model), "asked": asked}
        written = checkpoint.save(arguments.out, config, *states, step=step, **how)
        numbers = sum(tensor.numel() for tensor in converted.weights.values())
        averaged = "none averaged" if converted.ema is None else f"averages of {len(converted.ema)}"
        print(f"{about['layout']}, step {step}: {len(converted.weights)} tensors with {numbers:,} numbers, {averaged}")
        for note in converted.notes:
            print(note)
        print(f"wrote {written.folder}: scoresde {use.format(written.folder)}")
        return 0


def _source(arguments: argparse.Namespace, registry: Registry) -> tuple[Path, Any, dict[str, Any], Any]:
    """What is imported: its path, configuration, origin, and what converts it; without a preset it says itself."""
    from scoresde_run import Config, plan_model
    from scoresde_run.commands.presets import find_preset
    from ..dequantizers.flowpp import configured
    from ..dequantizers.variational import flow_of
    from ..formats import diffusers_folder, edm_pickle
    from ..song2021 import flax_checkpoint as flax
    from ..song2021.published_checkpoint import Converted, convert, read_published

    prefix = arguments.prefix
    if arguments.preset:
        file, config = Path(arguments.file), find_preset(registry, arguments.preset).override(arguments.set)
        if file.is_dir():
            remedy = "name the published file in it, or leave out --preset for one of diffusers"
            raise UsageError(f"{file} is a folder: {remedy}")
        published, plan = flax.read(file) or read_published(file), plan_model(config, registry)
        if published.layout == flax.DEQUANTISER:
            raise UsageError(f"{file} is a dequantiser, which says itself what it is of: leave --preset out")
        about = {"layout": published.layout, "preset": arguments.preset, "step": published.step}

        def converted() -> Converted:
            network, table = plan.build().network, hasattr(plan.sde, "sigma_max")
            return convert(flax.renamed(published, network), network, table=table, prefix=prefix)

        return file, config, about, converted
    place = diffusers_folder.fetched(arguments.file)
    pickled = place.is_file() and place.suffix == ".pkl"
    flow = flax.read(place) if place.is_file() and not pickled else None
    if flow and flow.layout == flax.DEQUANTISER:
        config = configured(flow.weights, place).override(arguments.set)
        use = "likelihood --dequantizer 'variational[checkpoint={}]'"
        about = {"layout": flow.layout, "step": flow.step, "use": use}
        return place, config, about, lambda: convert(flow, flow_of(config, "meta"), prefix=prefix)
    if not (place.is_dir() or pickled) or prefix:
        raise UsageError(f"{place} does not say which network it is of: add --preset NAME (see 'scoresde presets')")
    found = edm_pickle.read_pickle(place) if pickled else diffusers_folder.read_folder(place)
    config = Config.from_plain(found.config, str(place)).override(arguments.set)
    return found.file, config, {"layout": found.layout}, lambda: found.convert(plan_model(config, registry))
