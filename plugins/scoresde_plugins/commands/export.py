"""``scoresde export``: a model for others to use, from a checkpoint or a training run.

What is kept is one set of weights, the averaged ones where there are any. In half precision the matrices and kernels
have two bytes a number. Vectors and buffers stay as they are: they are few, and among them are Fourier frequencies,
whose rounding would turn an angle of hundreds of radians by a whole one, and tables of noise scales. A model that is
loaded again has everything in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from scoresde_core.command import Command
from scoresde_core.errors import UsageError
from scoresde_core.registry import Registry
from scoresde_run.commands.options import add_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_DTYPES = ("float32", "float16", "bfloat16")


@attrs.frozen
class ExportCommand(Command):
    """One set of a checkpoint's weights as a checkpoint of its own: ``scoresde export --checkpoint RUN --out DIR``.

    Optimiser, training states and the other weights stay behind; ``--dtype float16`` halves the file.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """The checkpoint, the folder, which weights and how many bits of them."""
        parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint or a training run")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint folder to make")
        parser.add_argument(
            "--dtype",
            default="float32",
            choices=_DTYPES,
            help="of the weights in the file, but for vectors (default: float32)",
        )
        add_weights(parser)

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        """Load, shorten, write; print the size."""
        import torch

        from scoresde_core.classifier import NoisyClassifier
        from scoresde_run.machine.files import check_new
        from scoresde_run.models import checkpoint

        check_new(arguments.out)
        found = checkpoint.find(arguments.checkpoint, registry)
        ema = None if arguments.weights is None else arguments.weights == "ema"
        # What was exported before has one set of weights, which may be averages already.
        which = "ema" if found.uses_ema(ema) else found.provenance.get("exported", {}).get("weights", "raw")
        model = found.load(registry, ema, outputs=None)
        state = shortened(model.network, getattr(torch, arguments.dtype))
        about = {"weights": which, "dtype": arguments.dtype, "of": found.digest(ema)}
        provenance = {**found.provenance, "exported": about}
        written = checkpoint.save(arguments.out, found.config, state, step=found.step, provenance=provenance)
        size = (written.folder / checkpoint.WEIGHTS).stat().st_size
        numbers = sum(tensor.numel() for tensor in state.values())
        print(f"step {found.step}, {which} weights: {numbers:,} numbers in {size:,} bytes")
        guides = isinstance(model.view(), NoisyClassifier)
        use = "the condition class[checkpoint={}]" if guides else "scoresde sample --checkpoint {} --out samples"
        print(f"wrote {written.folder}: {use.format(written.folder)}")
        return 0


def shortened(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of ``network``, parameters of two axes or more in ``dtype``; ``UsageError`` where one is beyond it."""
    state = dict(network.state_dict())
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            continue
        short = state[name].to(dtype)
        if not short.isfinite().all():
            largest = float(state[name].abs().max())
            raise UsageError(f"{name} has a weight of {largest:.3g}, beyond {dtype}: export as float32 or bfloat16")
        state[name] = short
    return state
