"""Imports an unchanged checkout of score_sde_pytorch, to time it beside our code.

    git clone https://github.com/yang-song/score_sde_pytorch ~/score_sde_pytorch

Three parts of it do not work on every machine and are replaced from outside: on import it compiles CUDA extensions; if
that fails without a CUDA compiler, its own plain PyTorch version of the filter is used (as always on a CPU). Its
configurations import ``ml_collections``, of which they use a dictionary with attributes; and they choose a device.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn


class Checkout:
    """The modules of a checkout: ``module("losses")`` is its ``losses.py``."""

    def __init__(self, checkout: Path, device: torch.device) -> None:
        self.device = device
        sys.path.insert(0, str(checkout.expanduser()))
        try:
            self._import_networks(compiled=device.type == "cuda")
        except Exception as error:
            raise SystemExit(f"cannot import the published code in {checkout}: {error!r}") from error

    def module(self, name: str) -> Any:
        return import_module(name)

    def config(self, preset: str, changes: Mapping[str, Any]) -> Any:
        """Return the configuration that ``preset`` repeats, with ``section.key`` changed."""
        name = f"configs.{preset.replace('vp_ddpm_', 'vp.ddpm_').replace('_', '.', 1)}"
        if "ml_collections" not in sys.modules and find_spec("ml_collections") is None:
            sys.modules["ml_collections"] = types.ModuleType("ml_collections")
            sys.modules["ml_collections"].ConfigDict = _Fields  # type: ignore[attr-defined]
        config = import_module(name).get_config()
        config.device = self.device
        for key, value in changes.items():
            section, field = key.split(".")
            setattr(getattr(config, section), field, value)
        return config

    def network(self, config: Any, ours: nn.Module) -> nn.Module:
        network: nn.Module = self.module("models.utils").get_model(config.model.name)(config)
        network.load_state_dict(ours.state_dict())
        return network.to(self.device).eval()

    def _import_networks(self, compiled: bool) -> None:
        extensions = import_module("torch.utils.cpp_extension")
        with patch.object(extensions, "load", extensions.load if compiled else lambda *arguments, **more: None):
            try:
                op = import_module("op")
            except Exception as error:  # no CUDA compiler, or one that rejects the code
                if not compiled:
                    raise
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:150]
                print(f"the published CUDA extensions do not compile ({reason}); timing its plain PyTorch version")
                for name in [name for name in sys.modules if name == "op" or name.startswith("op.")]:
                    del sys.modules[name]
                return self._import_networks(compiled=False)
        if not compiled:
            native = import_module("op.upfirdn2d").upfirdn2d_native
            op.upfirdn2d = lambda x, kernel, up=1, down=1, pad=(0, 0): native(x, kernel, up, up, down, down, *pad, *pad)
        for name in ("ncsnpp", "ddpm"):
            import_module(f"models.{name}")


class _Fields(dict):  # type: ignore[type-arg]
    """A dictionary whose keys are attributes."""

    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__  # type: ignore[assignment]
