"""``file``: times that ``scoresde tune-grid`` found, in a JSON file of one process.

It has a format, version and digest, what was tuned and how, and for each number of steps N: ``times`` (N + 1),
``levels``, the log(sigma / alpha) between the first and the last (N - 1), ``ends``, t_max and t_min of the process (in
version 1 the first time and the last but one), the errors, and where they were tuned the ``weights`` of the noises,
one row a step. A process with other levels there, or other ends, is another one and refused: times are not converted,
because its score differs too.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import attrs
import torch
from torch import Tensor
from scoresde_core import SDE, Grid, Registry, handed_registry, param
from scoresde_run.machine import files, inputs
from scoresde_run.machine.digest import DIGEST, digest_of
from scoresde_run.models import checkpoint
from ..grids import UniformGrid
from ..song2021.sdes import VPSDE

FORMAT, VERSION = "scoresde-grid", 2


def write(path: Path, sde: SDE, grids: Sequence[tuple[Tensor, Mapping[str, Any]]], **about: Any) -> None:
    """Write times (N + 1,) of a process, each with its errors, and what is known ``about`` all."""
    levels = [sde.log_noise_ratio(times[1:-1]).tolist() for times, _ in grids]
    ends = [sde.t_max, sde.t_min]
    found = [
        {"times": times.tolist(), "levels": at, "ends": ends, **how}
        for (times, how), at in zip(grids, levels, strict=True)
    ]
    record = {"format": FORMAT, "version": VERSION, **about, "grids": found}
    files.write(path, json.dumps({**record, DIGEST: digest_of(record)}, indent=1) + "\n")


@attrs.frozen(eq=False)
class Stored:
    """N + 1 times with what else a file says of them."""

    times: Tensor
    levels: Tensor
    ends: list[float]
    weights: list[list[float]]

    @classmethod
    def of(cls, one: Mapping[str, Any]) -> Self:
        """From a mapping of a file; ValueError where its parts are not of one length."""
        times, levels = (torch.asarray(one[key], dtype=torch.float64) for key in ("times", "levels"))
        weights = [[float(w) for w in row] for row in one.get("weights", ())]
        rows = [len(row) for row in weights]
        if (
            times.ndim != 1
            or levels.shape != (len(times) - 2,)
            or (rows and (len(rows) != len(levels) + 1 or not all(rows[1:])))
        ):
            raise ValueError("its times, levels and weights are not of one length")
        return cls(times, levels, one.get("ends", times[[0, -2]].tolist()), weights)


def read(path: Path) -> dict[int, Stored]:
    """What is in a file by the number of steps; :class:`FileError` if it cannot be used."""
    with inputs.reading(path, "a grid of scoresde tune-grid") as file:
        record = inputs.loads(inputs.text(file))
        if not isinstance(record, dict) or record.get("format") != FORMAT or record["version"] > VERSION:
            raise ValueError(f"its format is not {FORMAT}, version {VERSION} or before")
        if record.get(DIGEST) != digest_of(record):
            raise ValueError("its digest does not match its content: tune it again")
        return {len(each.times) - 1: each for each in map(Stored.of, record["grids"])}


@attrs.frozen
class FileGrid(Grid):
    """Tuned times from a file, for its process and its numbers of steps; any predictor may take them.

    The last but one may lie above t_min: the last step then leads from there to the data.
    """

    @staticmethod
    def example(folder: Path) -> dict[str, str]:
        """A file of two evenly spaced grids, for the conformance suite."""
        write(folder / "grid.json", VPSDE(), [(UniformGrid().times(VPSDE(), steps), {}) for steps in (3, 10)])
        return {"path": str(folder / "grid.json")}

    path: str = param(help="a file of scoresde tune-grid, in the folder of the checkpoint if one is given")
    checkpoint: str | None = param(None, "folder or name of the checkpoint that carries the file")
    registry: Registry = handed_registry()

    def __attrs_post_init__(self) -> None:
        self.stored  # noqa: B018  # refuse an unusable file before any work starts

    def files(self) -> list[Path]:
        """The file, whose content counts for a result."""
        carrier = self.checkpoint and checkpoint.find(self.checkpoint, self.registry).folder
        return [Path(carrier or "", self.path)]

    @cached_property
    def stored(self) -> dict[int, Stored]:
        """What the file has, by the number of steps."""
        return read(*self.files())

    @property
    def counts(self) -> tuple[int, ...]:  # type: ignore[override]
        """The numbers of steps in the file."""
        return tuple(self.stored)

    def times(self, sde: SDE, steps: int) -> Tensor:
        if reason := self.skip_steps(sde, steps):
            raise ValueError(reason)
        return self.stored[steps].times.clone()

    def skip(self, sde: SDE) -> str | None:
        """Refuse a process with other ends or another sigma / alpha at the times."""
        for one in self.stored.values():
            same = sde.form != "nonlinear" and one.ends == [sde.t_max, sde.t_min]
            if not same or not torch.allclose(sde.log_noise_ratio(one.times[1:-1]), one.levels, rtol=0, atol=1e-6):
                return f"{self} has times of another process than {sde!r}: tune a grid for this one"
        return None
