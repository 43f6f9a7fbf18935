"""Imports an unchanged checkout of score_sde_pytorch, to time it beside our code.

    git clone https://github.com/yang-song/score_sde_pytorch ~/score_sde_pytorch

Three parts of it do not work on every machine and are replaced from outside: on import it compiles CUDA extensions; if
that fails without a CUDA compiler, its own plain PyTorch version of the filter is used (as always on a CPU). Its
configurations import ``ml_collections``, of which they use a dictionary with attributes; and they choose a device.
"""

import sys
import types
from importlib import import_module
from importlib.util import find_spec
from unittest.mock import patch


class Checkout:
    """The modules of a checkout: ``module("losses")`` is its ``losses.py``."""

    module = staticmethod(import_module)

    def __init__(self, checkout, device):
        self.device = device
        sys.path.insert(0, str(checkout.expanduser()))
        try:
            self._import_networks(compiled=device.type == "cuda")
        except Exception as error:
            raise SystemExit(f"cannot import the published code in {checkout}: {error!r}") from error

    def config(self, preset, changes):
        """Return the configuration that ``preset`` repeats, with ``section.key`` changed."""
        name = f"configs.{preset.replace('vp_ddpm_', 'vp.ddpm_').replace('_', '.', 1)}"
        if "ml_collections" not in sys.modules and find_spec("ml_collections") is None:
            sys.modules["ml_collections"] = types.SimpleNamespace(ConfigDict=types.SimpleNamespace)
        config = import_module(name).get_config()
        config.device = self.device
        for key, value in changes.items():
            section, field = key.split(".")
            setattr(getattr(config, section), field, value)
        return config

    def network(self, config, ours):
        """Return the network of ``config`` with the weights of ``ours``."""
        network = import_module("models.utils").get_model(config.model.name)(config)
        network.load_state_dict(ours.state_dict())
        return network.to(self.device).eval()

    def _import_networks(self, compiled):
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
