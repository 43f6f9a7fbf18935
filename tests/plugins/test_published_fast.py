"""Every fast predictor, in whole runs of ``pc``, is the method of its paper, from its first step to its last.

The methods are written here once more, from the papers' formulas, in the coordinates y = x / alpha and
s = sigma / alpha. There each of them is a map between noise levels s_0 > s_1 > ... > s_N = 0; with D(y, s) the denoised
state and e(y, s) = (y - D) / s the noise, the process shows in the levels alone. Runs of 13 to 16, 20 and 30 steps lie
on both sides of every rule about short runs.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from scoresde_core import ExactScore, create

SDES = ("ve", "vp", "subvp", "linear_ve")
GRIDS = ("uniform", "quadratic", "logsnr", "karras")
STEPS = (13, 14, 15, 16, 20, 30)
ROWS = 41
DRAWS = torch.randn(max(STEPS), ROWS, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

WEIGHTS, MEANS = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.3, 0.4], [-1.0, 0.2, 1.0]))
WIDTH = 0.3


class Mixture:
    """sum_k w_k N(m_k, 0.3^2), as a score for our samplers."""

    def score(self, x, level):
        variance = level.alpha**2 * WIDTH**2 + level.sigma**2
        off = x - level.alpha * MEANS
        shares = (WEIGHTS.log() - off.square() / (2 * variance)).softmax(-1)
        return -(shares * off).sum(-1, keepdim=True) / variance


def denoise(y, s):
    """E[x_0 | y] of the same mixture, for y = x_0 + s eps."""
    variance = WIDTH**2 + s * s
    off = y - MEANS
    shares = (WEIGHTS.log() - off.square() / (2 * variance)).softmax(-1)
    return (shares * (MEANS + WIDTH**2 / variance * off)).sum(-1, keepdim=True)


def noise(y, s):
    return (y - denoise(y, s)) / s


class Draws:
    """The noise of a run: the same numbers for a step in both codes."""

    def at(self, step, purpose):
        return DRAWS[step].clone


class Run:
    """Times and levels of one run."""

    def __init__(self, sde, times):
        self.sde, self.times = sde, times.tolist()
        alpha, sigma = sde.scales(times)
        self.alpha, self.s = alpha.tolist(), (sigma / alpha).tolist()
        self.count = len(times) - 1

    def level_at(self, t):
        """s(t)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return float(self.sde.sigma(t) / self.sde.alpha(t))

    def slope(self, t):
        """ds/dt."""
        t = torch.as_tensor(t, dtype=torch.float64).requires_grad_()
        (slope,) = torch.autograd.grad((self.sde.sigma(t) / self.sde.alpha(t)).sum(), t)
        return slope.numpy()


NODES, SHARES = np.polynomial.legendre.leggauss(24)


def quadrature(start, end, pieces=1):
    """Gauss-Legendre points and weights from ``start`` to ``end``, in ``pieces`` of lengths in geometric series."""
    ends = np.linspace(start, end, 2) if pieces == 1 else np.geomspace(start, end, pieces + 1)
    middles, halves = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
    return (middles[:, None] + np.outer(halves, NODES)).ravel(), np.outer(halves, SHARES).ravel()


def euler(y, s, ahead, slope):
    """dy = e ds with e constant: DDIM, DPM-Solver-1."""
    return y + (ahead - s) * slope


def ddim(run, y, eta=0.0):
    """arXiv:2010.02502, Eq. 12 and 16, with alpha-bar = 1 / (1 + s^2)."""
    for k in range(run.count):
        s, ahead = run.s[k], run.s[k + 1]
        now, then = 1 / (1 + s * s), 1 / (1 + ahead * ahead)
        spread = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
        x0, e = denoise(y, s), noise(y, s)
        y = x0 + math.sqrt(1 - then - spread**2) / math.sqrt(then) * e
        y = y + spread / math.sqrt(then) * DRAWS[k] if eta and k < run.count - 1 else y
    return y


def dpm_solver_2(run, y):
    """arXiv:2206.00927, Algorithm 1 with r = 1/2: the noise at lambda + h/2, in the middle of each step."""
    for s, ahead in zip(run.s[:-2], run.s[1:-1], strict=True):
        h = math.log(s / ahead)
        middle = s * math.exp(-h / 2)
        halfway = y - middle * math.expm1(h / 2) * noise(y, s)
        y = y - ahead * math.expm1(h) * noise(halfway, middle)
    return denoise(y, run.s[-2])


def heun(run, y, churn=0.0):
    """arXiv:2206.00364, Algorithm 2; noise is not raised beyond the level of t = 1."""
    for k in range(run.count):
        s, ahead = run.s[k], run.s[k + 1]
        raised = min(s * (1 + min(churn / run.count, math.sqrt(2) - 1)), run.s[0])
        y = y + math.sqrt(raised**2 - s**2) * DRAWS[k] if raised > s else y
        slope = noise(y, raised)
        trial = euler(y, raised, ahead, slope)
        y = trial if ahead == 0 else y + (ahead - raised) * (slope + noise(trial, ahead)) / 2
    return y


def orders(count, highest, lowered):
    """Of every step: rising from 1; where ``lowered``, at most the number of steps that are left, this one included."""
    return [min(highest, k + 1, count - k if lowered else highest) for k in range(count)]


def dpmpp(run, y, highest):
    """Multistep DPM-Solver++ (arXiv:2211.01095, Algorithm 2, and its code): the order falls in runs below 15 steps."""
    seen = []
    for k, order in enumerate(orders(run.count, highest, run.count < 15)[:-1]):
        seen = [(math.log(1 / run.s[k]), denoise(y, run.s[k])), *seen][:3]
        h = math.log(run.s[k] / run.s[k + 1])
        y = math.exp(-h) * y - math.expm1(-h) * seen[0][1]
        if order == 1:
            continue
        r0 = (seen[0][0] - seen[1][0]) / h
        d0 = (seen[0][1] - seen[1][1]) / r0
        if order == 2:
            y = y - 0.5 * math.expm1(-h) * d0
            continue
        r1 = (seen[1][0] - seen[2][0]) / h
        d1 = (seen[1][1] - seen[2][1]) / r1
        first, second = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
        phi2 = math.expm1(-h) / h + 1
        y = y + phi2 * first - (phi2 / h - 0.5) * second
    return denoise(y, run.s[-2])


def dpmpp_2m_sde(run, y):
    """SDE-DPM-Solver++(2M) of the same paper: the midpoint form, with the rule about short runs of the others."""
    seen = []
    for k, order in enumerate(orders(run.count, 2, run.count < 15)[:-1]):
        seen = [(math.log(1 / run.s[k]), denoise(y, run.s[k])), *seen][:2]
        h = math.log(run.s[k] / run.s[k + 1])
        y = math.exp(-2 * h) * y - math.expm1(-2 * h) * seen[0][1]
        if order == 2:
            y = y - 0.5 * math.expm1(-2 * h) * (seen[0][1] - seen[1][1]) * h / (seen[0][0] - seen[1][0])
        y = y + run.s[k + 1] * math.sqrt(-math.expm1(-2 * h)) * DRAWS[k]
    return denoise(y, run.s[-2])


def dpmpp_3m_sde(run, y, eta=1.0):
    """As k-diffusion writes it: two divided differences, phi functions of (1 + eta) h, and no rule about short runs."""
    seen = []
    for k in range(run.count - 1):
        seen = [(math.log(1 / run.s[k]), denoise(y, run.s[k])), *seen][:3]
        h = math.log(run.s[k] / run.s[k + 1])
        q = (1 + eta) * h
        y = math.exp(-q) * y - math.expm1(-q) * seen[0][1]
        phi2 = math.expm1(-q) / q + 1
        slopes = [(a[1] - b[1]) * h / (a[0] - b[0]) for a, b in pairwise(seen)]
        if len(slopes) == 1:
            y = y + phi2 * slopes[0]
        elif len(slopes) == 2:
            second = (slopes[0] - slopes[1]) * h / (seen[0][0] - seen[2][0])
            first = slopes[0] + second * (seen[0][0] - seen[1][0]) / h
            y = y + phi2 * first - (phi2 / q - 0.5) * second
        y = y + run.s[k + 1] * math.sqrt(-math.expm1(-2 * eta * h)) * DRAWS[k]
    return denoise(y, run.s[-2])


def adams(nodes, start, end, squared):
    """int e^{-a (end - u)} l_j(u) a du with a = 1 + tau^2, and with two nodes the authors' term of third order."""
    a, h = 1 + squared, end - start
    parts = [quadrature(start + k * h / 6, start + (k + 1) * h / 6) for k in range(6)]
    points, shares = (np.concatenate(values) for values in zip(*parts, strict=True))
    weights = []
    for node in nodes:
        basis = math.prod((Polynomial([-n, 1]) / (node - n) for n in nodes if n != node), start=Polynomial([1.0]))
        weights.append(a * float((shares * np.exp(-a * (end - points)) * basis(points)).sum()))
    if len(nodes) == 2:
        change = a * (h**2 / 2 - (a * h - 1 + math.exp(-a * h)) / a**2) / (nodes[0] - nodes[1])
        weights = [weights[0] + change, weights[1] - change]
    return weights


def sa_solver(run, y, tau=1.0, highest=3, corrected=4, s_max=math.inf):
    """arXiv:2309.05019, Algorithm 1 and its code: evaluate, correct, predict; x is y in these coordinates."""
    lam, states, count = [math.log(1 / s) for s in run.s[:-1]], [], run.count
    before, fresh, squared = None, None, None
    for k in range(count):
        states = [denoise(y, run.s[k]), *states]
        if k and corrected:
            nodes = [lam[k], *lam[max(0, k - min(corrected, count - k + 2) + 1) : k][::-1]]
            weights = adams(nodes, lam[k - 1], lam[k], squared)
            y = before * math.exp(-(1 + squared) * (lam[k] - lam[k - 1])) + fresh
            y = y + sum(w * d for w, d in zip(weights, states, strict=False))
        if k == count - 1:
            return states[0]
        squared = tau**2 if run.s[k] <= s_max else 0.0
        h, order = lam[k + 1] - lam[k], min(highest, k + 1, count - k)
        weights = adams(lam[k - order + 1 : k + 1][::-1], lam[k], lam[k + 1], squared)
        before, fresh = y, run.s[k + 1] * math.sqrt(-math.expm1(-2 * squared * h)) * DRAWS[k]
        y = y * math.exp(-(1 + squared) * h) + sum(w * d for w, d in zip(weights, states, strict=False)) + fresh
    return y


PHI = {
    "er_5": lambda s: s * (np.exp(s**0.3) + 10),
    "reverse": lambda s: s**2,
    "ode": lambda s: s,
    "er_2": lambda s: s**1.5,
}


def er_sde(run, y, scale="er_5", highest=3):
    """arXiv:2309.06169 and its code: Taylor's series in s with divided differences; the integrals without error."""
    phi, seen, slopes = PHI[scale], [], []
    for k in range(run.count - 1):
        s, ahead = run.s[k], run.s[k + 1]
        seen = [denoise(y, s), *seen]
        kept = phi(ahead) / phi(s)
        points, shares = quadrature(ahead, s, 16)
        y = kept * y + (1 - kept) * seen[0]
        if k and highest > 1:
            slopes = [(seen[0] - seen[1]) / (s - run.s[k - 1]), *slopes]
            y = y + (ahead - s + phi(ahead) * (shares / phi(points)).sum()) * slopes[0]
        if k > 1 and highest > 2:
            second = 2 * (slopes[0] - slopes[1]) / (s - run.s[k - 2])
            y = y + ((ahead - s) ** 2 / 2 + phi(ahead) * (shares * (points - s) / phi(points)).sum()) * second
        y = y + math.sqrt(max(ahead**2 - (kept * s) ** 2, 0.0)) * DRAWS[k]
    return denoise(y, run.s[-2])


def seeds(run, y, stages=2, eta=1.0):
    """arXiv:2305.14267 for data prediction, in the coefficients of the authors' two and three stages."""
    for k in range(run.count - 1):
        s, h = run.s[k], math.log(run.s[k] / run.s[k + 1])
        first, parts, z = denoise(y, s), [n / stages for n in range(stages + 1)], DRAWS[k]
        kick = [math.sqrt(math.exp(-2 * a * h * eta) - math.exp(-2 * b * h * eta)) for a, b in pairwise(parts)]
        guess = latest = None
        for n, part in enumerate(parts[1:]):
            level, q = s * math.exp(-part * h), part * h * (1 + eta)
            shrink, phi2 = -math.expm1(-q), math.expm1(-q) / q + 1
            move = 0 if n == 0 else (latest - first) * (shrink if stages == 2 else phi2 * part / parts[n])
            guess = math.exp(-q) * y + shrink * first + move + level * sum(kick[: n + 1]) * z
            latest = denoise(guess, level)
        y = guess
    return denoise(y, run.s[-2])


def unipc(run, y, highest=3, variant="bh2", lowered=True):
    """arXiv:2302.04867, data prediction, and its code: the order falls at the end of every run; no UniC at its end."""
    states, (u, shares) = [denoise(y, run.s[0])], quadrature(0, 1)
    for k, order in enumerate(orders(run.count, highest, lowered)[:-1]):
        h = math.log(run.s[k] / run.s[k + 1])
        ratios = [math.log(run.s[k] / run.s[k - i]) / h for i in range(1, order)]
        differences = [(states[-1 - i] - states[-1]) / r for i, r in enumerate(ratios, 1)]
        scale = -h if variant == "bh1" else math.expm1(-h)
        # B(h) b_q = -h q! phi_{q+1}(-h), from the integral that defines phi.
        right = [-h * (shares * np.exp((u - 1) * h) * u**q).sum() / scale for q in range(1, order + 1)]
        system = np.array([[r**q for r in [*ratios, 1.0]] for q in range(order)])
        predict = [0.5] if order == 2 else np.linalg.solve(system[:-1, :-1], right[:-1])
        correct = [0.5] if order == 1 else np.linalg.solve(system, right)
        start = math.exp(-h) * y - math.expm1(-h) * states[-1]
        guess = start - scale * sum((rho * d for rho, d in zip(predict, differences, strict=False)), 0 * y)
        states.append(denoise(guess, run.s[k + 1]))
        differences.append(states[-1] - states[-2])
        y = start - scale * sum((rho * d for rho, d in zip(correct, differences, strict=True)), 0 * y)
    return states[-1]


def deis(run, y, highest=3, variant="tab"):
    """arXiv:2204.13902: integrals of Lagrange's polynomials in t, or (rhoAB) in s; of lower order to the data alone."""
    past = []
    for k, order in enumerate(orders(run.count, highest, False)[:-1]):
        past = [noise(y, run.s[k]), *past]
        along = run.times if variant == "tab" else run.s
        nodes = [along[k - i] for i in range(order)]
        points, shares = quadrature(along[k], along[k + 1], 8)
        shares = shares * run.slope(points) if variant == "tab" else shares
        for i in range(order):
            factors = [Polynomial([-node, 1]) / (nodes[i] - node) for node in nodes if node != nodes[i]]
            basis = math.prod(factors, start=Polynomial([1.0]))
            y = y + float((shares * basis(points)).sum()) * past[i]
    return denoise(y, run.s[-2])


ADAMS = ([1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])


def ipndm(run, y):
    """The same paper's improved PNDM: the weights of equal steps, on e."""
    past = []
    for k, order in enumerate(orders(run.count, 4, False)[:-1]):
        past = [noise(y, run.s[k]), *past]
        mixed = sum(w * e for w, e in zip(ADAMS[order - 1], past, strict=False))
        y = euler(y, run.s[k], run.s[k + 1], mixed)
    return denoise(y, run.s[-2])


def pndm(run, y):
    """arXiv:2202.09778, Algorithm 2: three pseudo Runge-Kutta steps, then Eq. 12."""
    past = []
    for k in range(run.count - 1):
        s, ahead = run.s[k], run.s[k + 1]
        past = [noise(y, s), *past]
        mixed = sum(w * e for w, e in zip(ADAMS[3], past, strict=False))
        if k < 3:
            middle = run.level_at((run.times[k] + run.times[k + 1]) / 2)
            second = noise(euler(y, s, middle, past[0]), middle)
            third = noise(euler(y, s, middle, second), middle)
            mixed = (past[0] + 2 * second + 2 * third + noise(euler(y, s, ahead, third), ahead)) / 6
        y = euler(y, s, ahead, mixed)
    return denoise(y, run.s[-2])


METHODS = {
    "ddim": ddim,
    "ddim[eta=1]": lambda run, y: ddim(run, y, 1.0),
    "ddim[eta=0.4]": lambda run, y: ddim(run, y, 0.4),
    "dpm_solver_2": dpm_solver_2,
    "heun": heun,
    "heun[s_churn=5]": lambda run, y: heun(run, y, 5.0),
    "dpmpp_2m": lambda run, y: dpmpp(run, y, 2),
    "dpmpp_3m": lambda run, y: dpmpp(run, y, 3),
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "dpmpp_3m_sde[eta=0.4]": lambda run, y: dpmpp_3m_sde(run, y, 0.4),
    "sa_solver": sa_solver,
    "sa_solver[tau=0.6,max_order=2,corrector_order=2]": lambda run, y: sa_solver(run, y, 0.6, 2, 2),
    "sa_solver[corrector_order=0,max_order=4,s_max=5]": lambda run, y: sa_solver(run, y, 1, 4, 0, 5),
    "er_sde": er_sde,
    "er_sde[scale=reverse,max_order=2]": lambda run, y: er_sde(run, y, "reverse", 2),
    "er_sde[scale=ode]": lambda run, y: er_sde(run, y, "ode"),
    "er_sde[scale=er_2,max_order=1]": lambda run, y: er_sde(run, y, "er_2", 1),
    "seeds": seeds,
    "seeds[stages=3]": lambda run, y: seeds(run, y, 3),
    "seeds[stages=3,eta=0.3]": lambda run, y: seeds(run, y, 3, 0.3),
    "unipc": unipc,
    "unipc[variant=bh1]": lambda run, y: unipc(run, y, variant="bh1"),
    "unipc[max_order=2]": lambda run, y: unipc(run, y, 2),
    "unipc[lower_order_final=false]": lambda run, y: unipc(run, y, lowered=False),
    "deis": deis,
    "deis[max_order=4,variant=rhoab]": lambda run, y: deis(run, y, 4, "rhoab"),
    "ipndm": ipndm,
    "pndm": pndm,
}


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("name", METHODS)
def test_a_whole_run_is_the_published_method(name, sde):
    process = create("sdes", sde)
    x = process.prior.from_noise(torch.linspace(-2, 2, ROWS, dtype=torch.float64).unsqueeze(1))
    for grid in GRIDS:
        for steps in STEPS:
            run = Run(process, create("grids", grid).times(process, steps))
            expected = METHODS[name](run, x / run.alpha[0])
            sampler = create("samplers", f"pc[predictor={name},grid={grid},steps={steps}]")
            found = sampler.run(x, ExactScore(Mixture(), process), Draws())
            scale = max(1.0, float(expected.abs().max()))
            assert float((found - expected).abs().max()) < 1e-6 * scale, (grid, steps)
