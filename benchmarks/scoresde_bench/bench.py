"""``scoresde.bench``: sweeps a score model in memory into the same rows, table and page as ``scoresde-bench``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoresde_core import ScoreModel, default_registry
from scoresde_run.results.results import Results
from .plan.cells import folder_of
from .plan.score_sources import in_memory
from .plan.suite import Block
from .plan.sweep import Sweep
from .run.executor import Executor, Settings
from .run.work import Work


def bench(
    model: ScoreModel, *, name: str = "model", target: str | None = None, predictors: Sequence[str] = (),
    correctors: Sequence[str] = (), samplers: Sequence[str] = (), grids: Sequence[str] = (),
    steps: Sequence[int] = (), seeds: Sequence[int] = (), evaluators: Sequence[str] = (),
    samples: int = 1024, batch_size: int | None = None, device: str = "cpu", out: str | Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Sample ``model``, which is on ``device``, with every combination, print the table, and return the rows.

    The axes are those of ``scoresde-bench``, with its defaults; ``target`` names the exact distribution that evaluators
    compare with. ``out`` is the folder of the rows, the report and the pictures; the same call goes on from what is
    there. ``UsageError`` for what ``scoresde-bench`` refuses.
    """
    registry = default_registry()
    exact = None if target is None else registry.create("targets", target)
    process = str(registry.typed(model.sde) or type(model.sde).__name__)
    names = {"target": target, "checkpoint": None, "network": name, "sde": process}
    source = in_memory(model, names, exact)
    axes = {"predictor": predictors, "corrector": correctors, "sampler": samplers, "grid": grids, "steps": steps,
            "seed": seeds, "evaluator": evaluators}  # fmt: skip
    asked = {axis: tuple(values) for axis, values in axes.items() if values}
    block = Block(asked, samples=samples, batch_size=batch_size)
    executor: Executor = registry.create("executors", "local")
    found = executor.device(device)
    cells = Sweep(registry, found, prepare=True, given=(source,)).cells([block], frozenset(asked))
    folder = folder_of(cells) if out is None else Path(out)
    settings = Settings(str(folder.absolute()), str(Path.cwd()), command=f"scoresde.bench({name})", device=found)
    Work(registry, cells, executor, settings, folder).run()
    rows = Results.peek(folder)
    return [rows[cell.key] for cell in cells]
