"""Files of reference statistics: our own, and the two that are published.

    .safetensors   mean (D,), m2 (D, D) float64, and features (N, D) float32 where they were asked for; the metadata say
                   how many events, of which data set, and by which extractor
    .npz           mu (D,), sigma (D, D) of pytorch-fid and clean-fid: moments, of an unknown number of images
    .npz           pool_3 (N, 2048) of score_sde: raw features

A published file does not say which network made it: it is used as it is, and the row says so.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scoresde_core.errors import FileError
from scoresde_core.models.checkpoint import file_hash
from scoresde_core.training.batches import order

from .feature_moments import FeatureMoments

FORMAT, VERSION = "scoresde.statistics", 1


@attrs.frozen(eq=False)
class Statistics:
    """Moments, raw features where the file holds them, and what is known about both."""

    path: Path
    moments: FeatureMoments
    features: Tensor | None
    report: Mapping[str, Any]
    """Own files: ``dataset``, ``split``, ``events`` and the extractor's ``protocol``; published ones: ``format``."""

    def rows(self, count: int, seed: int) -> Tensor:
        """``count`` features, in a random order that depends on the seed."""
        if self.features is None:
            raise FileError(
                f"{self.path} holds moments alone, and this metric compares features: make them with "
                "'scoresde stats DATASET --raw'"
            )
        if len(self.features) < count:
            raise FileError(f"{self.path} holds {len(self.features)} features, fewer than {count} samples: take fewer")
        return self.features[order(seed, 0, len(self.features))[:count]]

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raise where an extractor of another protocol made them."""
        made = self.report.get("protocol")
        if made is not None and made != json.loads(json.dumps(dict(asked))):
            raise FileError(
                f"{self.path} was made by {_brief(made)}, these features are {_brief(asked)}: make it again with "
                f"'scoresde stats DATASET --features {asked['extractor']}'"
            )

    def described(self) -> dict[str, Any]:
        """For a result row: the file, its hash, and what it says of itself."""
        return {"statistics": str(self.path), "sha256": _hash(self.path), **self.report}


def write(path: Path, moments: FeatureMoments, features: Tensor | None, report: Mapping[str, Any]) -> None:
    """Write statistics to a new file."""
    tensors = {"mean": moments.mean.cpu(), "m2": moments.m2.cpu()}
    if features is not None:
        tensors["features"] = features.float().cpu()
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "count": json.dumps(moments.count),
        "report": json.dumps(dict(report)),
    }
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {path} ({error}): choose a folder that exists and can be written") from error


def read(path: str | Path) -> Statistics:
    """The statistics in a file of any of the three formats; anything else is a :class:`FileError`."""
    return _read(Path(path))


@lru_cache(maxsize=4)
def _read(path: Path) -> Statistics:
    if not path.is_file():
        raise FileError(
            f"there is no file {path}: make reference statistics with 'scoresde stats DATASET --out {path}'"
        )
    try:
        return _published(path) if path.suffix == ".npz" else _own(path)
    except (OSError, SafetensorError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged, or no file of statistics ({error}): make or fetch it again") from error


def _own(path: Path) -> Statistics:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise FileError(f"{path} is no file of statistics: its format is {metadata.get('format')!r}")
        if int(metadata["version"]) > VERSION:
            raise FileError(
                f"{path} has format version {metadata['version']}, this release reads up to {VERSION}: update scoresde"
            )
        mean, m2 = file.get_tensor("mean"), file.get_tensor("m2")
        features = file.get_tensor("features") if "features" in file.keys() else None  # noqa: SIM118
    return Statistics(
        path, FeatureMoments(json.loads(metadata["count"]), mean, m2), features, json.loads(metadata["report"])
    )


def _published(path: Path) -> Statistics:
    with np.load(path, allow_pickle=False) as file:
        if {"mu", "sigma"} <= set(file.files):
            mean, covariance = (torch.from_numpy(file[name]).double() for name in ("mu", "sigma"))
            if covariance.shape != (len(mean), len(mean)):
                raise ValueError(f"mu has shape {tuple(mean.shape)}, sigma {tuple(covariance.shape)}")
            report = {"format": "mu, sigma", "protocol": None}
            return Statistics(path, FeatureMoments(None, mean, covariance), None, report)
        if "pool_3" not in file.files:
            raise ValueError(f"it has {', '.join(file.files)}, and neither mu and sigma nor pool_3")
        features = torch.from_numpy(file["pool_3"]).float()
    features = features.reshape(len(features), -1)
    return Statistics(path, FeatureMoments.of(features), features, {"format": "pool_3", "protocol": None})


@lru_cache(maxsize=4)
def _hash(path: Path) -> str:
    return file_hash(path)


def _brief(protocol: Mapping[str, Any]) -> str:
    digest = protocol.get("sha256")
    return f"{protocol.get('extractor')}" + (f" (sha256 {str(digest)[:12]}...)" if digest else "")
