"""What a GPU would refuse or wait for, found without one (:mod:`pretended_device`).

Everything runs on one device, gives there what it gives on the CPU, and no fixed-step sampler's loop waits for it.
"""

import pytest
import torch
from pretended_device import Pretended, There
from scoresde import ConditionedSampler, Evidence, ExactScore, NetworkScore, create, default_registry
from scoresde_core.loss import Draws
from scoresde_core.noise import Noise
from scoresde_plugins.conditions.label import ClassObservation
from scoresde_plugins.likelihood.bits_per_dim import measure
from scoresde_plugins.likelihood.likelihood import BoundDensity, FlowDensity
from scoresde_plugins.numerics.encoding import decode, encode
from scoresde_plugins.numerics.runge_kutta import FIXED

REGISTRY = default_registry()


def names(kind):
    return [entry.row.name for entry in REGISTRY.entries(kind)]


@torch.no_grad()
def draw(sampler, model, shape=(2,), device=None):
    """Four samples on the CPU, or on the pretended device with the waits after the latents were drawn."""
    noise = Noise(3, shape, 4, device=device.name if device else "cpu")
    x = model.sde.prior.from_noise(noise.draw("prior", "prior"))
    if device is not None:
        device.waits.clear()
    assert sampler.skip(model.sde) is None
    return sampler.run(x, model, noise)


def check(text, sde="vp", target="mixture2d"):
    """The loop has no waits, and the samples equal those of the CPU."""
    sampler, exact = create("samplers", text), create("targets", target)
    expected = draw(sampler, ExactScore(exact, create("sdes", sde)), exact.shape)
    with Pretended() as device:
        found = draw(sampler, ExactScore(exact.to(device.name), create("sdes", sde)), exact.shape, device)
    assert device.waits == []
    assert torch.equal(found.held, expected)


@pytest.mark.parametrize("corrector", names("correctors"))
@pytest.mark.parametrize("predictor", [name for name in names("predictors") if name != "none"])
def test_every_predictor_with_every_corrector(predictor, corrector):
    check(f"pc[predictor={predictor},corrector={corrector},steps=8]")


@pytest.mark.parametrize("sde", ["ve", "subvp", "linear_ve"])
@pytest.mark.parametrize("grid", [name for name in names("grids") if name != "file"])  # which needs one
def test_every_grid_under_every_sde(grid, sde):
    check(f"pc[predictor=ddim,corrector=langevin,grid={grid},steps=8]", sde)


@pytest.mark.parametrize("order", ["corrector_first", "predictor_first"])
@pytest.mark.parametrize("norm", ["batch", "level"])
def test_options_that_move_the_corrector(order, norm):
    check(f"pc[predictor=reverse_diffusion,corrector=langevin[norm={norm},n_steps=2],order={order},steps=5]")


@pytest.mark.parametrize("method", sorted(FIXED))
def test_fixed_steps_of_the_probability_flow(method):
    check(f"ode[method={method},steps=5]")


def test_restart():
    check("restart[steps=5,intervals=[[2,1,0.06,3.0]]]")


EVENTS = "empirical[dataset=exact[target=mixture2d,count=50,test_count=1]]"


@pytest.mark.parametrize("target", ["gaussian", "mixture2d", "mnist_mfa", EVENTS])
def test_every_target(target):
    check("pc[corrector=langevin,steps=5]", target=target)


ADAPTIVE = ("ode[method=bosh3,rtol=1e-3,atol=1e-3]", "adaptive_sde[rel_tol=1,abs_tol=0.2]", "paradigms[window=4]")


@pytest.mark.parametrize("text", ADAPTIVE)
def test_adaptive_samplers_stay_on_the_device(text):
    sampler, exact = create("samplers", text), create("targets", "mixture2d")
    expected = draw(sampler, ExactScore(exact, create("sdes", "vp")))
    with Pretended() as device:
        found = draw(sampler, ExactScore(exact.to(device.name), create("sdes", "vp")), device=device)
    assert torch.equal(found.held, expected)


IMAGE = (3, 8, 8)
UNET = "nf=8,ch_mult=[1],num_res_blocks=1,attn_resolutions=[8]"
NETWORKS = {
    "ncsnpp": (f"ncsnpp[{UNET},fir=false]", "vp"),
    "ncsnpp of a VE SDE": (f"ncsnpp[{UNET},embedding_type=fourier,parameterisation=score,label=sigma]", "ve"),
    "ddpm": ("ddpm[nf=32,ch_mult=[1],num_res_blocks=1,attn_resolutions=[8],label=index]", "vp"),
    "ncsn": ("ncsn[nf=4,label=reverse_index]", "ve"),
    "ncsnv2": ("ncsnv2[nf=4]", "ve"),
    "unet": ("unet[nf=8,ch_mult=[1],num_res_blocks=1]", "vp"),
    "dit": ("dit[width=16,depth=1,heads=2,classes=3]", "vp"),
    "mlp": ("mlp[width=8]", "subvp"),
}


FOREIGN = {"module", "diffusers"}
"""Networks that run the code of others, who may wait for the device."""


@pytest.mark.parametrize("case", NETWORKS)
def test_every_network_is_sampled_without_a_wait(case):
    text, name = NETWORKS[case]
    sde, spec = create("sdes", name), create("networks", text)
    sampler, built = create("samplers", "pc[corrector=langevin,steps=3]"), spec.build(IMAGE).eval()
    expected = draw(sampler, spec.view(built, sde, IMAGE), IMAGE)
    with Pretended() as device:
        model = spec.view(built.to(device.name), sde, IMAGE)
        draw(sampler, model, IMAGE, device)  # which brings a table of noise scales to the device, once
        found = draw(sampler, model, IMAGE, device)
    assert device.waits == []
    torch.testing.assert_close(found.held, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))  # attention rounds


def test_every_network_is_here_or_guides():
    guides = {name for name in names("networks") if name.endswith("classifier")} | FOREIGN
    assert {case.partition(" ")[0] for case in NETWORKS} | guides == set(names("networks"))


class Denoiser(torch.nn.Module):
    """x times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, label):
        return self.weight * x


@pytest.mark.parametrize("name", [name for name in names("losses") if name != "classification"])
def test_every_loss_and_its_gradient(name):
    loss = create("losses", name)
    for process in ("vp", "subvp", "ve"):
        sde, network = create("sdes", process), Denoiser()
        model = NetworkScore(network, sde, parameterisation="noise", label="t")
        if loss.skip(model) is not None:
            continue
        x = torch.rand(4, *IMAGE)
        loss.per_sample(model, x, Draws(0, 1, 4)).sum().backward()
        with Pretended() as device:
            there, x = network.to(device.name), x.to(device.name)
            expected, there.weight.grad = network.weight.grad, None
            for _ in range(2):
                device.waits.clear()  # those of the first step: a table is brought to the device
                losses = loss.per_sample(model, x, Draws(0, 1, 4, device=device.name))
            losses.sum().backward()
        assert device.waits == []
        assert isinstance(there.weight.grad, There)
        torch.testing.assert_close(there.weight.grad.held, getattr(expected, "held", expected))


class Plain:
    """The score of N(0, I)."""

    def score(self, x, level):
        return -x / (level.alpha**2 + level.sigma**2)


CONDITIONS = ["inpaint[mask=box]", "colorize", "linear", "class[label=1,target=mixture2d]", "smcdiff",
              "smcdiff[condition=colorize]"]  # fmt: skip


@pytest.mark.parametrize("text", CONDITIONS)
def test_every_condition_waits_before_the_loop_alone(text):
    condition = create("conditions", text)
    shape = IMAGE if condition.needs_data else (2,)

    def observe(device):
        events = torch.rand(4, *shape)
        return condition.observe(events if condition.needs_data else events.to(device.name))

    assert waits(observe, shape, PAIR.format(2)) == waits(observe, shape, PAIR.format(4))


@pytest.mark.parametrize("text", ["tds", "dsg", "dps[condition=linear[operator=jpeg,noise=0.1]]", "ddrm", "mmps"])
def test_posterior_methods_wait_before_the_loop_alone(text):
    def observe(device):
        return create("conditions", text).observe(torch.rand(4, *IMAGE))

    found = [waits(observe, IMAGE, f"pc[predictor=ddim[eta=1],steps={steps}]", rounds=1) for steps in (2, 2, 4)]
    assert found[1] == found[2]  # the first brings tables to the device, which are kept


def test_a_network_guides_without_a_wait():
    spec = create("networks", "mlp_classifier[width=8]")
    built = spec.build((2,)).eval().requires_grad_(False)

    def observe(device):
        labels = torch.ones(4, dtype=torch.int64, device=device.name)
        return ClassObservation(labels, spec.view(built.to(device.name), create("sdes", "vp"), IMAGE))

    assert waits(observe, (2,), PAIR.format(2)) == []


PAIR = "pc[corrector=langevin,steps={}]"


def waits(observe, shape, sampler, rounds=2):
    """The waits while four samples are drawn under an observation."""
    with Pretended() as device:
        conditioned = ConditionedSampler(create("samplers", sampler), observe(device), rounds)
        found = draw(conditioned, ExactScore(Plain(), create("sdes", "vp")), shape=shape, device=device)
    assert isinstance(found, There)
    return device.waits


DENSITIES = [FlowDensity(rtol=1e-3, atol=1e-3), BoundDensity(times=100), BoundDensity("ssm", 100)]


@pytest.mark.parametrize("density", DENSITIES)
def test_densities(density):
    events = torch.arange(3 * 48, dtype=torch.uint8).reshape(3, 3, 4, 4)
    how = (density, ExactScore(Plain(), create("sdes", "vp")))
    expected = measure(*how, events)
    with Pretended() as device:
        found = measure(*how, events.to(device.name))
    torch.testing.assert_close(found.bits.values.held, expected.bits.values)


def test_encoding():
    x, model = torch.randn(3, 2), ExactScore(Plain(), create("sdes", "vp"))
    expected = encode(model, x)
    with Pretended() as device:
        found = encode(model, x.to(device.name))
        back = decode(model, found, denoise=True)
    assert torch.equal(found.held, expected)
    assert isinstance(back, There)


POINTS = Evidence(create("targets", "mixture2d").sample(64, seed=3), target=create("targets", "mixture2d"))


@pytest.mark.parametrize(
    "name", [name for name in names("evaluators") if create("evaluators", name).skip(POINTS) is None]
)
def test_every_evaluator_of_points(name):
    evaluator, exact = create("evaluators", name), POINTS.target
    expected = evaluator.evaluate(POINTS)
    with Pretended() as device:
        found = evaluator.evaluate(Evidence(POINTS.samples.to(device.name), target=exact))
    assert [metric.value for metric in found] == pytest.approx([metric.value for metric in expected])


WAITS = {
    "number": lambda x: float(x.sum()),
    "condition": lambda x: bool((x > 0).any()),
    "mask": lambda x: x[x > 0],
    "copy": lambda x: x.cpu(),
    "list": lambda x: x.tolist(),
    "tensor": lambda x: torch.tensor(1.0, device=x.device),
    "new": lambda x: x.new_tensor([1.0, 2.0]),
    "moved": lambda x: torch.ones(3).to(x.device),
    "index": lambda x: x[torch.tensor([0])],
}


@pytest.mark.parametrize("ask", WAITS.values(), ids=WAITS)
def test_what_waits_is_noticed(ask):
    with Pretended() as device:
        x = torch.ones(3, device=device.name)
        assert device.waits == []
        ask(x)
    assert len(device.waits) == 1


def test_two_devices_are_refused():
    with Pretended() as device, pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3, device=device.name) + torch.ones(3)
