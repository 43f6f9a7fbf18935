"""The presets against the published configuration files: every field that the published code reads.

``published_presets.csv`` holds a row for each of the 39 files of score_sde_pytorch (commit cb1f359) and the 8 of
ScoreFlow (commit 1db7922), with the fields under their published names. A cell is empty where the file has no such
field, or where nothing reads it: a VE model has no beta, a sampler without corrector no signal-to-noise ratio. Smallest
times that stand in the published code rather than in its files are in the table like the others.
"""

import csv
from pathlib import Path

import pytest
from scoresde_core.components import Spec
from scoresde_core.registry import load_registry
from scoresde_run.models.model import plan_loss, plan_model

REGISTRY = load_registry()
with Path(__file__).with_name("published_presets.csv").open() as _file:
    ROWS = {row.pop("preset"): row for row in csv.DictReader(_file)}

DATASETS = {
    "CIFAR10": "cifar10", "CELEBA": "celeba", "LSUN": "lsun", "FFHQ": "ffhq", "CelebAHQ": "celebahq",
    "ImageNet": "imagenet32",
}  # fmt: skip

# What the files say and do not mean; the presets tell of it in their quirks.
MEANT = {
    ("ve_ncsn_celeba", "training.sde"): "vesde",
    ("ve_ncsnv2_bedroom", "training.continuous"): False,
    ("ve_ncsnv2_bedroom", "training.smallest_time"): None,
}

LOSSES = {
    **{(sde, True): "DenoisingScoreMatchingLoss" for sde in ("vp", "subvp", "ve")},
    ("ve", False): "SMLDLoss",
    ("vp", False): "DDPMLoss",
}
LABELS = {("ve", True): "sigma", ("ve", False): "reverse_index", ("vp", True): "time", ("vp", False): "index"}


def read(cell):
    """A cell of the table as a value; several numbers are a tuple."""
    if cell in ("True", "False"):
        return cell == "True"
    try:
        numbers = tuple(float(word) for word in cell.split())
    except ValueError:
        return cell
    return numbers if len(numbers) > 1 else numbers[0]


def alone(values):
    """A sequence as :func:`read` gives it."""
    return tuple(values) if len(values) > 1 else values[0]


def name_of(spec):
    return spec.name if isinstance(spec, Spec) else str(spec)


def found(name):
    """The preset ``name`` in the words of the published files."""
    config = REGISTRY.create("presets", name)
    plan = plan_model(config, REGISTRY)
    network, sde, sampler, loss = plan.network, plan.sde, plan.sampler, plan_loss(plan, REGISTRY)
    training, data, evaluation = config.training, config.data, config.evaluation
    published = {
        "seed": training.seed,
        "training.sde": f"{config.model.sde.name}sde",
        "training.batch_size": training.batch_size,
        "training.n_iters": training.iterations,
        "training.log_freq": training.log_every,
        "training.eval_freq": training.evaluate_every,
        "training.snapshot_freq": training.snapshot_every,
        "training.snapshot_freq_for_preemption": training.resume_every,
        "training.continuous": network.label in ("time", "sigma"),
        "training.reduce_mean": loss.reduction == "mean",
        "training.likelihood_weighting": getattr(loss, "weighting", "sigma") == "likelihood",
        "training.smallest_time": getattr(loss, "t_min", None),
        "optim.optimizer": training.optimizer.capitalize(),
        "optim.lr": training.learning_rate,
        "optim.beta1": training.betas[0],
        "optim.eps": training.adam_eps,
        "optim.weight_decay": training.weight_decay,
        "optim.warmup": training.warmup,
        "optim.grad_clip": -1 if training.gradient_clip is None else training.gradient_clip,
        "data.dataset": next(k for k, v in DATASETS.items() if v == data.dataset.name),
        "data.category": data.dataset.params.get("category"),
        "data.image_size": config.model.shape[1],
        "data.num_channels": config.model.shape[0],
        "data.centered": network.centered,
        "data.random_flip": data.random_flip,
        "data.uniform_dequantization": data.dequantizer is not None,
        "model.ema_rate": training.ema or 0,
        "model.num_scales": network.scales,
        "sampling.method": config.sampling.sampler.name,
        "sampling.noise_removal": sampler.denoise,
        "sampling.smallest_time": sde.t_min,
        "eval.begin_ckpt": evaluation.first_checkpoint,
        "eval.end_ckpt": evaluation.last_checkpoint,
        "eval.batch_size": evaluation.batch_size,
        "eval.num_samples": evaluation.samples,
        "eval.enable_bpd": evaluation.likelihood,
        "eval.bpd_dataset": evaluation.split,
        "eval.num_repeats": evaluation.repeats,
        "eval.offset": evaluation.offset,
    }
    return published | of_network(config, network) | of_sde(sde) | of_sampler(config, sampler)


def of_network(config, network):
    variant = getattr(network, "variant", None)
    fields = {
        "name": config.model.network.name + (f"_{variant}" if variant else ""),
        "embedding_type": getattr(network, "embedding", None),
        "scale_by_sigma": getattr(network, "divides_by_sigma", getattr(network, "scale_by_sigma", None)),
    }
    fields |= {
        field: getattr(network, field, None)
        for field in (
            "nf", "num_res_blocks", "dropout", "resamp_with_conv", "conditional", "nonlinearity", "fir", "skip_rescale",
            "resblock_type", "progressive", "progressive_input", "progressive_combine", "fourier_scale", "init_scale",
        )
    }  # fmt: skip
    fields |= {field: alone(getattr(network, field, [None])) for field in ("ch_mult", "attn_resolutions", "fir_kernel")}
    return {f"model.{field}": value for field, value in fields.items()}


def of_sde(sde):
    return {f"model.{name}": getattr(sde, name, None) for name in ("sigma_min", "sigma_max", "beta_min", "beta_max")}


def of_sampler(config, sampler):
    if config.sampling.sampler.name != "pc":
        return {}
    return {
        "sampling.predictor": name_of(config.sampling.sampler.params["predictor"]),
        "sampling.corrector": name_of(config.sampling.sampler.params["corrector"]),
        "sampling.probability_flow": getattr(sampler.predictor, "probability_flow", False),
        "sampling.n_steps_each": getattr(sampler.corrector, "n_steps", None),
        "sampling.snr": getattr(sampler.corrector, "snr", None),
    }


def test_the_table_is_whole():
    """Every preset that names a published file has its row."""
    published = [
        entry.row.name
        for entry in REGISTRY.entries("presets")
        if REGISTRY.create("presets", entry.row.name).source.startswith(("score_sde_pytorch", "score_flow"))
    ]
    assert sorted(ROWS) == sorted(published)
    assert len(ROWS) == 39 + 8
    assert all(len(row) == len(next(iter(ROWS.values()))) == 68 for row in ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_every_field_is_the_published_one(name):
    ours, row = found(name), {field: read(cell) for field, cell in ROWS[name].items() if cell}
    meant = {field: MEANT.get((name, field), value) for field, value in row.items()}
    assert {field: ours[field] for field in meant} == meant
    assert len(meant) >= 40


@pytest.mark.parametrize("name", ROWS)
def test_what_the_fields_decide(name):
    """They determine the parameterisation, the loss, the steps, and the range of the data."""
    config = REGISTRY.create("presets", name)
    plan = plan_model(config, REGISTRY)
    sde, continuous = config.model.sde.name, plan.network.label in ("time", "sigma")
    assert plan.network.label == LABELS[sde.removeprefix("sub"), continuous]
    assert plan.network.parameterisation == ("score" if sde == "ve" else "noise")
    assert type(plan_loss(plan, REGISTRY)).__name__ == LOSSES[sde, continuous]
    assert config.model.centered is plan.network.centered is (sde != "ve")
    if config.sampling.sampler.name == "pc":
        assert plan.sampler.steps == plan.network.scales
    # The published PyTorch code warms its averages up, its JAX code does not.
    assert config.training.ema_warmup is name.startswith(("vp", "ve", "subvp"))


@pytest.mark.parametrize(
    ("name", "sde", "label", "loss", "predictor", "corrector"),
    [
        ("vp_discrete", "vp", "index", "DDPMLoss", "AncestralSampling", "None"),
        ("vp_continuous", "vp", "time", "DenoisingScoreMatchingLoss", "EulerMaruyama", "None"),
        ("subvp", "subvp", "time", "DenoisingScoreMatchingLoss", "ReverseDiffusion", "Langevin"),
    ],
)
def test_the_lessons_of_xdiffusion(name, sde, label, loss, predictor, corrector):
    """Three pairs of a process and a sampler; Adam(2e-4, 0.9, 0.99), norm clipped at 1, 10,000 steps, no averages."""
    config = REGISTRY.create("presets", f"xdiffusion_mnist_{name}")
    plan, training = plan_model(config, REGISTRY), config.training
    assert (config.model.sde.name, plan.network.label, plan.shape) == (sde, label, (1, 32, 32))
    assert (plan.sde.beta_min, plan.sde.beta_max, plan.sde.t_min) == (0.1, 20, 1e-3)
    assert (plan.network.nf, plan.network.ch_mult, plan.network.num_res_blocks) == (128, (1, 2, 2, 2), 2)
    assert (plan.network.attn_resolutions, plan.network.dropout, plan.network.scales) == ((16,), 0.1, 1000)
    assert (training.learning_rate, training.betas, training.warmup) == (2e-4, (0.9, 0.99), 0)
    assert (training.gradient_clip, training.ema, training.iterations) == (1, None, 10_000)
    assert (training.resume_every, training.snapshot_every, config.data.random_flip) == (1000, 1000, False)
    found_loss = plan_loss(plan, REGISTRY)
    assert (type(found_loss).__name__, found_loss.reduction) == (loss, "mean")
    assert type(plan.sampler.predictor).__name__ == f"{predictor}Predictor"
    assert type(plan.sampler.corrector).__name__ == f"{corrector}Corrector"
    assert plan.sampler.steps == 1000
    if corrector == "Langevin":
        assert (plan.sampler.corrector.snr, plan.sampler.corrector.n_steps) == (0.16, 1)
