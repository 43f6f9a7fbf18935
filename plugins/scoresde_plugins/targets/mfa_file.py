"""Files of fitted mixtures of factor analysers: safetensors with a report of the fit.

Tensors: ``weights`` (K,) float64, ``means`` (K, D) float32, ``factors`` (K, q, D) float16, ``noise`` (D,) float32, the
variances psi. The rounded parameters are the target: every number in the metadata was measured with them. Metadata
is text; its ``report`` is JSON, which may gain entries within a version.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from scoresde_core import Estimate, FileError
from scoresde_run.machine import inputs
from ..tensor_file import Format
from .mixture import MixtureOfFactorAnalysers

FORMAT = Format("scoresde.mfa", 1, "a fitted mixture of factor analysers")
DTYPES = {"weights": torch.float64, "means": torch.float32, "factors": torch.float16, "noise": torch.float32}


def rounded(target: MixtureOfFactorAnalysers) -> MixtureOfFactorAnalysers:
    """Return ``target`` with the precision of its file, without a known entropy."""
    kept = {name: getattr(target, name).to(dtype) for name, dtype in DTYPES.items()}
    return attrs.evolve(target, **kept, known_entropy=None)


def write(path: str | Path, target: MixtureOfFactorAnalysers, report: Mapping[str, Any], asked: str = "") -> None:
    """Write ``target``, its entropy and ``report`` (JSON values: settings, data, held-out likelihood) to ``path``.

    ``asked`` is the request of the command.

    A target that is not :func:`rounded` raises ``ValueError``, an existing or unwritable file ``FileError``.
    """
    path = Path(path)
    if path.exists():
        raise FileError(f"{path} exists: remove it or choose another name")
    tensors = {name: getattr(target, name).to("cpu", dtype).contiguous() for name, dtype in DTYPES.items()}
    if any(not torch.equal(tensors[name].double(), getattr(target, name).cpu()) for name in DTYPES):
        raise ValueError("the target has more digits than its file can hold: save rounded(target)")
    entropy = target.entropy()
    metadata = {
        "shape": json.dumps(target.shape),
        "entropy": repr(entropy.value),
        "entropy_stderr": repr(entropy.stderr),
        "report": json.dumps(dict(report)),
    }
    FORMAT.write(path, tensors, metadata | ({"asked": asked} if asked else {}))


def load(path: str | Path) -> tuple[MixtureOfFactorAnalysers, dict[str, Any]]:
    """Return the target in ``path`` and its report; raise FileError if the file cannot be used."""
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} does not exist: give the path of a fitted mixture of factor analysers")
    try:
        tensors, metadata = FORMAT.read(path)
        parameters: dict[str, Any] = {name: tensors[name] for name in DTYPES}
        entropy = Estimate(float(metadata["entropy"]), float(metadata["entropy_stderr"]))
        target = MixtureOfFactorAnalysers(
            **parameters, shape=tuple(inputs.loads(metadata["shape"])), known_entropy=entropy
        )
        report: dict[str, Any] = inputs.loads(metadata["report"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): fit it again or restore it from its source") from error
    return target, report
