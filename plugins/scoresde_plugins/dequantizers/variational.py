"""Variational dequantisation (Ho et al. 2019, arXiv:1902.00275): noise of a flow fitted to a model's density."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from scoresde_core import Draw, FileError, Spec, build, param
from scoresde_run import Config, Dequantizer, Network
from scoresde_run.models import checkpoint
from scoresde_run.models.config import ModelConfig
from .flowpp import PUBLISHED, FlowPP, ScoreFlow

NAME = "flowpp"  # the network's name in the configuration of a trained dequantiser
FLOWS: Mapping[str, type[Network]] = {NAME: FlowPP, PUBLISHED: ScoreFlow}


def flow_of(config: Config, device: str = "cpu") -> nn.Module:
    """The flow that ``config`` describes, without its weights."""
    network = config.model.network
    spec: Network = build(FLOWS[network.name], dict(network.params), "the dequantiser")
    with torch.device(device):
        return spec.build(config.model.shape)


@attrs.frozen
class VariationalDequantizer(Dequantizer):
    """v + u with u from a flow of ``scoresde train-dequantizer``, or an imported one, with its averaged weights."""

    @staticmethod
    def example(folder: Path) -> dict[str, Any]:
        """Write a small untrained flow, for the conformance suite."""
        size: dict[str, Any] = {"filters": 4, "couplings": 2, "blocks": 1, "components": 2, "heads": 2, "context": 4}
        config = Config(ModelConfig(Spec(NAME, size), Spec("vp"), (1, 2, 2)))
        checkpoint.save(folder / "model", config, FlowPP(**size).build((1, 2, 2)).state_dict())
        return {"checkpoint": str(folder / "model")}

    checkpoint: str = param(help="folder of a train-dequantizer run, or of a model")
    model: Path = attrs.field(init=False, repr=False)  # the model's own folder: for a run, the newest
    digest: str = attrs.field(init=False)  # the digest of its weights, which determine the results, unlike their path

    def __attrs_post_init__(self) -> None:
        found = checkpoint.read(Path(self.checkpoint))
        object.__setattr__(self, "model", found.folder)
        object.__setattr__(self, "digest", found.digest())
        if found.config.model.network.name not in FLOWS:
            why = f"{self.checkpoint} contains a {found.config.model.network.name}, not a dequantiser"
            raise ValueError(f"{why}: train one with scoresde train-dequantizer")

    @torch.no_grad()
    def dequantize(self, images: Tensor, noise: Draw) -> tuple[Tensor, Tensor]:
        eps = noise()
        module, shape = _load(self.model, self.digest, eps.device, eps.dtype)
        if (given := list(images.shape[1:])) != list(shape):
            raise FileError(f"the dequantiser {self.checkpoint} is for images of shape {list(shape)}, not {given}")
        u, log_q = module(images, eps)
        return images.to(u) + u, log_q


@lru_cache(maxsize=2)
def _load(folder: Path, digest: str, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, tuple[int, ...]]:
    found = checkpoint.read(folder)
    if found.digest() != digest:
        raise FileError(f"the weights in {folder} were replaced while in use: start again")
    module = flow_of(found.config)
    weights, averages = found.states()
    checkpoint.check_fit(module.state_dict(), weights | averages, folder, "its configuration")
    module.load_state_dict(weights | averages)
    return module.eval().requires_grad_(False).to(device, dtype), found.config.model.shape
