"""The file of a fitted mixture of factor analysers: safetensors with what was fitted, how, and how well.

Tensors: ``weights`` (K,) float64, ``means`` (K, D) float32, ``factors`` (K, q, D) float16, ``noise`` (D,) float32, the
variances psi. The rounded parameters are the target: every number in the metadata was measured with them. Metadata
is text, as safetensors has it; ``report`` in it is JSON and free to grow within a version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from scoresde_core.errors import FileError
from scoresde_core.estimate import Estimate

from .mixture import MixtureOfFactorAnalysers

FORMAT, VERSION = "scoresde.mfa", 1
DTYPES = {"weights": torch.float64, "means": torch.float32, "factors": torch.float16, "noise": torch.float32}


def rounded(target: MixtureOfFactorAnalysers) -> MixtureOfFactorAnalysers:
    """``target`` with its parameters as a file keeps them, without a known entropy."""
    kept = {name: getattr(target, name).to(dtype) for name, dtype in DTYPES.items()}
    return attrs.evolve(target, **kept, known_entropy=None)


def write(path: str | Path, target: MixtureOfFactorAnalysers, report: Mapping[str, Any]) -> None:
    """Write ``target``, its entropy and ``report`` (JSON values: settings, data, held-out likelihood) to ``path``.

    A target that is not :func:`rounded`, a file that exists and one that cannot be written are errors.
    """
    path = Path(path)
    if path.exists():
        raise FileError(f"{path} exists: remove it or choose another name")
    tensors = {name: getattr(target, name).to("cpu", dtype).contiguous() for name, dtype in DTYPES.items()}
    if any(not torch.equal(tensors[name].double(), getattr(target, name).cpu()) for name in DTYPES):
        raise ValueError("the target has more digits than its file keeps: save rounded(target)")
    entropy = target.entropy()
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "shape": json.dumps(target.shape),
        "entropy": repr(entropy.value),
        "entropy_stderr": repr(entropy.stderr),
        "report": json.dumps(dict(report)),
    }
    try:
        save_file(tensors, path, metadata)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {path} ({error}): choose a folder that exists and can be written") from error


def load(path: str | Path) -> tuple[MixtureOfFactorAnalysers, dict[str, Any]]:
    """The target in ``path`` and its report. A missing, foreign, newer or damaged file is a ``FileError``."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"there is no file {path}: give the path of a fitted mixture of factor analysers")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata)
            tensors = {name: file.get_tensor(name) for name in DTYPES}
        entropy = Estimate(float(metadata["entropy"]), float(metadata["entropy_stderr"]))
        target = MixtureOfFactorAnalysers(**tensors, shape=tuple(json.loads(metadata["shape"])), known_entropy=entropy)
        report: dict[str, Any] = json.loads(metadata["report"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): fit it again or restore it from its source") from error
    return target, report


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise FileError(f"{path} is not a fitted mixture of factor analysers: its format is {metadata.get('format')!r}")
    if int(metadata["version"]) > VERSION:
        raise FileError(
            f"{path} has format version {metadata['version']}, this release reads up to {VERSION}: update scoresde"
        )
