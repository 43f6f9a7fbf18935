"""Steps of tensors with one value per row: every row follows its own schedule of floats."""

import attrs
import pytest
import torch
from scoresde_core import ExactScore, Schedule, create, default_registry
from scoresde_core.schedule import Step
from scoresde_core.sde import Level

SDES = ("ve", "vp", "subvp", "linear_ve")
GRIDS = ("uniform", "karras", "logsnr", "quadratic")
NAMES = sorted(entry.row.name for entry in default_registry().entries("predictors") if entry.owner == "scoresde")
VARIANTS = (
    *("unipc[variant=bh1]", "unipc[correct=false]", "unipc[max_order=2]", "dpmpp_3m[corrected=true]"),
    *("deis[variant=rhoab]", "deis[max_order=4]", "heun[s_churn=3]", "ddim[eta=1]", "dpmpp_2m_sde[eta=0.5]"),
    *(
        "seeds[stages=3]",
        "seeds[stages=1,eta=0.3]",
        "er_sde[scale=ode]",
        "sa_solver[s_min=0.05,s_max=1]",
        "sa_solver[tau=0]",
    ),
    "sa_solver[max_order=2,corrector_order=2]",
)
COUNT = 8
LEVELS = ("now", "next")
NUMBERS = [f.name for f in attrs.fields(Step) if f.name not in ("index", "count", *LEVELS, "sde")]
DRAWS = torch.randn(COUNT, len(GRIDS), 1, 3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Gaussian:
    """N(0.5, 0.3^2)."""

    def score(self, x, level):
        return (0.5 * level.alpha - x) / (0.09 * level.alpha**2 + level.sigma**2)


def column(values, dtype):
    return torch.tensor(values, dtype=dtype).reshape(-1, 1, 1, 1)


def stack(steps, dtype=torch.float64):
    """The steps of several schedules as one: row r has the numbers of the r-th; times stay float64."""
    levels = {
        which: Level(
            column([getattr(step, which).t for step in steps], torch.float64),
            *(column([getattr(getattr(step, which), name) for step in steps], dtype) for name in ("alpha", "sigma")),
        )
        for which in LEVELS
    }
    numbers = {name: column([getattr(step, name) for step in steps], dtype) for name in NUMBERS}
    return Step(steps[0].index, steps[0].count, **levels, **numbers, sde=steps[0].sde)


def together(name, schedules, x):
    """States and means after each step of one run of all rows."""
    predictor, past, states = create("predictors", name), (), []
    for k, steps in enumerate(zip(*(schedule.steps for schedule in schedules), strict=True)):
        draw = DRAWS[k].to(x.dtype).clone
        x, mean, past = predictor.advance(x, stack(steps, x.dtype), ExactScore(Gaussian()), draw, past)
        states.append((x, mean))
    return states


def apart(name, schedules, x):
    """States and means of a run of each row by itself."""
    states = []
    for row, schedule in enumerate(schedules):
        predictor, alone, past = create("predictors", name), x[row : row + 1], ()
        states.append([])
        for k, step in enumerate(schedule.steps):
            draw = DRAWS[k, row : row + 1].to(x.dtype).clone
            alone, mean, past = predictor.advance(alone, step, ExactScore(Gaussian()), draw, past)
            states[-1].append((alone, mean))
    return [tuple(torch.cat(parts) for parts in zip(*rows, strict=True)) for rows in zip(*states, strict=True)]


def compare(name, schedules, tolerance, dtype=torch.float64):
    x = schedules[0][0].now.sigma * torch.linspace(-2, 2, 6 * len(schedules), dtype=dtype).reshape(-1, 1, 3, 2)
    for found, expected in zip(together(name, schedules, x), apart(name, schedules, x), strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            assert ours.shape == x.shape
            assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("name", [*NAMES, *VARIANTS])
def test_a_whole_run_with_one_grid_per_row(name, sde):
    """From t = 1 to the data, which all rows reach in the last step."""
    process = create("sdes", sde)
    schedules = [Schedule(process, create("grids", grid).times(process, COUNT)) for grid in GRIDS]
    compare(name, schedules, 1e-9)


@pytest.mark.parametrize("name", [*NAMES, *VARIANTS])
def test_rows_that_reach_the_data_beside_rows_that_do_not(name):
    process = create("sdes", "vp")
    grids = [create("grids", grid).times(process, COUNT) for grid in GRIDS]
    ends = [times if row % 2 else torch.cat([times[:-1], times[-2:-1] / 2]) for row, times in enumerate(grids)]
    compare(name, [Schedule(process, times) for times in ends], 1e-9)


@pytest.mark.parametrize("name", [*NAMES, *VARIANTS])
def test_numbers_in_the_precision_of_the_state(name):
    """alpha and sigma in float32, as from :func:`scoresde_core.score.level_of`: only their rounding differs."""
    process = create("sdes", "vp[t_min=0.1]")
    schedules = [Schedule(process, create("grids", grid).times(process, COUNT)) for grid in GRIDS]
    compare(name, schedules, 1e-4, torch.float32)
