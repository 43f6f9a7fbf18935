"""No fixed-step sampler's loop waits for its device: run on tensors that have no values, it never asks for one.

A tensor on torch's ``meta`` device has a shape and a type alone; whatever would make the host wait for a GPU (a tensor
turned into a number, an ``if`` on one, a mask as an index, a copy to the host) raises there.
"""

import pytest
import torch

from scoresde_core import ConditionedSampler, ScoreModel, create, default_registry
from scoresde_core.noise import Noise
from scoresde_plugins.conditions import smcdiff
from scoresde_plugins.score_sde.runge_kutta import FIXED

SHAPE = (3, 4, 4)
PREDICTORS = [entry.row.name for entry in default_registry().entries("predictors") if entry.row.name != "none"]
CORRECTORS = [entry.row.name for entry in default_registry().entries("correctors")]
GRIDS = [entry.row.name for entry in default_registry().entries("grids")]


class WithoutValues(ScoreModel):
    """-x, of which only the shape matters."""

    def evaluate(self, x, level):
        return -x


class SilentNoise(Noise):
    """Draws tensors without values."""

    def __init__(self, count):
        super().__init__(0, SHAPE, count)

    def draw(self, step, purpose, draw=0):
        return torch.empty(self.count, *self.shape, device="meta")

    uniform = draw


def run(text, sde="vp"):
    sampler, process = create("samplers", text), create("sdes", sde)
    assert sampler.skip(process) is None
    noise = SilentNoise(2)
    x = sampler.run(noise.draw("prior", "prior"), WithoutValues(), process, noise)
    assert x.shape == (2, *SHAPE)
    assert x.device.type == "meta"


@pytest.mark.parametrize("corrector", CORRECTORS)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_every_predictor_with_every_corrector(predictor, corrector):
    run(f"pc[predictor={predictor},corrector={corrector},steps=20]")


@pytest.mark.parametrize("sde", ["ve", "subvp", "linear_ve"])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_under_every_sde(grid, sde):
    run(f"pc[predictor=ddim,corrector=langevin,grid={grid},steps=20]", sde)


@pytest.mark.parametrize("order", ["corrector_first", "predictor_first"])
@pytest.mark.parametrize("norm", ["batch", "sample"])
def test_options_that_move_the_corrector(order, norm):
    run(f"pc[predictor=reverse_diffusion,corrector=langevin[norm={norm},n_steps=2],order={order},steps=5]")


@pytest.mark.parametrize("method", sorted(FIXED))
def test_fixed_steps_of_the_probability_flow(method):
    run(f"ode[method={method},steps=5]")


@pytest.mark.parametrize("condition", ["inpaint", "colorize", "linear", "smcdiff", "smcdiff[condition=colorize]"])
def test_conditions(condition, monkeypatch):
    monkeypatch.setattr(smcdiff, "Noise", lambda seed, shape, count, **more: SilentNoise(count))
    observed = create("conditions", condition).observe(torch.zeros(2, *SHAPE)).to(torch.empty(0, device="meta"))
    process, noise = create("sdes", "vp"), SilentNoise(2)
    noise.device = torch.device("meta")
    for text in ("pc[predictor=dpmpp_2m_sde,corrector=langevin,steps=5]", "pc[predictor=unipc,steps=5]"):
        sampler = ConditionedSampler(create("samplers", text), observed, rounds=2)
        x = sampler.run(noise.draw("prior", "prior"), WithoutValues(), process, noise)
        assert x.shape == (2, *SHAPE)
        assert x.device.type == "meta"


WAITS = {
    "number": lambda x: float(x.sum()),
    "condition": lambda x: bool((x > 0).any()),
    "mask": lambda x: x[x > 0],
    "copy": lambda x: x.cpu(),
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("ask", WAITS.values(), ids=WAITS)
def test_a_loop_that_waits_would_be_noticed(ask):
    class Asking(WithoutValues):
        def evaluate(self, x, level):
            ask(x)
            return -x

    noise = SilentNoise(2)
    with pytest.raises((RuntimeError, NotImplementedError)):
        create("samplers", "pc[steps=2]").run(noise.draw("prior", "prior"), Asking(), create("sdes", "vp"), noise)
