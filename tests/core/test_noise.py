"""Noise is a function of (seed, sample index, step, purpose), however the samples are batched."""

import sys

import pytest
import torch
from scoresde_core.noise import Noise


@pytest.mark.parametrize("shape", [(2,), (1, 29, 29), (3, 65, 65), ()], ids=str)
def test_a_sample_does_not_depend_on_its_batch(shape):
    whole = Noise(7, shape, 150).draw(3, "predictor")
    parts = [Noise(7, shape, n, start=s).draw(3, "predictor") for s, n in ((0, 1), (1, 62), (63, 62), (125, 25))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_threads_fill_the_blocks_with_the_same_numbers(mode):
    noise, before = Noise(7, (1, 29, 29), 700, start=5), torch.get_num_threads()
    with mode():
        drawn = []
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                drawn.append([noise.draw(3, "predictor"), noise.uniform(3, "predictor")])
        finally:
            torch.set_num_threads(before)
        assert all(map(torch.equal, *drawn))


@pytest.mark.parametrize("other", [dict(seed=8), dict(step=4), dict(purpose="corrector"), dict(draw=1)], ids=str)
def test_every_part_of_the_key_matters(other):
    first = dict(seed=7, step=3, purpose="predictor", draw=0)
    draws = [Noise(k.pop("seed"), (784,), 40).draw(**k) for k in (dict(first), {**first, **other})]
    correlation = torch.corrcoef(torch.stack([d.flatten() for d in draws]))[0, 1]
    assert abs(correlation) < 4 / (40 * 784) ** 0.5


def test_blocks_are_independent_of_each_other():
    noise = Noise(0, (784,), 4)
    x = Noise(0, (784,), 2 * noise.block).draw(0, "prior")
    correlation = torch.corrcoef(torch.stack([x[: noise.block].flatten(), x[noise.block :].flatten()]))[0, 1]
    assert abs(correlation) < 4 / x[: noise.block].numel() ** 0.5


def test_it_is_standard_normal():
    x = Noise(1, (1000,), 1000).draw(0, "prior").double()
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.square().mean() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_successive_draws_of_a_step_differ():
    draw = Noise(0, (5,), 3).at(0, "corrector")
    assert not torch.equal(draw(), draw())


def test_memory_is_kept_on_linux_and_nothing_breaks_elsewhere():
    from scoresde_run.machine.device import keep_freed_memory

    assert keep_freed_memory() is (sys.platform == "linux")
