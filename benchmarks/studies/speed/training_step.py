"""Measures time and memory of a whole training step: forward, loss, backward, clipping, Adam, averaging.

    python benchmarks/studies/speed/training_step.py --threads 2 --published ~/score_sde_pytorch
    python benchmarks/studies/speed/training_step.py --nf 32 --memory 128
    python benchmarks/studies/speed/training_step.py --device cuda --nf 128 --batch 128 --memory 128 --published DIR

NCSN++ of continuous time on random 32x32 images, as in ve_cifar10_ncsnpp_continuous, with ``--nf`` channels. Ours is
the step of ``scoresde train``; the published step is that of a checkout (published.py), with the same weights. The
steps run in turn, so that a busy machine slows all alike. Averaging the weights is also timed by itself. ``--memory
BATCH`` runs each step in its own process and prints the peak memory, allocated by CUDA or, on a CPU,
held by the process.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from typing import Any

import attrs
import torch
from published import Checkout
from side_by_side import Measured, in_turn, options_of, prepare
from torch import Tensor, nn

from scoresde import Processes, Trainer
from scoresde_core import default_registry
from scoresde_run.data.batches import Preprocessing
from scoresde_run.data.dataset import Dataset, Split
from scoresde_run.machine.environment import describe_device, peak_memory
from scoresde_run.models.model import plan_loss, plan_model
from scoresde_run.training.trainer import Average, TrainingPlan

PRESET, PUBLISHED = "ve_cifar10_ncsnpp_continuous", "configs.ve.cifar10_ncsnpp_continuous"
SHAPE = (3, 32, 32)
FAST = ("training.precision=bfloat16", "training.channels_last=true", "training.compile=true")
RECOMPUTE = "model.network.recompute=true"


@attrs.frozen
class RandomImages(Dataset):
    """Noise images of the size of CIFAR-10."""

    number: int

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    def load(self, split: Split = "train") -> Tensor:
        return torch.randint(256, (self.number, *SHAPE), dtype=torch.uint8)


def our_trainer(nf: int, batch: int, device: torch.device, changes: tuple[str, ...] = ()) -> Trainer:
    """The trainer of the preset with ``nf`` channels and ``changes``."""
    registry = default_registry()
    settings = [f"model.network.nf={nf}", f"training.batch_size={batch}", "training.evaluate_every=null", *changes]
    plan = plan_model(registry.create("presets", PRESET).override(settings), registry)
    data = RandomImages(4 * batch)
    return Trainer(
        TrainingPlan(plan, plan_loss(plan, registry), data, Preprocessing(centered=False, flip=True)), Processes(device)
    )


def our_step(trainer: Trainer) -> Callable[[], object]:
    """A function that runs the next step."""
    steps = trainer.steps()
    return lambda: next(steps)


def published_step(published: Checkout, nf: int, batch: int, ours: nn.Module) -> Callable[[], object]:
    """A function that runs the published step, starting with the weights of ``ours``."""
    config = published.config(PUBLISHED, {"model.nf": nf, "training.batch_size": batch})
    losses, sdes = published.module("losses"), published.module("sde_lib")
    network = published.network(config, ours)
    state = {
        "optimizer": losses.get_optimizer(config, network.parameters()),
        "model": network,
        "ema": published.module("models.ema").ExponentialMovingAverage(network.parameters(), config.model.ema_rate),
        "step": 0,
    }
    sde = sdes.VESDE(config.model.sigma_min, config.model.sigma_max, config.model.num_scales)
    step = losses.get_step_fn(
        sde,
        train=True,
        optimize_fn=losses.optimization_manager(config),
        reduce_mean=config.training.reduce_mean,
        continuous=True,
        likelihood_weighting=config.training.likelihood_weighting,
    )
    images = torch.rand(batch, *SHAPE, device=published.device)
    return lambda: step(state, images)


def steps_of(
    options: argparse.Namespace, device: torch.device, published: Checkout | None
) -> dict[str, Callable[[], object]]:
    """The steps to compare."""
    plain = our_trainer(options.nf, options.batch, device)
    steps = {"float32": our_step(plain)}
    if published is not None:
        steps = {"published code": published_step(published, options.nf, options.batch, plain.state.network), **steps}
    steps["recompute"] = our_step(our_trainer(options.nf, options.batch, device, (RECOMPUTE,)))
    if device.type == "cuda" or options.compile:
        steps["bf16 compiled"] = our_step(our_trainer(options.nf, options.batch, device, FAST))
    return steps


def averages_of(network: nn.Module, rate: float, published: Checkout | None) -> dict[str, Callable[[], object]]:
    """Updates of the averaged weights, ours and published."""
    number, average = count(1), Average(network, rate)
    updates: dict[str, Callable[[], object]] = {"ours": lambda: average.update(next(number))}
    if published is None:
        return updates
    theirs = published.module("models.ema").ExponentialMovingAverage(network.parameters(), rate)
    return {"published code": lambda: theirs.update(network.parameters()), **updates}


def step_memory(name: str, options: argparse.Namespace) -> tuple[int, int]:
    """Peak bytes before and after two steps of ``name``; call it in a new process."""
    device = prepare(options, keep_memory=False)
    published = Checkout(options.published, device) if name == "published code" else None
    changes = {"recompute": (RECOMPUTE,), "bf16 compiled": FAST, "bf16, recompute": (*FAST[:2], RECOMPUTE)}
    trainer = our_trainer(options.nf, options.memory, device, changes.get(name, ()))
    if published is None:
        step = our_step(trainer)
    else:
        step = published_step(published, options.nf, options.memory, trainer.state.network)
        del trainer
    before = peak_memory(device)
    for _ in range(2):  # the first creates Adam's state
        step()
    return before, peak_memory(device)


def main() -> None:
    options = _options()
    device = prepare(options)
    published = None if options.published is None else Checkout(options.published, device)
    print(f"NCSN++ with nf={options.nf}, 32x32, torch {torch.__version__}, {describe_device(device)}")
    if options.memory:
        _print_memory(options, device)
        return
    measured = in_turn(steps_of(options, device, published), device, options.repeat, warm_up=2)
    _print_times(f"step, batch {options.batch}", measured, options.batch)
    network = our_trainer(options.nf, options.batch, device).state.network
    measured = in_turn(averages_of(network, 0.999, published), device, 10 * options.repeat, warm_up=2)
    _print_times("update of the averages", measured)


def _print_times(title: str, measured: Mapping[str, Measured], images: int | None = None) -> None:
    print(f"\n{title:<26} {'fastest s':>10} {'median s':>10} {'images/s':>10} {'speed':>7} {'memory MiB':>11}")
    slowest = next((found.fastest for found in measured.values() if found.seconds), 0.0)
    for name, found in measured.items():
        if found.failure:
            print(f"{name:<26} {found.failure}")
            continue
        rate = f"{images / found.fastest:.1f}" if images else "-"
        memory = f"{found.memory / 2**20:.0f}" if found.memory else "-"
        speed = f"{slowest / found.fastest:.2f}x"
        print(f"{name:<26} {found.fastest:>10.4f} {found.median:>10.4f} {rate:>10} {speed:>7} {memory:>11}")


def _print_memory(options: argparse.Namespace, device: torch.device) -> None:
    names = ["published code"] if options.published else []
    names += ["float32", "recompute"]
    names += ["bf16 compiled", "bf16, recompute"] if device.type == "cuda" else []
    print(f"\n{f'peak, batch {options.memory}':<26} {'MiB':>10} {'before MiB':>11}")
    for name in names:
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                before, peak = alone.submit(step_memory, name, options).result()
        except (torch.OutOfMemoryError, BrokenProcessPool):
            print(f"{name:<26} out of memory")
            continue
        print(f"{name:<26} {peak / 2**20:>10.0f} {before / 2**20:>11.0f}")


def _options() -> Any:
    parser = options_of(__doc__ or "", published=True)
    parser.add_argument("--nf", type=int, default=32, help="channels of the finest level; 128 is the published model")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also time bf16 with torch.compile on a CPU")
    parser.add_argument("--memory", type=int, metavar="BATCH", help="measure only peak memory, at this batch size")
    return parser.parse_args()


if __name__ == "__main__":
    main()
