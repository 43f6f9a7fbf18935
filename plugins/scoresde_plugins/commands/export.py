"""``scoresde export``: a small checkpoint from a checkpoint or a training run.

In half precision, matrices and kernels take two bytes per number. Vectors and buffers keep theirs: they are few, and
to round a Fourier frequency may change an angle of hundreds of radians by a whole one. A loaded model is in float32.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import attrs
from scoresde_core import Command, Registry, UsageError
from scoresde_run.commands.options import add_shared

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@attrs.frozen
class ExportCommand(Command):
    """Exports one set of weights as a new checkpoint: ``scoresde export --checkpoint RUN --out DIR``.

    The optimiser, training states and other weights are left out; ``--dtype float16`` halves the file.
    ``--format diffusers`` writes a folder that the library opens.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a training run")
        add_shared(parser, out="the checkpoint folder to make")
        text = "a checkpoint of ours, or a folder that diffusers opens (default: scoresde)"
        parser.add_argument("--format", default="scoresde", choices=("scoresde", "diffusers"), help=text)
        text = "of the weights in the file, except vectors (default: float32)"
        parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help=text)
        add_shared(parser, "weights")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        import torch
        from scoresde_run import NoisyClassifier
        from scoresde_run.machine.files import check_new, new_folder
        from scoresde_run.models import checkpoint
        from scoresde_run.results import request

        ema = None if arguments.weights is None else arguments.weights == "ema"
        if arguments.format == "diffusers":
            from ..formats.diffusers_folder import write_folder

            check_new(arguments.out)
            if arguments.dtype != "float32":
                remedy = "leave out --dtype, and load it with torch_dtype there"
                raise UsageError(f"a folder for diffusers is in float32: {remedy}")
            model = checkpoint.find(arguments.checkpoint, registry).load(registry, ema)
            with new_folder(arguments.out) as scratch:
                write_folder(scratch, model)
            print(f"wrote {arguments.out}: diffusers.DiffusionPipeline.from_pretrained({str(arguments.out)!r})")
            return 0
        request.check_place(arguments.out, checkpoint.INDEX)
        found = checkpoint.find(arguments.checkpoint, registry)
        # An exported checkpoint has one set of weights, which may be averages.
        which = "ema" if found.uses_ema(ema) else found.provenance.get("exported", {}).get("weights", "raw")
        known = {"of": found.digest(ema), "config": found.config.plain(), "provenance": found.provenance}
        asked = request.digits(registry, arguments, step=found.step, **known)
        if request.finished(arguments.out, asked, checkpoint.INDEX):
            return 0
        model = found.load(registry, ema, outputs=None)
        state = shortened(model.network, getattr(torch, arguments.dtype))
        about = {"weights": which, "dtype": arguments.dtype, "of": found.digest(ema)}
        how: dict[str, Any] = {"step": found.step, "plugins": found.plugins, "asked": asked}
        how["provenance"] = {**found.provenance, "exported": about}
        written = checkpoint.save(arguments.out, found.config, state, **how)
        size = (written.folder / checkpoint.WEIGHTS).stat().st_size
        numbers = sum(tensor.numel() for tensor in state.values())
        print(f"step {found.step}, {which} weights: {numbers:,} numbers in {size:,} bytes")
        guides = isinstance(model.view(), NoisyClassifier)
        use = "the condition class[checkpoint={}]" if guides else "scoresde sample --checkpoint {} --out samples"
        print(f"wrote {written.folder}: {use.format(written.folder)}")
        return 0


def shortened(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of ``network``, with parameters of two or more axes in ``dtype``; ``UsageError`` if one overflows."""
    state = dict(network.state_dict())
    for name in (name for name, parameter in network.named_parameters() if parameter.ndim > 1):
        short = state[name].to(dtype)
        if not short.isfinite().all():
            largest = float(state[name].abs().max())
            raise UsageError(f"{name} has a weight of {largest:.3g}, beyond {dtype}: export as float32 or bfloat16")
        state[name] = short
    return state
