"""Processes with an observation, with one coefficient an entry, of coupled variables, and with any drift."""

import math

import pytest
import torch
from scoresde import DATA, ConditionedSampler, Draws, ExactScore, Level, ScoreModel, create, sample
from scoresde_conformance.affine import law
from scoresde_conformance.wide import _solves
from scoresde_core.errors import UsageError
from scoresde_core.frame import rotate
from scoresde_core.noise import Noise
from scoresde_core.sampler import skip
from scoresde_core.schedule import Schedule
from scoresde_plugins.likelihood.likelihood import log_likelihood
from scoresde_plugins.linear.blocks import Block, BlockSDE
from scoresde_plugins.numerics.encoding import encode, round_trip
from scoresde_plugins.targets.mixture import MixtureOfFactorAnalysers

EXACT = torch.float64
RESTORING = ("ouve", "sbve", "ir_sde")
SCALE, NOISE, MEAN, STD = 0.8, 0.4, 0.3, 0.5


def observed():
    text = f"observed[of=gaussian[shape=[1],mean={MEAN},std={STD}],noise={NOISE},scale={SCALE}]"
    return create("targets", text).to("cpu", EXACT)


def posterior(y):
    """Mean and std of N(MEAN, STD^2) given y = SCALE x + NOISE n."""
    precision = 1 / STD**2 + SCALE**2 / NOISE**2
    return (MEAN / STD**2 + SCALE * y / NOISE**2) / precision, precision**-0.5


def drawn(model, predictor, steps, start=None):
    """The exact mean and covariance at t_min of a run on Gaussian data, from the prior or a given Gaussian start."""
    framed, sde = model.framed(), model.sde
    x = torch.zeros(1, math.prod(framed.shape), dtype=EXACT)
    mean = sde.prior.from_noise(x)[0] if start is None else start[0]
    spread = (sde.prior.from_noise(x + 1)[0] - mean if start is None else start[1]).square().diag()
    predictor = create("predictors", predictor)
    times = (predictor.grid or create("grids", "uniform")).times(sde, steps)
    return law(predictor, framed, Schedule(sde, times, x).steps[:-1], mean, spread)


class GivenOne(ScoreModel):
    """The exact score in the frame, with the same observation for any number of rows."""

    def __init__(self, sde, y):
        self.sde, self.y, self.shape = sde.given(y=torch.full((1, 1), y, dtype=EXACT)), y, (1,)

    def framed(self):
        return self

    def evaluate(self, x, level):
        return observed().given(torch.full_like(x, self.y)).score(x, level)


@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("y", [-0.7, 1.6])
@pytest.mark.parametrize("predictor", ["dpmpp_2m_sde", "dpmpp_2m", "euler_maruyama", "ancestral_sampling"])
def test_samples_follow_the_posterior(name, y, predictor):
    """Given y, 200 steps from the law at t_max end in the exact one: its mean to 0.5 % of a std, its std to 1 %."""
    sde = create("sdes", name)
    mean, std = posterior(y)
    end, last = sde.float_level(sde.t_max), sde.float_level(sde.t_min)
    width = torch.tensor([math.hypot(end.alpha * std, end.sigma)], dtype=EXACT)
    found, spread = drawn(GivenOne(sde, y), predictor, 200, (torch.tensor([end.alpha * mean], dtype=EXACT), width))
    goal, width = last.alpha * mean, math.hypot(last.alpha * std, last.sigma)
    first = predictor in ("euler_maruyama", "ancestral_sampling")
    assert abs(float(found) - goal) <= (0.02 if first else 0.005) * width
    assert abs(float(spread) ** 0.5 / width - 1) <= (0.03 if first else 0.01)


@pytest.mark.parametrize("name", RESTORING)
def test_the_published_start_is_near_the_law(name):
    """Sampling starts from alpha y, as if y were the data: samples are off by what the process remembers of them."""
    sde, y = create("sdes", name), 0.9
    found, spread = drawn(GivenOne(sde, y), "dpmpp_2m", 200)
    mean, std = posterior(y)
    limit = 0.1 if name == "ouve" else 0.02
    assert abs(float(found) - mean) <= limit * std
    assert abs(float(spread) ** 0.5 / std - 1) <= limit


@pytest.mark.parametrize("name", RESTORING)
def test_their_equations(name):
    """x_t of an event and its y moves with the published drift and noise, by simulation of dx = b dt + g dw."""
    sde, x, y, n = create("sdes", name), 0.7, -0.4, 20_000
    state, steps = torch.full((n,), x, dtype=EXACT), 400
    generator = torch.Generator().manual_seed(1)
    for k in range(steps):
        t = torch.tensor(k / steps * 0.8, dtype=EXACT)
        g = {
            "ouve": lambda t: 0.05 * 10**t * (2 * math.log(10)) ** 0.5,
            "sbve": lambda t: (0.4 * 2.6 ** (2 * t)) ** 0.5,
            "ir_sde": lambda t: 50 / 255 * (2 * theta(t)) ** 0.5,
        }[name](float(t))
        pull = {
            "ouve": lambda t: 1.5,
            "sbve": lambda t: 0.4 * 2.6 ** (2 * t) / (0.4 * (2.6**2 - 2.6 ** (2 * t)) / (2 * math.log(2.6))),
            "ir_sde": theta,
        }[name](float(t))
        state += pull * (y - state) * 0.8 / steps
        state += g * (0.8 / steps) ** 0.5 * torch.randn(n, generator=generator, dtype=EXACT)
    level, error = sde.float_level(0.8), float(state.std()) / n**0.5
    assert abs(float(state.mean()) - (level.alpha * x + (1 - level.alpha) * y)) <= 4 * error + 2e-3
    assert abs(float(state.std()) / level.sigma - 1) <= 4 / (2 * n) ** 0.5 + 5e-3


def theta(t):
    """IR-SDE's rate: the complement of the cosine schedule, scaled so that alpha(1) = 0.005."""
    u = torch.linspace(0, 1, 20_001, dtype=EXACT)

    def shape(t):
        return torch.sin((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return float(shape(torch.tensor(t)) / torch.trapezoid(shape(u), u)) * -math.log(0.005)


def test_the_rate_of_ir_sde_is_the_cosine_schedule():
    t = torch.linspace(0, 0.6, 2001, dtype=EXACT)
    integral = torch.trapezoid(torch.tensor([theta(float(u)) for u in t[::20]]), t[::20])
    assert abs(float(create("sdes", "ir_sde").alpha(t[-1]).log()) + float(integral)) <= 2e-4


class ThreeVariables(BlockSDE):
    """Position, velocity and force, with noise in the force, by matrix exponentials."""

    parts = 3
    rate = torch.tensor([[0.0, 2.0, 0.0], [-2.0, 0.0, 2.0], [0.0, -2.0, -4.0]], dtype=EXACT)
    spread = torch.tensor([0.0, 0.0, 2.0], dtype=EXACT).diag()

    def drift_rate(self, t):
        return self.rate.expand(*t.shape, 3, 3)

    def diffusion(self, t):
        return self.spread.expand(*t.shape, 3, 3)

    def alpha(self, t):
        return torch.linalg.matrix_exp(self.rate * t[..., None, None])

    def covariance(self, t):
        """By Van Loan's block matrix, with the law of velocity and force at t = 0."""
        noise = self.spread @ self.spread.T
        both = torch.cat([torch.cat([-self.rate, noise], 1), torch.cat([torch.zeros_like(noise), self.rate.T], 1)])
        whole = torch.linalg.matrix_exp(both * t[..., None, None])
        right = whole[..., 3:, 3:].mT
        start = torch.tensor([0.0, 0.1, 0.1], dtype=EXACT).diag()
        return right @ whole[..., :3, 3:] + right @ start @ right.mT


def test_three_coupled_variables_follow_the_flow():
    sde, t = ThreeVariables(), torch.tensor([0.1, 0.4, 0.9], dtype=EXACT)
    sigma, cov = sde.sigma(t), sde.covariance(t)
    assert torch.allclose(sigma @ sigma.mT, cov, atol=1e-12)
    pull = sde.drift_rate(t) + 0.5 * sde.spread @ sde.spread.T @ torch.linalg.inv(cov)
    _solves("sigma", sde.sigma, t, pull @ sigma, "the flow")


def test_rows_keep_their_observation():
    """Any split into batches, and a first sample other than 0, give the same samples of the same observations."""
    model = ExactScore(create("targets", "observed"), create("sdes", "ouve"))
    sampler = create("samplers", "pc[predictor=ddim,steps=8]")
    whole = sample(model, sampler, 10, seed=3)
    parts = sample(model, sampler, 6, seed=3, first=4, batch_size=4).x
    assert torch.equal(whole.x[4:], parts)
    assert whole.nfe == 8
    y = create("targets", "observed").known(10, 3)["y"]
    given = sample(ExactScore(model.target, model.sde.given(y=y)), sampler, 10, seed=3).x
    assert torch.equal(whole.x, given)
    assert (
        float((given - sample(ExactScore(model.target, model.sde.given(y=y + 1)), sampler, 10, seed=3).x).abs().min())
        > 0
    )


def test_observations_are_of_their_law():
    target, n = observed(), 20_000
    y = target.known(n, 0)["y"]
    assert abs(float(y.mean()) - SCALE * MEAN) <= 0.02
    assert abs(float(y.std()) - math.hypot(SCALE * STD, NOISE)) <= 0.02
    x = target.sample(n, 0)
    assert abs(float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])) <= 0.03


BLURRED = "blurring[size=6,s_max=4]"


def image_law():
    """A mixture of two Gaussians over (1, 6, 6) with unequal noise, and its dense means and covariances."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, 36, dtype=EXACT, generator=generator)
    factors = 0.4 * torch.randn(2, 3, 36, dtype=EXACT, generator=generator)
    noise = 0.05 + 0.2 * torch.rand(36, dtype=EXACT, generator=generator)
    weights = torch.tensor([0.3, 0.7], dtype=EXACT)
    law = MixtureOfFactorAnalysers(weights, means, factors, noise, (1, 6, 6), dtype=EXACT)
    return law, [(w, m, f.T @ f + noise.diag()) for w, m, f in zip(weights, means, factors, strict=True)]


@pytest.mark.parametrize("t", [0.02, 0.3, 1.0])
def test_an_exact_score_under_blur(t):
    """Against the dense mixture: score and density of c = a Q x_0 + sigma eps, in the frame and outside."""
    law_, components = image_law()
    sde = create("sdes", BLURRED)
    frame = sde.frame
    eye = torch.eye(36, dtype=EXACT).reshape(36, 1, 6, 6)
    basis = rotate(eye, frame.basis).flatten(1).T
    level = sde.level_at(t, torch.zeros(5, 1, 6, 6))
    a = level.alpha.expand(1, 1, 6, 6).flatten()
    push = a[:, None] * basis
    c = torch.randn(5, 36, dtype=EXACT, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    parts = [
        w.log()
        + torch.distributions.MultivariateNormal(
            push @ m, push @ cov @ push.T + float(level.sigma.flatten()[0]) ** 2 * torch.eye(36, dtype=EXACT)
        ).log_prob(c)
        for w, m, cov in components
    ]
    density = torch.logsumexp(torch.stack(parts), 0)
    (score,) = torch.autograd.grad(density.sum(), c)
    model = ExactScore(law_, sde)
    state = c.detach().reshape(5, 1, 6, 6)
    assert torch.allclose(model.framed().score(state, level).flatten(1), score, rtol=1e-8, atol=1e-9)
    # In event coordinates x = Q^T c: the score turns with it.
    x = frame.leave(state, t)
    assert torch.allclose(model.score(x, level), frame.turn_back(score.reshape(5, 1, 6, 6)), rtol=1e-8, atol=1e-9)


def test_blur_is_the_heat_equation():
    """Without noise, d(t) is diffusion for the time s_B^2 / 2 with reflecting ends, but for d_min."""
    sde = create("sdes", "blurring[size=6,s_max=4,d_min=1e-9]")
    t = torch.tensor(0.4, dtype=EXACT)
    blurred = sde.alpha(t)[0] / create("sdes", "vp").alpha(t)
    x = torch.randn(1, 1, 6, 6, dtype=EXACT, generator=torch.Generator().manual_seed(2))
    found = rotate(blurred * rotate(x, sde.basis), sde.basis, inverse=True)
    # The cosine basis with the frequencies of the continuous heat equation, as in the paper.
    n = torch.arange(6, dtype=EXACT) * math.pi / 6
    place = (torch.arange(6, dtype=EXACT) + 0.5)[:, None]
    modes = torch.cos(place * n)
    modes = modes / modes.norm(dim=0)
    tau = 0.5 * (4 * math.sin(math.pi * 0.4 / 2) ** 2) ** 2
    heat = modes @ torch.diag(torch.exp(-n.square() * tau)) @ modes.T
    assert torch.allclose(found[0, 0], heat @ x[0, 0] @ heat.T, atol=1e-7)


@pytest.mark.parametrize("name", [BLURRED, "per_channel[sdes=[vp]]", "cld"])
def test_samples_of_images(name):
    """200 steps of a second-order method on a Gaussian of images: mean to 0.5 % of a std, std to 1 %."""
    target = create("targets", "gaussian[shape=[1,6,6],decay=2,mean=0.3]").to("cpu", EXACT)
    model = ExactScore(target, create("sdes", name))
    sampler = create("samplers", "pc[predictor=dpmpp_2m,steps=200]")
    # An affine map: where it takes 0 and every unit vector gives the law.
    size = math.prod(model.sde.state_shape((1, 6, 6)))
    start = torch.zeros(1 + size, size, dtype=EXACT)
    start[1:] = torch.eye(size, dtype=EXACT)
    prior = model.sde.prior.from_noise(start.reshape(-1, *model.sde.state_shape((1, 6, 6))))
    framed = model.framed()
    ends = sampler.run(prior, framed, Noise(0, framed.shape, len(prior), dtype=EXACT))
    ends = (model.sde.frame.drop(ends) if model.sde.frame else ends).flatten(1)
    mean, half = ends[0], ends[1:] - ends[0]
    expected_mean, expected = target.moments()
    std = expected.diagonal().sqrt()
    assert float(((mean - expected_mean) / std).abs().max()) <= 0.005
    assert float(((half.square().sum(0)).sqrt() / std - 1).abs().max()) <= 0.01


def test_blocks_follow_the_arithmetic_of_matrices():
    m, n = torch.randn(2, 2, 2, dtype=EXACT, generator=torch.Generator().manual_seed(0))
    a, b, x = Block(m), Block(n), torch.randn(3, 4, dtype=EXACT)
    parts = x.reshape(3, 2, 2)
    assert torch.allclose((a * b).matrix, m @ n)
    assert torch.allclose((a / b).matrix, m @ n.inverse())
    assert torch.allclose((1 - a).matrix, torch.eye(2, dtype=EXACT) - m)
    assert torch.allclose((a * x).reshape(3, 2, 2), m @ parts)
    assert torch.allclose((x * a).reshape(3, 2, 2), m.T @ parts)
    assert torch.allclose((x / a).reshape(3, 2, 2), m.inverse().T @ parts)
    assert torch.allclose(a.solve(x).reshape(3, 2, 2), m.inverse() @ parts)
    assert torch.allclose((a**2).matrix, m @ m.T)
    root = (a**2) ** 0.5
    assert torch.allclose(root.matrix @ root.matrix, m @ m.T)
    assert torch.allclose(root.matrix, root.matrix.T)
    with pytest.raises(ValueError, match=r"powers 2 and 0\.5, got 3"):
        a**3


def test_the_root_of_a_damped_process_is_not_that_of_cholesky():
    """sigma of cld is a root of the covariance for which x = A D + sigma eps moves with the probability flow."""
    sde = create("sdes", "cld")
    t = torch.tensor([0.1, 0.5], dtype=EXACT)
    lower = torch.linalg.cholesky(sde.covariance(t))
    assert float((sde.sigma(t).abs() - lower.abs()).abs().max()) > 0.1
    assert torch.allclose(sde.sigma(t) @ sde.sigma(t).mT, sde.covariance(t), atol=1e-13)


@pytest.mark.parametrize("target", ["mixture2d", "gaussian[shape=[2],covariance=[[1.0,0.6],[0.6,0.8]]]"])
def test_the_exact_score_of_position_and_velocity(target):
    """Against the joint density of (x, v), differentiated."""
    truth, sde, t = create("targets", target).to("cpu", EXACT), create("sdes", "cld"), 0.3
    law_ = truth.as_mixture()
    level = sde.level_at(t, torch.zeros(1, 4))
    first, cov = level.alpha.matrix[:, 0], sde.covariance(torch.tensor(t, dtype=EXACT))
    u = torch.randn(6, 4, dtype=EXACT, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    parts = []
    for w, m, f in zip(law_.weights, law_.means, law_.factors, strict=True):
        data = f.T @ f + law_.noise.diag()
        joint = torch.kron(first.outer(first), data) + torch.kron(cov, torch.eye(2, dtype=EXACT))
        parts.append(w.log() + torch.distributions.MultivariateNormal(torch.kron(first, m), joint).log_prob(u))
    (score,) = torch.autograd.grad(torch.logsumexp(torch.stack(parts), 0).sum(), u)
    model = ExactScore(truth, sde).framed()
    assert torch.allclose(model.score(u.detach(), level), score, rtol=1e-8, atol=1e-9)
    noise = model.noise(u.detach(), level)
    assert torch.allclose(level.alpha * model.denoised(u.detach(), level) + level.sigma * noise, u.detach(), atol=1e-9)


@pytest.mark.parametrize("name", ["per_channel[sdes=[vp,subvp]]", "cld", "ir_sde"])
def test_likelihoods_against_the_closed_form(name):
    """The flow maps the exact law at t_max to the data, so its density differs by the prior alone: by 0.03 nats."""
    text = "gaussian[shape=[2],mean=[0.5,-1.0],std=[0.5,0.8]]"
    target = create("targets", f"observed[of={text},noise=0.4]" if name == "ir_sde" else text).to("cpu", EXACT)
    x, sde = create("targets", text).sample(5, 1).double(), create("sdes", name)
    expected = target.log_prob(x)
    if sde.needs:
        y = x + 0.4 * torch.randn(5, 2, dtype=EXACT, generator=torch.Generator().manual_seed(3))
        sde = sde.given(y=y)
        expected = (
            expected + torch.distributions.Normal(x, 0.4).log_prob(y).sum(1) - target.log_prob(y, Level(0.0, 1.0, 0.4))
        )
    found = log_likelihood(ExactScore(target, sde), x, trace="exact", t_min=1e-5)
    assert float((found.log_prob - expected).abs().max()) <= 0.03
    assert found.latent.shape[0] == 5


@pytest.mark.parametrize("name", ["ouve", "per_channel[sdes=[vp,subvp]]", "blurring[size=6,s_max=4]"])
def test_encodings_go_there_and_back(name):
    """In event coordinates: the latent of an event under a process with y is near y."""
    sde = create("sdes", name)
    shape = (1, 6, 6) if sde.basis else (2,)
    text = f"gaussian[shape={list(shape)},std=0.5]".replace(" ", "")
    target = create("targets", f"observed[of={text},noise=0.3]").to("cpu", EXACT)
    x = target.sample(4, 1).double()
    sde = sde.given(y=x + 0.01) if sde.needs else sde
    found = round_trip(ExactScore(target, sde), x)
    assert float(found.error.max()) <= 1e-4
    assert found.latent.shape == x.shape
    if sde.needs:
        frame = sde.frame
        assert float((found.latent - x).abs().max()) <= 4 * float(sde.sigma(torch.ones((), dtype=EXACT)))
        assert torch.allclose(frame.leave(frame.enter(x, 0.7), 0.7), x)
    with pytest.raises(UsageError, match="has no encoding"):
        encode(ExactScore(create("targets", "mixture2d"), create("sdes", "cld")), torch.zeros(2, 2))


def test_a_network_learns_in_the_frame():
    """At the exact noise of a damped process the loss has no slope; a scaled one is worse."""
    sde, target = create("sdes", "cld"), create("targets", "mixture2d").to("cpu", EXACT)
    loss, x = create("losses", "dsm"), create("targets", "mixture2d").sample(4000, 0).double()

    class Scaled(ExactScore):
        by = 1.0

        def evaluate_framed(self, c, level, frame):
            return self.by * super().evaluate_framed(c, level, frame)

    values = []
    for by in (0.8, 1.0, 1.2):
        model = Scaled(target, sde)
        model.by = by
        values.append(float(loss.per_sample(model, x, Draws(0, 0, len(x))).mean()))
    assert values[1] < min(values[0], values[2])


def fokker_planck(process, mean, std, times, width=3.4, points=513):
    """log density of x_t on a grid, for data N(mean, std^2) in one dimension, by finite volumes."""
    x = torch.linspace(-width, width, points, dtype=EXACT)
    h, half = float(x[1] - x[0]), 0.5 * (x[1:] + x[:-1])
    drift = process.drift(half, torch.zeros(()))
    spread = 0.5 * float(process.diffusion(torch.zeros((), dtype=EXACT))) ** 2
    # Scharfetter-Gummel fluxes, which keep a stationary law pi; in sqrt(pi) the generator is symmetric.
    z = drift * h / spread
    bernoulli = torch.where(z.abs() < 1e-9, 1 - z / 2, z / torch.expm1(z))
    up, down = spread / h**2 * (bernoulli + z), spread / h**2 * bernoulli
    root = torch.cat([z.new_zeros(1), 0.5 * z.cumsum(0)])
    root = (root - root.max()).exp()
    rate = torch.diag((up * down).sqrt(), 1) + torch.diag((up * down).sqrt(), -1)
    rate.diagonal()[:-1].sub_(up)
    rate.diagonal()[1:].sub_(down)
    values, modes = torch.linalg.eigh(rate)
    start = torch.exp(-0.5 * ((x - mean) / std) ** 2)
    amplitudes = modes.T @ (start / start.sum() / h / root)
    density = (modes @ (amplitudes * torch.exp(values * torch.as_tensor(times).unsqueeze(1))).T).T * root
    return x, density.clamp_min(1e-290).log()


TIMES = 121


@pytest.fixture(scope="module")
def well():
    """A double well, and its exact score for data N(0.5, 0.3^2) at times that are denser near 0."""
    process = create("sdes", "double_well")
    u = torch.linspace(0, 1, TIMES, dtype=EXACT)
    x, log_density = fokker_planck(process, 0.5, 0.3, process.t_min + (1 - process.t_min) * u.square())
    return process, x, torch.gradient(log_density, spacing=(x,), dim=1)[0]


class WellScore(ScoreModel):
    def __init__(self, process, x, scores):
        self.sde, self.shape, self.x, self.scores = process, (1,), x, scores

    def evaluate(self, x, level):
        share = (torch.as_tensor(level.t).reshape(-1, 1).double() - self.sde.t_min) / (1 - self.sde.t_min)
        place = share.clamp(0, 1).sqrt() * (TIMES - 1)
        row = place.long().clamp(0, TIMES - 2).expand_as(x)
        column = ((x.detach() - self.x[0]) / (self.x[1] - self.x[0])).long().clamp(0, len(self.x) - 2)
        u, v = place - row, (x - self.x[column]) / (self.x[1] - self.x[0])
        s = self.scores
        low = s[row, column] * (1 - v) + s[row, column + 1] * v
        return low * (1 - u) + (s[row + 1, column] * (1 - v) + s[row + 1, column + 1] * v) * u


def test_a_nonlinear_process_is_reversed(well):
    """With the score of the Fokker-Planck equation, Euler-Maruyama and the flow lead from the prior to the data."""
    model = WellScore(*well)
    for text in ("pc[predictor=euler_maruyama,steps=1000]", "ode[method=rk4,steps=200]"):
        sampler = create("samplers", text)
        assert skip(sampler, model.sde, (1,)) is None
        x = sample(model, sampler, 4000, seed=1, dtype=EXACT).x
        assert abs(float(x.mean()) - 0.5) <= 4 * 0.3 / 4000**0.5 + 0.01
        assert abs(float(x.std()) / 0.3 - 1) <= 0.05


def test_sliced_score_matching_finds_the_score(well):
    """At the exact score the loss of simulated states is lower than at others, by more than its noise."""
    model, loss, n = WellScore(*well), create("losses", "ssm[steps=400,t_min=0.02]"), 20_000
    x = 0.5 + 0.3 * torch.randn(n, 1, dtype=EXACT, generator=torch.Generator().manual_seed(0))

    class Wrong(WellScore):
        def evaluate(self, x, level):
            return self.by * super().evaluate(x, level) + self.shift

    values = {}
    for by, shift in ((1.0, 0.0), (0.85, 0.0), (1.15, 0.0), (1.0, 0.4), (1.0, -0.4)):
        wrong = Wrong(*well)
        wrong.by, wrong.shift = by, shift
        with torch.no_grad():
            values[by, shift] = loss.per_sample(wrong, x, Draws(0, 0, n))
    best = values.pop((1.0, 0.0))
    for other in values.values():
        gap = other - best
        assert float(gap.mean()) > 3 * float(gap.std()) / n**0.5
    assert not best.requires_grad
    assert model.calls == 0


REFUSED = [
    ("ouve", "ddim", (2,), None),
    (
        "cld",
        "unipc",
        (2,),
        "UniPCPredictor serves processes of the form scalar or diagonal, CriticallyDampedSDE has",
    ),
    ("cld", "ddim[eta=1]", (2,), "DDIMPredictor serves processes of the form scalar or diagonal"),
    ("double_well", "ddim", (2,), "DDIMPredictor serves processes of the form scalar or diagonal or blocks"),
    ("double_well", "euler_maruyama", (2,), None),
    ("blurring", "ddim", (2,), "blurring has a basis for images of 32 x 32, events have shape (2,)"),
    ("blurring", "ddim", (3, 28, 28), "take blurring[size=28]"),
    (
        "per_channel",
        "ddim",
        (3, 8, 8),
        "per_channel has 2 processes, but events have shape (3, 8, 8): give one a channel",
    ),
]


@pytest.mark.parametrize(("process", "predictor", "shape", "reason"), REFUSED)
def test_what_cannot_work_is_refused_beforehand(process, predictor, shape, reason):
    found = skip(create("samplers", f"pc[predictor={predictor}]"), create("sdes", process), shape)
    assert found == reason if reason is None else reason in found


@pytest.mark.parametrize(
    ("process", "sampler", "reason"),
    [
        ("double_well", "pc[predictor=euler_maruyama,grid=logsnr]", "take the grid uniform"),
        ("cld", "adaptive_sde", "AdaptiveSDESampler serves processes of the form scalar"),
        ("cld", "pc[predictor=ddim,corrector=langevin]", "LangevinCorrector serves"),
    ],
)
def test_samplers_say_what_they_serve(process, sampler, reason):
    assert reason in skip(create("samplers", sampler), create("sdes", process), (2,))


@pytest.mark.parametrize("name", ["ouve", "blurring[size=28]", "cld"])
def test_conditions_refuse_states_that_are_no_events(name):
    condition = create("conditions", "inpaint[mask=left]").observe(torch.zeros(1, 1, 28, 28))
    sampler = ConditionedSampler(create("samplers", "pc[predictor=ddim]"), condition)
    reason = skip(sampler, create("sdes", name), (1, 28, 28))
    assert (
        "samples their distance to y" in reason if name == "ouve" else "serves processes of the form scalar" in reason
    )


def test_a_process_that_lacks_its_observation_says_so():
    sampler, process = create("samplers", "pc[predictor=ddim,steps=5]"), create("sdes", "ouve")
    with pytest.raises(UsageError, match=r"OUVESDE needs y: call process\.given"):
        sample(ExactScore(create("targets", "mixture2d"), process), sampler, 3)
    with pytest.raises(UsageError, match="takes nothing called z"):
        process.given(z=torch.zeros(3, 2))
    wrong, level = process.given(y=torch.zeros(3, 5)), process.level_at(0.5, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="give one y a sample"):
        ExactScore(create("targets", "observed"), wrong).score(torch.zeros(3, 2), level)
    assert "observed[of=...]" in process.skip_target(create("targets", "mixture2d"))
    assert process.skip_target(create("targets", "observed")) is None
    assert "known by simulation alone" in create("sdes", "double_well").skip_target(None)
    with pytest.raises(UsageError, match="known by simulation alone"):
        ExactScore(create("targets", "mixture2d"), create("sdes", "double_well")).score(torch.zeros(1, 2), DATA)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("per_channel[sdes=[rectified_flow]]", "alpha > 0"),
        ("per_channel[sdes=[ouve]]", "one alpha > 0 and sigma"),
        ("blurring[noise=double_well]", "DoubleWellSDE is no SDE"),
        ("blurring[noise=cld]", "needs a process of one alpha > 0 and sigma"),
        ("ouve[sigma_min=0.5,sigma_max=0.1]", "sigma_max must be above sigma_min"),
    ],
)
def test_wrong_parameters(text, why):
    with pytest.raises(UsageError, match=why):
        create("sdes", text)
