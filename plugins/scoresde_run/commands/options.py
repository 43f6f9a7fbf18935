"""Options that several commands have, and checks of their values."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scoresde_core import UsageError, parse_value

MOST = 10**9  # the largest count of samples, batches, passes and the like
PRECISIONS = ("float32", "bfloat16", "float16")
ODE = ("method", "rtol", "atol")


def seed(text: str) -> int:
    """A seed from text: an integer from 0 that fits into 64 bits."""
    if not (text.strip().isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"a seed is an integer from 0 to 2^63 - 1, got {text!r}")
    return int(text)


SHARED: dict[str, dict[str, Any]] = {
    "out": {"type": Path, "required": True, "metavar": "DIR", "help": "the folder to make"},
    "device": {"default": "auto", "help": "cpu, cuda, cuda:1, ... (default: a GPU if there is one)"},
    "dtype": {"default": "float32", "choices": ("float32", "float64"),
              "help": "precision of state and network (default: float32)"},
    "precision": {"default": "float32", "choices": PRECISIONS,
                  "help": "precision of the network (autocast); the state keeps --dtype (default: float32)"},
    "seed": {"type": seed, "default": 0, "metavar": "N"},
    "set": {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE"},
    "network": {"metavar": "X", "help": "a network that has its weights, such as "
                "'module[target=my_model:build,shape=[1,28,28]]', under --sde"},
    "parameterisation": {"metavar": "X",
                         "help": "meaning of the output of --network: noise, denoised, v, score, flow, edm"},
    "weights": {"metavar": "X", "help": "ema or raw: averaged or plain (default: averaged if there are any); "
                "with --network, the file of its weights"},
    "dataset": {"metavar": "X", "help": "a data set, an .npz, .npy or .csv file, an image, or a folder of images: "
                "./here (the configuration's, or draws of the target)"},
    "split": {"default": "test", "choices": ("train", "test"), "help": "of the data set (default: test)"},
    "download": {"action": "store_true", "help": "let the data set download missing files"},
    "known": {"nargs": "+", "action": "extend", "default": [], "metavar": "NAME=X",
              "help": "what is known of each sample: class=[3,8], y=noisy.npz, class=data (as the data set knows)"},
    "discrete": {"action": "store_true",
                 "help": "for a model of discrete noise scales: use the nearest trained one at every time"},
    "method": {"type": parse_value, "metavar": "X", "help": "adaptive Runge-Kutta method (default: dopri5)"},
    "rtol": {"type": parse_value, "metavar": "X", "help": "relative tolerance of the ODE (default: 1e-5)"},
    "atol": {"type": parse_value, "metavar": "X", "help": "absolute tolerance of the ODE (default: 1e-5)"},
}  # fmt: skip


def add_shared(parser: argparse._ActionsContainer, *names: str, **texts: str) -> None:
    """Add the options of these ``names``, and those of ``texts`` with a help of their own."""
    for name in (*names, *texts):
        about = SHARED[name]
        parser.add_argument(f"--{name}", **{**about, "help": texts.get(name, about.get("help"))})


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model."""
    model = parser.add_mutually_exclusive_group(required=True)
    add = model.add_argument
    add("--checkpoint", metavar="DIR", help="a folder of a model or run, or a name of 'scoresde list checkpoints'")
    add("--preset", metavar="NAME", help="a preset with random weights, for trials")
    add("--target", metavar="NAME", help="an exact target with a known score, such as mnist_mfa")
    add_shared(model, "network")
    add_shared(parser, "parameterisation")
    parser.add_argument("--sde", metavar="NAME", help="the forward process of a --target (default: vp) or --network")
    add_shared(parser, "weights", set="change the configuration: sampling.t_min=1e-4")


def check_weights(arguments: argparse.Namespace) -> None:
    """Raise :class:`UsageError` where ``--weights`` or ``--parameterisation`` has no effect on the chosen model."""
    if arguments.network is None and arguments.weights not in (None, "ema", "raw"):
        raise UsageError(f"--weights must be ema or raw, or a file with --network, got {arguments.weights!r}")
    if arguments.network is None and arguments.parameterisation is not None:
        raise UsageError("--parameterisation has no effect without --network: a checkpoint has its own")


def values_of(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were given."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def check_counts(arguments: argparse.Namespace, *names: str, least: int = 1) -> None:
    """Raise :class:`UsageError` where an option that was given is less than ``least`` or more than :data:`MOST`."""
    for name, value in values_of(arguments, names).items():
        if not least <= value <= MOST:
            bound = f"at least {least}" if value < least else f"at most {MOST}"
            raise UsageError(f"--{name.replace('_', '-')} must be {bound}, got {value}")


def check_fractions(arguments: argparse.Namespace, *names: str) -> None:
    """Raise :class:`UsageError` where an option that was given does not lie between 0 and 1."""
    for name, value in values_of(arguments, names).items():
        if not 0 < value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must lie between 0 and 1, got {value:g}")
