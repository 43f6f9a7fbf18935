"""Files of reference statistics: our own, and those that are published.

    .safetensors   mean (D,), m2 (D, D) float64, and features (N, D) float32 where they were asked for; the metadata say
                   how many events, of which data set, and by which extractor, and hold a digest of it all
    .npz           mu (D,), sigma (D, D) of pytorch-fid and clean-fid: moments, of an unknown number of images
    .npz           feats (N, D) of clean-fid, pool_3 (N, 2048) of score_sde: raw features

A published file does not say which network made it: it is used as it is, and the row says so. A file whose numbers
cannot be statistics is refused: a NaN or a covariance with a negative eigenvalue would give a distance all the same.
"""

from __future__ import annotations

import hashlib
import json
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

from scoresde_core.errors import FileError, ScoreSDEError
from scoresde_core.plugins import one_line
from scoresde_run.data.batches import order
from scoresde_run.models.checkpoint import file_hash

from .feature_moments import FeatureMoments

FORMAT, VERSION = "scoresde.statistics", 1
RAW = ("feats", "pool_3")
"""What published files call raw features."""
TOLERANCE = 1e-5
"""Of asymmetry and of negative eigenvalues, as a share of the largest: what rounding to float32 leaves."""


class _Fault(ScoreSDEError):
    """What is wrong with the content of a file that is named elsewhere."""


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
        return {"statistics": str(self.path), "sha256": _hash(self), **self.report}


def write(path: Path, moments: FeatureMoments, features: Tensor | None, report: Mapping[str, Any]) -> None:
    """Write statistics to a new file; raises FileError where they are none, as of features that are not finite."""
    try:
        _check(moments, features, ("mean", "m2", "features"))
    except _Fault as error:
        raise FileError(f"cannot write {path}: {error}; look at what the extractor makes of the events") from error
    tensors = {"mean": moments.mean.cpu(), "m2": moments.m2.cpu()}
    if features is not None:
        tensors["features"] = features.float().cpu()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "count": json.dumps(moments.count),
        "report": json.dumps(dict(report)),
    }
    metadata["digest"] = _digest(tensors, metadata)
    try:
        save_file(tensors, path, metadata)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {path} ({error}): choose a folder that exists and can be written") from error


def read(path: str | Path) -> Statistics:
    """The statistics in a file of any of the formats; anything else is a :class:`FileError`. Read again if changed."""
    path = Path(path)
    if not path.is_file():
        raise FileError(
            f"there is no file {path}: make reference statistics with 'scoresde stats DATASET --out {path}'"
        )
    state = path.stat()
    return _read(path, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, int]) -> Statistics:
    try:
        if stamp[1] == 0:
            raise _Fault("it is empty")
        return _published(path) if path.suffix == ".npz" else _own(path)
    except FileError:
        raise
    except Exception as error:  # zip, zlib, npy and safetensors each raise their own kinds
        raise FileError(
            f"{path} is damaged, or no file of statistics ({one_line(error)}): make or fetch it again"
        ) from error


def _own(path: Path) -> Statistics:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise FileError(f"{path} is no file of statistics: its format is {metadata.get('format')!r}")
        if int(metadata["version"]) > VERSION:
            raise FileError(
                f"{path} has format version {metadata['version']}, this release reads up to {VERSION}: update scoresde"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    digest = metadata.pop("digest", None)  # the first files had none
    if digest is not None and digest != _digest(tensors, metadata):
        raise _Fault("its content is not what was written")
    moments = FeatureMoments(json.loads(metadata["count"]), tensors["mean"], tensors["m2"])
    features = tensors.get("features")
    _check(moments, features, ("mean", "m2", "features"))
    return Statistics(path, moments, features, json.loads(metadata["report"]))


def _published(path: Path) -> Statistics:
    # Opened here: numpy leaves a file that is no zip open.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        names = set(file.files)
        raw = next((name for name in RAW if name in names), None)
        has_moments = {"mu", "sigma"} <= names
        if raw is None and not has_moments:
            found = ", ".join(file.files) or "nothing"
            raise _Fault(f"it has {found}, and neither mu and sigma nor {' or '.join(RAW)}")
        features = None if raw is None else _floats(file[raw], raw).float()
        if has_moments:
            moments = FeatureMoments(None, _floats(file["mu"], "mu"), _floats(file["sigma"], "sigma"))
    if features is not None and features.ndim > 1:
        features = features.flatten(1)
    if not has_moments:
        assert features is not None
        _check_features(features, str(raw))
        moments = FeatureMoments.of(features)
    _check(moments, features, ("mu", "sigma", str(raw)))
    what = ["mu, sigma"] * has_moments + [raw] * (raw is not None)
    return Statistics(path, moments, features, {"format": ", ".join(map(str, what)), "protocol": None})


def _floats(array: Any, name: str) -> Tensor:
    """A float64 tensor; other kinds of number are no statistics of features."""
    if array.dtype.kind != "f":
        raise _Fault(f"{name} has dtype {array.dtype}, not a float's")
    return torch.from_numpy(array.astype(np.float64))


def _check(moments: FeatureMoments, features: Tensor | None, names: tuple[str, str, str]) -> None:
    """Raise a fault where these are no mean, no covariance up to a factor, or no features of that width."""
    mean, matrix, count = moments.mean, moments.m2, moments.count
    if mean.ndim != 1 or not len(mean) or matrix.shape != (len(mean), len(mean)):
        shapes = f"{names[0]} has shape {tuple(mean.shape)}, {names[1]} {tuple(matrix.shape)}"
        raise _Fault(f"{shapes}, not (D,) and (D, D)")
    if count is not None and not (isinstance(count, int) and count > 1):
        raise _Fault(f"it is of {count} events, and takes two or more")
    for name, tensor in zip(names, (mean, matrix), strict=False):
        _check_finite(tensor, name)
    _check_covariance(matrix.double(), names[1])
    if features is not None:
        _check_features(features, names[2])
        if features.shape[1] != len(mean):
            raise _Fault(f"{names[2]} has {features.shape[1]} features an event, {names[0]} {len(mean)}")
        if count is not None and len(features) != count:
            raise _Fault(f"{names[2]} has {len(features)} events, the moments are of {count}")


def _check_features(features: Tensor, name: str) -> None:
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise _Fault(f"{name} has shape {tuple(features.shape)}, not (N, D) with two events or more")
    _check_finite(features, name)


def _check_finite(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        raise _Fault(f"{name} has dtype {tensor.dtype}, not a float's")
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise _Fault(f"{bad} of the {tensor.numel()} numbers of {name} are not finite")


def _check_covariance(matrix: Tensor, name: str) -> None:
    """Raise a fault where ``matrix`` is not symmetric or has a negative eigenvalue, beyond rounding."""
    largest, skew = float(matrix.abs().max()), float((matrix - matrix.T).abs().max())
    if skew > TOLERANCE * largest:
        raise _Fault(f"{name} is not symmetric: entries differ by {skew:.3g}, the largest is {largest:.3g}")
    # The factor of a matrix that is shifted by less than the tolerance is found ten times as fast as eigenvalues.
    shift = TOLERANCE * float(matrix.diagonal().max()) * torch.eye(len(matrix), dtype=matrix.dtype).to(matrix.device)
    if int(torch.linalg.cholesky_ex(matrix + shift).info):
        values = torch.linalg.eigvalsh(matrix)
        if values[0] < -TOLERANCE * values.abs().max():
            raise _Fault(f"{name} has the eigenvalue {values[0]:.3g}, and a covariance has no negative ones")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of all that a file of ours holds."""
    found = hashlib.blake2b(json.dumps(dict(metadata), sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].contiguous().numpy().data)
    return found.hexdigest()


@lru_cache(maxsize=4)
def _hash(found: Statistics) -> str:
    return file_hash(found.path)


def _brief(protocol: Mapping[str, Any]) -> str:
    digest = protocol.get("sha256")
    return f"{protocol.get('extractor')}" + (f" (sha256 {str(digest)[:12]}...)" if digest else "")
