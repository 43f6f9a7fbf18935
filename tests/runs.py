"""What tests of the bench share: the rows of a run, and a small learned model to run."""

import json
from pathlib import Path


def rows_in(folder: Path) -> list[dict]:
    """Every line of its results, in order."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


DENOISER = "mlp[width=8,depth=1,parameterisation=denoised]"
"""A network whose samples stay near the scale of the data though it is not trained."""


def save_models(folder: Path, *names: str, sde: str = "vp", network: str = "mlp[width=8,depth=1]") -> None:
    """Checkpoints of a small network for points in the plane, of different weights, and its preset ``points.yaml``."""
    from scoresde_core.registry import load_registry
    from scoresde_run.models import checkpoint
    from scoresde_run.models.config import Config
    from scoresde_run.models.model import plan_model

    text = f"format: 1\nmodel: {{network: '{network}', sde: '{sde}', shape: [2]}}\n"
    (folder / "points.yaml").write_text(text)
    plan = plan_model(Config.read(folder, "points.yaml"), load_registry())
    for seed, name in enumerate(names):
        checkpoint.save(folder / name, plan.config, plan.build(seed).network.state_dict())
