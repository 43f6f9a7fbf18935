"""Options that several commands have, and checks of their values."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from scoresde_core import UsageError, parse_value

MOST = 10**9
"""The largest count of samples, batches, passes and the like."""
PRECISIONS = ("float32", "bfloat16", "float16")


def add_device(parser: argparse._ActionsContainer, default: str = "auto") -> None:
    """Add ``--device``."""
    shown = "a GPU if there is one" if default == "auto" else default
    parser.add_argument("--device", default=default, help=f"cpu, cuda, cuda:1, ... (default: {shown})")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype`` and ``--precision``."""
    text = "precision of state and network (default: float32)"
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"), help=text)
    text = "precision of the network (autocast); the state keeps --dtype (default: float32)"
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help=text)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``."""
    text = "ema or raw: averaged or plain (default: averaged if there are any); with --network, the file of its weights"
    parser.add_argument("--weights", metavar="X", help=text)


def add_network(parser: argparse.ArgumentParser, group: argparse._ActionsContainer | None = None) -> None:
    """Add ``--network``, to ``group`` if given, and the option of its output's meaning."""
    text = "a network that has its weights, such as 'module[target=my_model:build,shape=[1,28,28]]', under --sde"
    (group or parser).add_argument("--network", metavar="X", help=text)
    text = "meaning of the output of --network: noise, denoised, v, score, flow, edm"
    parser.add_argument("--parameterisation", metavar="X", help=text)


def check_weights(arguments: argparse.Namespace) -> None:
    """Raise :class:`UsageError` where ``--weights`` or ``--parameterisation`` has no effect on the chosen model."""
    if arguments.network is None and arguments.weights not in (None, "ema", "raw"):
        raise UsageError(f"--weights must be ema or raw, or a file with --network, got {arguments.weights!r}")
    if arguments.network is None and arguments.parameterisation is not None:
        raise UsageError("--parameterisation has no effect without --network: a checkpoint has its own")


def seed(text: str) -> int:
    """A seed from text: an integer from 0 that fits into 64 bits."""
    if not (text.strip().isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"a seed is an integer from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def add_seed(parser: argparse._ActionsContainer, help: str) -> None:
    """Add ``--seed``, by default 0."""
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=f"{help} (default: 0)")


def add_changes(parser: argparse.ArgumentParser, example: str, dest: str = "set") -> None:
    """Add ``--set KEY=VALUE ...``."""
    text = f"change the configuration: {example}"
    parser.add_argument("--set", dest=dest, nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def add_download(parser: argparse._ActionsContainer) -> None:
    """Add ``--download``."""
    parser.add_argument("--download", action="store_true", help="let the data set download missing files")


ODE = {
    "method": "adaptive Runge-Kutta method (default: dopri5)",
    "rtol": "relative tolerance of the ODE (default: 1e-5)",
    "atol": "absolute tolerance of the ODE (default: 1e-5)",
}


def add_discrete(parser: argparse._ActionsContainer) -> None:
    """Add ``--discrete``."""
    text = "for a model of discrete noise scales: use the nearest trained one at every time"
    parser.add_argument("--discrete", action="store_true", help=text)


def add_values(parser: argparse._ActionsContainer, texts: Mapping[str, str]) -> None:
    """Add an option for each name of ``texts``, whose value is read as that of a component's parameter."""
    for name, text in texts.items():
        parser.add_argument(f"--{name}", type=parse_value, metavar="X", help=text)


def values_of(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that were given."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def check_counts(arguments: argparse.Namespace, *names: str, least: int = 1) -> None:
    """Raise :class:`UsageError` where an option that was given is less than ``least`` or more than :data:`MOST`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not least <= value <= MOST:
            bound = f"at least {least}" if value < least else f"at most {MOST}"
            raise UsageError(f"--{name.replace('_', '-')} must be {bound}, got {value}")


def check_fractions(arguments: argparse.Namespace, *names: str) -> None:
    """Raise :class:`UsageError` where an option that was given does not lie between 0 and 1."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must lie between 0 and 1, got {value:g}")
