"""DiT against its formula: patches, places, blocks, labels, what it knows, its first values, and learning."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from scoresde_core.score import level_of
from scoresde_plugins.networks.dit import DiT, patches, places, together
from scoresde_plugins.song2021.sdes import VESDE, VPSDE
from scoresde_run.models.network_score import NetworkScore

SMALL = DiT(width=24, depth=2, heads=3, patch=2)
SHAPES = {(3, 12): (4,), (2, 4, 6): (2, 3), (1, 4, 2, 6): (2, 1, 3)}


def module_of(spec=SMALL, shape=(2, 4, 6)):
    """The module with weights drawn at random, as new ones are zero at the end."""
    module = spec.build(shape).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return module


def batch(shape, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator), 999 * torch.rand(count, generator=generator)


@pytest.mark.parametrize(("shape", "patch"), SHAPES.items(), ids=str)
def test_patches_are_cut_in_order_and_put_together(shape, patch):
    x, _ = batch(shape)
    tokens, grid = patches(x, patch), [side // p for side, p in zip(shape[1:], patch, strict=True)]
    for row, place in enumerate(itertools.product(*map(range, grid))):
        cut = tuple(slice(p * k, p * k + p) for k, p in zip(place, patch, strict=True))
        assert torch.equal(tokens[:, row], x[(slice(None), slice(None), *cut)].flatten(1))
    assert torch.equal(together(tokens.view(len(x), *grid, shape[0], *patch)), x)


def test_places_are_sines_and_cosines_along_every_axis():
    found = places((3, 5), 18)
    for row, (i, j) in enumerate(itertools.product(range(3), range(5))):
        rates = [10_000 ** (-k / 3) for k in range(4)]
        expected = [[f(rate * place) for f in (math.sin, math.cos) for rate in rates] + [0.0] for place in (i, j)]
        torch.testing.assert_close(found[row], torch.tensor(expected).flatten())
    assert places((2, 2, 2), 16).shape == (8, 16)
    assert not places((2, 2, 2), 16)[:, 15].any()


def by_formula(module, x, label):
    """The network of two-dimensional events and no condition, one token, head and block at a time."""
    p, (rows, columns) = module.patch, module.grid
    state, width = dict(module.named_parameters()), module.spec.width

    def linear(name, h):
        return h @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(h):
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    rates = torch.exp(torch.arange(width // 2).double() * (-math.log(10_000) / (width // 2 - 1)))
    features = torch.cat([(label * rates).sin(), (label * rates).cos()])
    hidden = linear("embed.0", features)
    c = linear("embed.2", hidden * hidden.sigmoid())
    c = c * c.sigmoid()
    h = torch.stack([
        linear("begin", x[:, p[0] * i : p[0] * (i + 1), p[1] * j : p[1] * (j + 1)].flatten())
        for i in range(rows) for j in range(columns)
    ]) + module.positions  # fmt: skip
    for name in (f"blocks.{k}" for k in range(module.spec.depth)):
        b_1, a_1, g_1, b_2, a_2, g_2 = linear(f"{name}.modulate", c).chunk(6)
        q, k, v = linear(f"{name}.read", (1 + a_1) * norm(h) + b_1).chunk(3, 1)
        heads, each = [], width // module.spec.heads
        for part in (slice(n * each, (n + 1) * each) for n in range(module.spec.heads)):
            heads.append((q[:, part] @ k[:, part].T / math.sqrt(each)).softmax(1) @ v[:, part])
        h = h + g_1 * linear(f"{name}.write", torch.cat(heads, 1))
        hidden = F.gelu(linear(f"{name}.perceptron.0", (1 + a_2) * norm(h) + b_2), approximate="tanh")
        h = h + g_2 * linear(f"{name}.perceptron.2", hidden)
    b, a = linear("modulate", c).chunk(2)
    tokens = linear("end", (1 + a) * norm(h) + b).view(rows, columns, x.shape[0], *p)
    return torch.cat([torch.cat(list(line), 2) for line in tokens], 1)


def test_the_network_is_its_formula():
    module = module_of(evolve(SMALL, patch=(2, 3))).double()
    x, label = batch((2, 4, 6))
    x, label = x.double(), label.double()
    expected = torch.stack([by_formula(module, *row) for row in zip(x, label, strict=True)])
    torch.testing.assert_close(module(x, label), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("shape", "patch"), SHAPES.items(), ids=str)
@pytest.mark.parametrize("known", [False, True])
def test_events_of_one_to_three_sides_and_what_is_known_reach_every_parameter(shape, patch, known):
    spec = evolve(SMALL, patch=patch, **({"classes": 3, "cond_channels": 2} if known else {}))
    x, label = batch(shape)
    told = {"class": torch.tensor([0, 1, 2]), "image": torch.ones(3, 2, *shape[1:])} if known else {}
    assert dict(spec.takes(shape)) == ({"class": 3, "image": (2, *shape[1:])} if known else {})
    output = module_of(spec, shape)(x, label, **told)
    assert output.shape == x.shape
    module = module_of(spec, shape)
    told = {**told, "class": torch.tensor([0, 2, -1])} if known else {}
    module(x, label, **told).square().sum().backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, f"{name} has no part in the output"
        rows = [0, 2, 3] if name.startswith("class_embedding") else slice(None)
        assert value.grad[rows].flatten(1).any(1).all() if value.ndim > 1 else value.grad.any(), name


def test_tokens_that_move_with_their_places_move_the_output():
    """Attention has no order of its own: all of it is in the places."""
    module, (x, label) = module_of(evolve(SMALL, patch=3), (2, 12)), batch((2, 12))
    order = torch.tensor([2, 0, 3, 1])
    moved = x.view(3, 2, 4, 3)[:, :, order].reshape(3, 2, 12)
    expected = module(x, label).view(3, 2, 4, 3)[:, :, order].reshape(3, 2, 12)
    assert (module(moved, label) - expected).abs().max() > 0.01
    module.positions = module.positions[order]
    torch.testing.assert_close(module(moved, label), expected)


def test_class_minus_one_is_no_class_and_none_is_zero_at_first():
    spec = evolve(SMALL, classes=3)
    module, (x, label) = module_of(spec), batch((2, 4, 6))
    none = module(x, label)
    assert torch.equal(module(x, label, **{"class": torch.full((3,), -1)}), none)
    rows = torch.tensor([1, -1, 2])
    told = module(x, label, **{"class": rows})
    assert torch.equal(told[1], none[1])
    expected = 24**0.5 * module.class_embedding.weight[[1, 3, 2]]  # the last row is that of no class
    torch.testing.assert_close(module.class_embedding(rows), expected)
    assert (told - none)[[0, 2]].abs().amax((1, 2, 3)).min() > 1e-3
    new = spec.build((2, 4, 6))
    assert not new.class_embedding.weight.any()


def test_a_condition_is_read_beside_x():
    module, (x, label) = module_of(evolve(SMALL, cond_channels=1, cond="y")), batch((2, 4, 6))
    y = torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(2))
    plain = module_of(SMALL)
    weight = module.begin.weight.unflatten(1, (3, 4))
    state = {**module.state_dict(), "begin.weight": weight[:, :2].flatten(1)}
    plain.load_state_dict(state)
    torch.testing.assert_close(module(x, label, y=torch.zeros(1, 1, 4, 6)), plain(x, label))
    assert (module(x, label, y=y) - plain(x, label)).abs().max() > 0.01
    for wrong in ({}, {"y": y[:, :, :2]}, {"y": y[:2]}):
        with pytest.raises(ValueError, match="'y'"):
            module(x, label, **wrong)


@pytest.mark.parametrize(
    ("label", "value"), [("t", 0.25), ("time", 249.75), ("index", 249.75), ("log_ratio", 0.25), ("sigma", math.e)]
)
def test_labels_run_over_the_same_steps(label, value):
    """One quarter of the way is the same in every unit; under sigma the input has the size of the data."""
    reference, module = module_of(evolve(SMALL, label="t")), module_of(evolve(SMALL, label=label))
    x, _ = batch((2, 4, 6))
    seen = x / math.sqrt(1 + math.e**2) if label == "sigma" else x
    expected = reference(seen, torch.full((3,), 0.25))
    torch.testing.assert_close(module(x, torch.full((3,), value)), expected, rtol=1e-4, atol=1e-4)


def test_a_score_is_divided_by_sigma():
    sigma = torch.tensor([0.1, 3.0, 50.0])
    x, _ = batch((2, 4, 6))
    noise, score = (module_of(evolve(SMALL, label="sigma", parameterisation=each)) for each in ("noise", "score"))
    torch.testing.assert_close(score(x, sigma), noise(x, sigma) / sigma[:, None, None, None])


def test_a_new_network_is_zero_and_its_blocks_are_identities():
    module, (x, label) = SMALL.build((2, 4, 6)), batch((2, 4, 6))
    assert not module(x, label).any()
    h = torch.randn(3, 6, 24)
    assert all(torch.equal(block(h, torch.randn(3, 24)), h) for block in module.blocks)


def test_the_defaults_are_the_published_small_network():
    """DiT-S/2 of 32 x 32 x 4: 33 M parameters, and our perceptron of the label reads 384 features, not 256."""
    with torch.device("meta"):
        module = DiT().build((4, 32, 32))
    assert round(sum(value.numel() for value in module.parameters()) / 1e6, 1) == 32.5


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(sigma_max=10.0)], ids=["vp", "ve"])
def test_it_learns_the_score_of_a_gaussian_signal(sde):
    """A random walk of eight steps: the error against the exact noise falls below a twentieth of what zero has."""
    torch.manual_seed(0)
    root = torch.ones(8, 8).tril() / math.sqrt(8)
    spec = DiT(width=32, depth=2, heads=2, label="sigma" if isinstance(sde, VESDE) else "time")
    module = spec.build((1, 8))
    model = NetworkScore(module, sde, parameterisation="noise", label=spec.label)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    covariance = root @ root.T

    def draw(count):
        x, noise = torch.randn(count, 1, 8) @ root.T, torch.randn(count, 1, 8)
        level = level_of(sde, 0.01 + 0.99 * torch.rand(count), x)
        return level.alpha * x + level.sigma * noise, noise, level

    for _ in range(400):
        x, noise, level = draw(128)
        loss = (model.noise(x, level) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, _, level = draw(2000)
    total = level.alpha**2 * covariance + level.sigma**2 * torch.eye(8)
    exact = level.sigma * torch.linalg.solve(total, x.transpose(1, 2)).transpose(1, 2)
    with torch.no_grad():
        error = (model.noise(x, level) - exact).square().mean() / exact.square().mean()
    assert error < 0.05


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"patch": 3}, (1, 8, 8), r"patch=3 must divide the one to three sides of \(1, 8, 8\): give divisors"),
        ({"patch": (2,)}, (1, 8, 8), r"patch=\(2,\) must divide"),
        ({"patch": (2, 3)}, (1, 8, 8), r"patch=\(2, 3\) must divide"),
        ({"patch": 0}, (1, 8), "patch=0 must divide"),
        ({}, (2,), r"one to three sides of \(2,\)"),
        ({}, (), r"one to three sides of \(\)"),
        ({}, (1, 2, 2, 2, 2), "one to three sides"),
        ({}, (1, 0), "must divide"),
        ({"heads": 5}, (1, 8), "heads=5 does not divide width=24"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes, shape, message):
    with pytest.raises(ValueError, match=message):
        evolve(SMALL, **changes).build(shape)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"reads events of \(2, 4, 6\), got \(2, 6, 4\)"):
        module_of()(*batch((2, 6, 4)))
