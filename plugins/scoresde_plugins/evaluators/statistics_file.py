"""Files of reference statistics: our own, and published ones.

    .safetensors   mean (D,), m2 (D, D) float64, and features (N, D) float32 where they were requested; the metadata
                   record the number of events, the data set, the extractor, and a digest of the content
    .npz           mu (D,), sigma (D, D) of pytorch-fid and clean-fid: moments, of an unknown number of images
    .npz           feats (N, D) of clean-fid, pool_3 (N, 2048) of score_sde: raw features

A published file does not name its network: it is used as it is, and the row says so. A file whose numbers cannot be
statistics is refused: a NaN or a covariance with a negative eigenvalue would still give a distance.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from scoresde_core import FileError, ScoreSDEError
from scoresde_core.plugins import one_line
from scoresde_run import Processes
from scoresde_run.data.batches import order
from scoresde_run.machine import inputs
from scoresde_run.models.checkpoint import file_hash
from ..tensor_file import Format


@attrs.frozen(eq=False)
class FeatureMoments:
    """The moments of ``count`` features: their ``mean`` (D,) and sum of centred outer products ``m2`` (D, D), float64.

    ``count=None`` means that the number of features is unknown, as in published files. Each batch is centred by itself
    and merged (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115),

        n = n_a + n_b,    d = m_b - m_a,    m = m_a + d n_b / n,    M2 = M2_a + M2_b + d d' n_a n_b / n,

    so that features are never held together in memory, and no large sums are subtracted.
    """

    count: int | None
    mean: Tensor
    m2: Tensor  # with ``count=None``, the covariance

    @classmethod
    def of(cls, features: Tensor) -> FeatureMoments:
        """Return the moments of a batch (n, D)."""
        x = features.double()
        mean = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    @classmethod
    def none(cls, dimensions: int, device: torch.device | str = "cpu") -> FeatureMoments:
        """Return the moments of no features, from which a sum starts."""
        return cls.of(torch.zeros(0, dimensions, dtype=torch.float64, device=device))

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D), M2 / (n - 1)."""
        return self.m2 if self.count is None else self.m2 / (self.count - 1)

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Return the moments of both sets together."""
        if self.count is None or other.count is None:
            raise ValueError("moments of an unknown number of features cannot be merged")
        n = self.count + other.count
        if not n:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / n)
        m2 = self.m2 + other.m2 + torch.outer(step, step) * (self.count * other.count / n)
        return FeatureMoments(n, mean, m2)

    def over(self, processes: Processes | None) -> FeatureMoments:
        """Return the moments of the features of all processes; every process must call this."""
        if processes is None or processes.count == 1:
            return self
        rows = processes.gather(torch.cat([self.mean.unsqueeze(0), self.m2]).unsqueeze(0))
        counts = processes.exchange(self.count)
        return merged([FeatureMoments(n, part[0], part[1:]) for n, part in zip(counts, rows, strict=True)])


def merged(parts: list[FeatureMoments]) -> FeatureMoments:
    """All parts together."""
    return reduce(FeatureMoments.merge, parts)


FORMAT = Format("scoresde.statistics", 1, "a file of statistics")
RAW = ("feats", "pool_3")  # the names of raw features in published files
TOLERANCE = 1e-5  # allowed asymmetry and negative eigenvalues, relative to the largest: what rounding to float32 causes


class _Fault(ScoreSDEError):
    """What is wrong with the content of a file that the caller names."""


@attrs.frozen(eq=False)
class Statistics:
    """Moments, raw features if the file has them, and a report on both."""

    path: Path
    moments: FeatureMoments
    features: Tensor | None
    report: Mapping[str, Any]
    """``dataset``, ``split``, ``events`` and the extractor's ``protocol``; of published files ``format``."""

    def rows(self, count: int, seed: int) -> Tensor:
        """Return ``count`` features, in a random order that depends on the seed."""
        if self.features is None:
            why = f"{self.path} has moments only, and this metric compares features"
            raise FileError(f"{why}: make them with 'scoresde stats DATASET --raw'")
        if len(self.features) < count:
            raise FileError(f"{self.path} has {len(self.features)} features, fewer than {count} samples: draw fewer")
        return self.features[order(seed, 0, len(self.features))[:count]]

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raise FileError if an extractor of another protocol made them."""
        made = self.report.get("protocol")
        if made is not None and made != json.loads(json.dumps(dict(asked))):
            why = f"{self.path} was made by {_brief(made)}, and these features are {_brief(asked)}"
            raise FileError(f"{why}: make it again with 'scoresde stats DATASET --features {asked['extractor']}'")

    def described(self) -> dict[str, Any]:
        """Return the file, its hash and its report, for a result row."""
        return {"statistics": str(self.path), "sha256": _hash(self), **self.report}


def write(
    path: Path, moments: FeatureMoments, features: Tensor | None, report: Mapping[str, Any], asked: str = ""
) -> None:
    """Write statistics, and the command's request ``asked``, to a file; FileError if they are invalid, as with NaN."""
    try:
        _check(moments, features, ("mean", "m2", "features"))
    except _Fault as error:
        raise FileError(f"cannot write {path}: {error}; check the extractor's output for these events") from error
    tensors = {"mean": moments.mean.cpu(), "m2": moments.m2.cpu()}
    if features is not None:
        tensors["features"] = features.float().cpu()
    metadata = {"count": json.dumps(moments.count), "report": json.dumps(dict(report))}
    FORMAT.write(path, tensors, metadata | ({"asked": asked} if asked else {}))


def read(path: str | Path) -> Statistics:
    """Return the statistics in a file of any format, read again if it changed; raise FileError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} does not exist: make reference statistics with 'scoresde stats DATASET --out {path}'")
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
        why = f"{path} is damaged, or not a file of statistics ({one_line(error)})"
        raise FileError(f"{why}: make or fetch it again") from error


def _own(path: Path) -> Statistics:
    tensors, metadata = FORMAT.read(path)
    moments = FeatureMoments(json.loads(metadata["count"]), tensors["mean"], tensors["m2"])
    features = tensors.get("features")
    _check(moments, features, ("mean", "m2", "features"))
    return Statistics(path, moments, features, json.loads(metadata["report"]))


def _published(path: Path) -> Statistics:
    features = None
    with zipfile.ZipFile(inputs.whole(path)) as archive:
        file = inputs.Arrays(path, archive)
        raw = next((name for name in RAW if name in file.names), None)
        has_moments = {"mu", "sigma"} <= set(file.names)
        if raw is not None:
            features = _floats(file[raw], raw).float()
            features = features.flatten(1) if features.ndim > 1 else features
        if has_moments:
            moments = FeatureMoments(None, _floats(file["mu"], "mu"), _floats(file["sigma"], "sigma"))
        elif features is not None:
            _check_features(features, str(raw))
            moments = FeatureMoments.of(features)
        else:
            found = ", ".join(file.names) or "nothing"
            raise _Fault(f"it has {found}, but neither mu and sigma nor {' or '.join(RAW)}")
    _check(moments, features, ("mu", "sigma", str(raw)))
    what = ["mu, sigma"] * has_moments + [raw] * (raw is not None)
    return Statistics(path, moments, features, {"format": ", ".join(map(str, what)), "protocol": None})


def _floats(array: Any, name: str) -> Tensor:
    if array.dtype.kind != "f":
        raise _Fault(f"{name} has dtype {array.dtype}, not a float type")
    return torch.from_numpy(array.astype(np.float64))


def _check(moments: FeatureMoments, features: Tensor | None, names: tuple[str, str, str]) -> None:
    """Raise a fault if these are not a mean, a covariance up to a factor, and features of the same width."""
    mean, matrix, count = moments.mean, moments.m2, moments.count
    if mean.ndim != 1 or not len(mean) or matrix.shape != (len(mean), len(mean)):
        raise _Fault(f"{names[0]} has shape {tuple(mean.shape)}, {names[1]} {tuple(matrix.shape)}, not (D,) and (D, D)")
    if count is not None and not (isinstance(count, int) and count > 1):
        raise _Fault(f"it has {count} events, and needs two or more")
    _check_finite(mean, names[0])
    _check_covariance(matrix, names[1])
    if features is not None:
        _check_features(features, names[2])
        if features.shape[1] != len(mean):
            raise _Fault(f"{names[2]} has {features.shape[1]} features per event, {names[0]} {len(mean)}")
        if count is not None and len(features) != count:
            raise _Fault(f"{names[2]} has {len(features)} events, and the moments are of {count}")


def _check_features(features: Tensor, name: str) -> None:
    if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
        raise _Fault(f"{name} has shape {tuple(features.shape)}, not (N, D) with two events or more")
    _check_finite(features, name)


def _check_finite(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        raise _Fault(f"{name} has dtype {tensor.dtype}, not a float type")
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise _Fault(f"{bad} of the {tensor.numel()} numbers of {name} are not finite")


def _check_covariance(matrix: Tensor, name: str) -> None:
    _check_finite(matrix, name)
    matrix = matrix.double()
    largest, skew = float(matrix.abs().max()), float((matrix - matrix.T).abs().max())
    if skew > TOLERANCE * largest:
        raise _Fault(f"{name} is not symmetric: entries differ by {skew:.3g}, the largest is {largest:.3g}")
    # A Cholesky factor of the matrix, shifted by less than the tolerance, is ten times as fast as eigenvalues.
    shift = TOLERANCE * float(matrix.diagonal().max()) * torch.eye(len(matrix), dtype=matrix.dtype).to(matrix.device)
    if int(torch.linalg.cholesky_ex(matrix + shift).info):
        values = torch.linalg.eigvalsh(matrix)
        if values[0] < -TOLERANCE * values.abs().max():
            raise _Fault(f"{name} has the negative eigenvalue {values[0]:.3g}, so it is not a covariance")


@lru_cache(maxsize=4)
def _hash(found: Statistics) -> str:
    return file_hash(found.path)


def _brief(protocol: Mapping[str, Any]) -> str:
    digest = protocol.get("sha256")
    return f"{protocol.get('extractor')}" + (f" (sha256 {str(digest)[:12]}...)" if digest else "")
