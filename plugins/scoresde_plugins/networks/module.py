"""A module of your own: code that you name, with weights from a file.

    module[target=my_model:build,args={width=64},weights=trained.pt,shape=[1,28,28],parameterisation=noise]

``target`` is called with ``args`` and returns an ``nn.Module`` with ``forward(x, label)``: x (B, *shape) in, a tensor
like x out, read as ``parameterisation`` says, at labels (B,) of the rule ``label``. It is looked for among installed
modules and in the working folder.

A configuration from elsewhere can name any function, and building the network calls it. So a target runs only where a
person has named it: in an option of the command, or in the environment variable ``SCORESDE_MODULES``, with commas.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
from attrs.validators import deep_iterable, ge, matches_re
from torch import nn
from scoresde_core import FileError, UsageError, param
from scoresde_run import Network
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import check_fit
from .mlp import MLP

ALLOWED = "SCORESDE_MODULES"
_NESTED = ("state_dict", "model_state_dict", "model")  # keys under which trainers store a state dict


@attrs.frozen(kw_only=True)
class ModuleNetwork(Network):
    """``target(**args)``, an ``nn.Module`` of your own, with the tensors in the file ``weights``."""

    target: str = param(help="module:function that returns the network", check=matches_re(r"[\w.]+:\w+"))
    args: dict = param(attrs.Factory(dict), "keyword arguments of target, such as {width=64}")  # type: ignore[type-arg]
    weights: str | None = param(
        None, "its state dict: a .safetensors file, or one of torch.save; null: as target gives"
    )
    shape: tuple[int, ...] = param((), "shape of its events; []: that of the configuration", deep_iterable(ge(1)))

    @staticmethod
    def example(_: Path) -> dict[str, Any]:
        """Parameters for the conformance suite."""
        found = {"target": f"{__name__}:in_the_plane", "shape": [2]}
        ModuleNetwork(target=found["target"]).trust()  # type: ignore[arg-type]
        return found

    @property
    def fixed_shape(self) -> tuple[int, ...] | None:
        return self.shape or None

    def trust(self) -> None:
        os.environ[ALLOWED] = ",".join(dict.fromkeys([*filter(None, _allowed()), self.target]))

    def files(self) -> list[str]:
        """What its outputs depend on: the weights, and the source of the target's module."""
        source = f"{self.target.partition(':')[0].replace('.', '/')}.py"
        return [name for name in (self.weights, source) if name]

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        if self.shape and shape != self.shape:
            raise ValueError(f"it takes events of shape {list(self.shape)}, not {list(shape)}")
        module = self._called()
        if self.weights is not None:
            own, found = module.state_dict(), _state(self.weights)
            check_fit(own, found, Path(self.weights), f"the module that {self.target} returns")
            module.load_state_dict(found)
        return module

    def _called(self) -> nn.Module:
        if self.target not in _allowed():
            why = f"the network runs the code {self.target}, which nobody has allowed"
            raise UsageError(f"{why}: if you trust it, name it with --network, or set {ALLOWED}={self.target}")
        home, _, name = self.target.partition(":")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that no file of it replaces a library
        try:
            made: Any = getattr(import_module(home), name)(**self.args)
        except Exception as error:  # which is the person's own code
            raise UsageError(f"the network {self.target} cannot be built: {type(error).__name__}: {error}") from error
        if not isinstance(made, nn.Module):
            raise UsageError(f"{self.target} returns a {type(made).__name__}: it must return an nn.Module")
        return made


def in_the_plane() -> nn.Module:
    """A small network for points in the plane, untrained."""
    return MLP().build((2,))


def _allowed() -> list[str]:
    return os.environ.get(ALLOWED, "").split(",")


def _state(path: str) -> dict[str, Any]:
    """The tensors of a file by name; nothing in it is run."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        with inputs.reading(path, "a safetensors file") as file:
            return load_file(file)
    content = inputs.unpickled(Path(path))
    nested = next((content[key] for key in _NESTED if isinstance(content, dict) and key in content), content)
    if not isinstance(nested, dict):
        raise FileError(f"{path} holds no state dict: save it with torch.save(model.state_dict(), {path!r})")
    return nested
