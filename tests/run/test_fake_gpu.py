"""What goes by the name of a CUDA device, found without one (:mod:`fake_gpu`); for the rest see test_device.py."""

import pytest
import torch
from fake_gpu import DEVICE, Waiting, gpu
from test_device import IMAGE, NETWORKS, names
from torch._subclasses.fake_tensor import FakeTensor
from scoresde import NetworkScore, create, sample
from scoresde_core.score import level_of

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch was built without CUDA")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
CLASSIFIERS = {
    "classifier": "classifier[blocks_per_group=1,multiplier=1,embedding=16]",
    "mlp_classifier": "mlp_classifier[width=8]",
}


class Half(torch.nn.Module):
    """x / 2, by a product in autocast's precision."""

    def forward(self, x, label):
        return torch.einsum("bchw,cd->bdhw", x, 0.5 * torch.eye(x.shape[1], device=x.device))


def draw(text, name="vp", gives="v"):
    """Four images in batches of three; :class:`Waiting` where a value is read or a copy waited for."""
    sampler, sde = create("samplers", text), create("sdes", name)
    reason = sampler.skip(sde)
    assert reason is None, reason
    with gpu() as device:
        sde = sde.given(y=torch.zeros(4, *IMAGE, device=DEVICE)) if sde.needs else sde
        model = NetworkScore(Half(), sde, IMAGE, parameterisation=gives, label="time", autocast=torch.bfloat16)
        device.watching = not sde.frame and sde.form == "scalar"  # others copy their coefficients or y to the device
        found = sample(model, sampler, 4, batch_size=3, device=DEVICE)
    assert isinstance(found.x, FakeTensor)
    assert (found.x.shape, found.x.dtype, str(found.x.device)) == ((4, *IMAGE), torch.float32, DEVICE)


PAIRS = [*((name, "langevin") for name in names("predictors")),
         *(("reverse_diffusion", name) for name in names("correctors") if name != "langevin")]  # fmt: skip


@pytest.mark.parametrize(("predictor", "corrector"), PAIRS)
def test_every_predictor_and_every_corrector(predictor, corrector):
    """All pairs of them are in test_device.py."""
    draw(f"pc[predictor={predictor},corrector={corrector},steps=6]")


PUBLISHED = "pc[predictor=reverse_diffusion,corrector=langevin,steps=4]"
WIDER = {
    "blurring": (PUBLISHED, "blurring[size=8]"),
    "per_channel": (PUBLISHED, "per_channel[sdes=[vp,subvp,vp]]"),
    "cld": ("pc[predictor=ddim,steps=4]", "cld", "noise"),
    "double_well": ("pc[predictor=euler_maruyama,steps=4]", "double_well", "score"),
}


@pytest.mark.parametrize("name", names("sdes"))
def test_every_sde(name):
    draw(*WIDER.get(name, (PUBLISHED, name)))


@pytest.mark.parametrize(
    "text", ["pc[steps=4]", "restart[steps=4,intervals=[[2,1,0.06,2.0]]]", "ode[method=rk4,steps=4]"]
)
def test_samplers_of_fixed_steps(text):
    draw(text)


WARM = "warm_start[target=gaussian[shape=[3,8,8]],until=0.4,sampler=pc[steps=2]]"


@pytest.mark.parametrize("text", ["ode", "adaptive_sde", "paradigms", WARM])
def test_samplers_that_choose_their_steps_read_the_state(text):
    with pytest.raises(Waiting):
        draw(text)


def test_every_sampler_is_here():
    of_other_libraries = {"azula", "deepinv", "diffusers", "flow_matching", "k_diffusion", "sbi"}
    own = {"pc", "restart", "ode", "adaptive_sde", "paradigms", "warm_start", "tuned"}
    assert set(names("samplers")) - of_other_libraries == own


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", [*NETWORKS, *CLASSIFIERS])
def test_every_network(case, precision):
    """Forward, as it is sampled from and as it is trained; the score is of the state's dtype."""
    text, name = NETWORKS.get(case, (CLASSIFIERS.get(case), "vp"))
    sde, spec = create("sdes", name), create("networks", text)
    module = spec.build(IMAGE)
    with gpu() as device:
        model = spec.view(module.to(DEVICE), sde, IMAGE, autocast=PRECISIONS[precision])
        x = torch.randn(2, *IMAGE, device=DEVICE)
        for training in (True, False):
            module.train(training)
            level = level_of(sde, torch.rand(2, device=DEVICE, dtype=torch.float64), x)
            with torch.set_grad_enabled(training):
                found = _asked(model, x, level)
                device.watching = True  # what the first call brings to the device stays there
                found = _asked(model, x, level)
                device.watching = False
            assert found.shape == (x.shape if case in NETWORKS else (2, 10))
            assert (found.dtype, found.requires_grad) == (x.dtype, training)


def _asked(model, x, level):
    return model.score(x, level) if hasattr(model, "score") else model.log_probabilities(x, level)


def test_every_network_is_here():
    foreign = {"module", "diffusers"}  # which run the code of others
    assert {case.partition(" ")[0] for case in NETWORKS} | set(CLASSIFIERS) | foreign == set(names("networks"))


REFUSED = {
    "number": lambda x: float(x.sum()),
    "condition": lambda x: bool((x > 0).any()),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "index": lambda x: x[torch.tensor([0])],
    "copy": lambda x: x.cpu(),
    "moved": lambda x: torch.ones(3).to(x.device),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
}


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED)
def test_what_waits_is_noticed(ask):
    with gpu() as device:
        x = torch.ones(3, device=DEVICE)
        device.watching = True
        with pytest.raises(Waiting):
            ask(x)


def test_two_devices_are_refused():
    with gpu(), pytest.raises(RuntimeError, match="devices"):
        torch.ones(3, device=DEVICE) + torch.ones(3)
