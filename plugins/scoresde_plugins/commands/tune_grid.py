"""``scoresde tune-grid``: times of N steps for one predictor, process and score, as a file for ``--grid``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from scoresde_core import SDE, Command, Predictor, Registry, UsageError
from scoresde_run.commands.opened import OpenedModel, open_model
from scoresde_run.commands.options import add_model, add_shared, check_counts

FIXED = ("uniform", "quadratic", "logsnr", "karras", "ays[model=sd15]", "ays[model=sdxl]", "ays[model=svd]")
NOISES = {"ends": 32, "law": 128, "density": 1024}


@attrs.frozen
class TuneGridCommand(Command):
    """Moves the times of the best fixed grid until its ends, or their law, are near those of a fine solution.

    The error is measured on other noises than the times are tuned on, and the fixed times stay if it is not lower.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add_model(parser)
        add = parser.add_argument
        add("--predictor", required=True, metavar="X", help="a predictor without noise, such as dpmpp_2m")
        add("--steps", type=int, nargs="+", default=[5], metavar="N", help="numbers of steps, a grid each (default: 5)")
        text = "descent through the solver on times, or on weights as well, or dynamic programming (default: gradient)"
        add("--method", default="gradient", choices=("gradient", "weights", "dp"), help=text)
        text = "bring each end near the fine one of its noise, all to their law too, or to its density (default: ends)"
        add("--match", default="ends", choices=(*NOISES,), help=text)
        text = "noises to tune on, and to measure on (default: 32; 128 for law, 1024 for density)"
        add("--starts", type=int, metavar="N", help=text)
        text = "begin with the weights of this file, of any process, and its times at the same sigma / alpha"
        add("--from", type=Path, dest="begin", metavar="FILE", help=text)
        add("--out", type=Path, required=True, metavar="FILE", help="the .json file to make")
        add_shared(parser, "device", seed="seed of the noises (default: 0)")

    def run(self, arguments: argparse.Namespace, registry: Registry) -> int:
        arguments.starts = NOISES[arguments.match] if arguments.starts is None else arguments.starts
        check_counts(arguments, "starts", least=2)
        if not 3 <= min(arguments.steps) <= max(arguments.steps) <= 1000:
            raise UsageError(f"--steps must be from 3, for a time between the ends, to 1000, got {arguments.steps}")

        from scoresde_core import sampler as sampling
        from scoresde_run.machine.device import find_device, keep_freed_memory
        from scoresde_run.machine.files import check_new
        from ..few_steps.grid_file import write
        from ..few_steps.grid_search import refusal
        from ..song2021.samplers import PredictorCorrectorSampler

        check_new(arguments.out)
        keep_freed_memory()
        predictor = registry.create("predictors", arguments.predictor)
        opened = open_model(arguments, registry, find_device(arguments.device))
        sampler = PredictorCorrectorSampler(predictor, steps=min(arguments.steps))
        reason = sampling.skip(sampler, opened.sde, opened.shape)
        if reason := reason or refusal(opened.sde, predictor, arguments.method):
            raise UsageError(reason)
        if arguments.match == "density":
            if opened.target is None or opened.sde.needs:
                raise UsageError("--match density needs the density of a --target, not given y: take ends or law")
            opened.target.entropy()  # which refuses points
        about = {name: getattr(arguments, name) for name in ("predictor", "method", "match", "starts", "seed")}
        about |= {"model": opened.origin, "process": str(registry.typed(opened.sde))}
        about["from"] = arguments.begin and arguments.begin.name
        write(arguments.out, opened.sde, [*_tuned(opened, predictor, _begun(arguments, opened.sde))], **about)
        use = f"--predictor {arguments.predictor} --grid 'file[path={arguments.out}]'"
        if arguments.method == "weights":
            use = f"--sampler 'tuned[path={arguments.out},steps={arguments.steps[0]}]'"
        print(f"wrote {arguments.out}: {use}")
        return 0


def _begun(arguments: argparse.Namespace, sde: SDE) -> dict[int, Any]:
    """The times and weights of the file ``--from`` for each number of steps."""
    if arguments.begin is None:
        return {}
    from ..few_steps import grid_file, grid_search

    found = {n: one for n, one in grid_file.read(arguments.begin).items() if one.weights}
    if arguments.method != "weights":
        raise UsageError("--from goes on from weights: take --method weights")
    for steps in arguments.steps:
        if steps not in found:
            raise UsageError(f"{arguments.begin} has no weights of {steps} steps")
        if (found[steps].weights[0] == []) != (sde.t_signal < sde.t_max):
            raise UsageError(f"{arguments.begin} is of a process with another start: signal at t_max, or noise alone")
    return {n: (grid_search.times_at(one.levels, sde), one.weights) for n, one in found.items()}


def _tuned(opened: OpenedModel, predictor: Predictor, begun: dict[int, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Tune and report one number of steps after another."""
    import torch
    from scoresde_run.machine.progress import Progress
    from ..few_steps import grid_search

    arguments, sde, n = opened.arguments, opened.sde, opened.arguments.starts
    if opened.plan is not None:
        opened.score.network.requires_grad_(False)  # type: ignore[attr-defined]
    given, like = (opened.score, predictor, n, arguments.seed), torch.zeros(0, device=opened.device)
    own, other = (grid_search.Problem.draw(*given, first, like, arguments.match) for first in (0, n))
    grids = {name: opened.registry.create("grids", name) for name in FIXED}
    for steps in dict.fromkeys(arguments.steps):
        fit = [name for name in FIXED if not predictor.skip_times(sde, grids[name], steps)]
        fixed = {name: grids[name].times(sde, steps) for name in fit}
        best = min(fixed, key=lambda name: own.error(fixed[name]).value)
        above = [grids[name].times(sde, steps + 1)[[*range(steps), -1]] for name in fit]  # end a level above t_min
        starts = [fixed[best], min(above, key=lambda times: own.error(times).value)]
        with Progress() as progress:
            trials = list[float]()

            def tell(error: float) -> None:
                trials.append(error)  # noqa: B023
                text = f"{steps} steps, error {min(trials):.4f}"  # noqa: B023
                total = 2 * grid_search.MOST + (arguments.method == "weights") * 3 * grid_search.MORE
                progress.show(text, len(trials), total, f"{text} after {len(trials)} trials")  # noqa: B023

            if steps in begun:
                found = grid_search.weighted(own, begun[steps], tell)[1:]
            else:
                found = getattr(grid_search, arguments.method)(own, starts, tell)
        yield _chosen(other, best, fixed[best], *found)


def _chosen(other: Any, best: str, fixed: Any, tuned: Any, predictor: Any) -> tuple[Any, dict[str, Any]]:
    """The tuned times if they are shown to be better than fixed ones on ``other`` noises, else these."""
    from scoresde_core import Schedule
    from scoresde_run.results.certainty import ALPHA, mean, p_below
    from ..few_steps.tuned import rows_of

    parts = other.measured(fixed), attrs.evolve(other, predictor=predictor).measured(tuned)
    before, after, change = map(mean, (*parts, [b - a for a, b in zip(*parts, strict=True)]))
    count, keep = f"{len(fixed) - 1} steps", not p_below(change, 0.0) < ALPHA
    told = " to ".join(f"{one.value:.4f} ± {one.stderr:.4f}" for one in (before, after))
    print(f"{count}: error on other noises from {told}, from the grid {best}")
    if keep:
        why = f"tuned times are not shown to be better (change {change.value:+.4f} ± {change.stderr:.4f})"
        print(f"{count}: {why}: the file has those of {best}; try more --starts", file=sys.stderr)
    times = fixed if keep else tuned
    print("times " + " ".join(f"{t:.4g}" for t in times.tolist()))
    errors: dict[str, Any] = {"before": [before.value, before.stderr], "after": [after.value, after.stderr]}
    if predictor is not other.predictor:
        steps = Schedule(other.model.sde, times).steps
        errors["weights"] = rows_of(other.predictor, steps) if keep else predictor.rows
    return times, {"start": best, **errors, "kept": keep}
