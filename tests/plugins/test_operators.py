"""Operators: what each measures, against independent formulas; and conditions and data sets that take any of them."""

import math

import numpy as np
import pytest
import torch
from scoresde import ConditionedSampler, ExactScore, create, sample
from scoresde_core.errors import FileError, ScoreSDEError
from scoresde_plugins.operators.fourier import FourierOperator, fourier_basis
from scoresde_plugins.song2021.sdes import VPSDE
from scoresde_plugins.targets.gaussian import GaussianTarget
from scoresde_run.commands.shell import main
from scoresde_run.sampling.operator import Operator


def made(text):
    return create("operators", text)


def events(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def matrix(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 12))
    np.save(tmp_path / "m.npy", values)
    np.savez(tmp_path / "m.npz", other=np.zeros(3), matrix=values)
    np.savetxt(tmp_path / "m.csv", values, delimiter=",")
    return tmp_path, torch.from_numpy(values)


class TestWhatIsMeasured:
    def test_means_of_blocks_in_one_two_and_three_dimensions(self):
        x = events(2, 3, 8, 12)
        assert torch.allclose(made("average[factor=4]").apply(x), x.reshape(2, 3, 2, 4, 3, 4).mean((3, 5)))
        assert torch.allclose(made("average").apply(x[:, :, 0]), x[:, :, 0].reshape(2, 3, 6, 2).mean(3))
        volume = events(2, 1, 4, 4, 6)
        assert torch.allclose(made("average").apply(volume), torch.nn.functional.avg_pool3d(volume, 2))

    @pytest.mark.parametrize("width", [0.7, 2.0])
    def test_a_blur_is_gaussian_with_repeated_edges(self, width):
        ndimage = pytest.importorskip("scipy.ndimage")
        x = events(2, 3, 8, 12)
        options = {"mode": "nearest", "radius": max(1, round(4 * width)), "axes": (2, 3)}
        expected = ndimage.gaussian_filter(x.numpy(), width, **options)
        np.testing.assert_allclose(made(f"blur[width={width}]").apply(x).numpy(), expected, atol=1e-12)

    @pytest.mark.parametrize("size", [1, 2, 7, 8])
    def test_the_fourier_basis_is_the_transform_of_real_events(self, size):
        basis, x = fourier_basis(size), events(4, size)
        assert torch.allclose(basis @ basis.T, torch.eye(size, dtype=torch.float64))
        found, expected = x @ basis.T, torch.fft.rfft(x, norm="ortho")
        for k in range(size // 2 + 1):
            alone = k in (0, size / 2)
            cosine = found[:, 2 * k - 1 if k else 0]
            assert torch.allclose(cosine, expected[:, k].real * (1 if alone else 2**0.5))
            if not alone:
                assert torch.allclose(found[:, 2 * k], -expected[:, k].imag * 2**0.5)

    @pytest.mark.parametrize("mask", ["lines", "points"])
    def test_frequencies_are_kept_whole_and_the_rest_is_zero(self, mask):
        operator, shape = FourierOperator(mask=mask, share=0.3, center=0.2, seed=1), (2, 10, 12)
        x = events(3, *shape)
        projected = operator.adjoint(operator.apply(x), shape)
        axes = (3,) if mask == "lines" else (2, 3)
        ratio = torch.fft.fftn(projected, dim=axes) / torch.fft.fftn(x, dim=axes)
        kept = (ratio - 1).abs() < 1e-9
        assert torch.equal(kept, ~(ratio.abs() < 1e-9))
        assert bool((kept == kept[:1, :1, :1] if mask == "lines" else kept == kept[:1, :1]).all())
        assert bool(kept[..., 0].all() if mask == "lines" else kept[..., 0, 0].all())
        share = float(kept.double().mean())
        assert operator.measured(shape) == ((2, 10, 12 * share) if mask == "lines" else (2, round(120 * share)))

    def test_all_frequencies_are_the_event(self):
        x = events(3, 2, 6, 5)
        y = made("fourier[mask=points,share=1]").apply(x)
        assert torch.allclose(y.square().sum((1, 2)), x.square().sum((1, 2, 3)))

    def test_projections_of_right_angles_are_sums_of_columns_and_rows(self):
        x = events(3, 2, 5, 7)
        y = made("radon[angles=2]").apply(x)  # 0 and 90 degrees
        bins = y.shape[3]
        assert bins == math.ceil(math.hypot(5, 7)) + 1 == 10
        # Seven columns about the middle of ten bins lie halfway between two, five rows as well.
        for found, sums in ((y[:, :, 0], x.sum(2)), (y[:, :, 1], x.sum(3))):
            halves = torch.nn.functional.pad(sums, (1, 1))
            halves = 0.5 * (halves[..., 1:] + halves[..., :-1])
            first = (bins - halves.shape[-1]) // 2
            assert torch.allclose(found[..., first : first + halves.shape[-1]], halves)

    def test_every_projection_has_the_sum_and_the_centre_of_the_image(self):
        x = events(2, 1, 6, 9).abs()
        y = made("radon[angles=7]").apply(x)
        total = x.sum((2, 3))
        assert torch.allclose(y.sum(3), total.unsqueeze(2).expand(2, 1, 7))
        at = torch.arange(y.shape[3]) - (y.shape[3] - 1) / 2
        u, v = torch.arange(9) - 4.0, torch.arange(6) - 2.5
        angles = torch.arange(7) * math.pi / 7
        middle = (x.sum(2) * u).sum(2)[..., None] * angles.cos() + (x.sum(3) * v).sum(2)[..., None] * angles.sin()
        assert torch.allclose((y * at).sum(3), middle.double(), atol=1e-5)

    @pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
    def test_a_matrix_from_a_file(self, matrix, suffix):
        folder, values = matrix
        x = events(4, 3, 4)
        y = made(f"matrix[path={folder}/m.{suffix}]").apply(x)
        assert torch.allclose(y, x.reshape(4, 12) @ values.T)

    def test_a_changed_file_is_read_again(self, matrix):
        import os

        folder, values = matrix
        operator, x = made(f"matrix[path={folder}/m.npy]"), events(4, 12)
        operator.apply(x)
        np.save(folder / "m.npy", 2 * values.numpy())
        os.utime(folder / "m.npy", (1, 1))
        assert torch.allclose(operator.apply(x), 2 * x @ values.T)

    def test_the_entries_under_a_mask(self):
        x = events(3, 2, 4, 6)
        assert torch.equal(made("mask[mask=right]").apply(x), x[..., 3:].flatten(2))
        x[..., :3] = math.nan
        assert bool(made("mask[mask=right]").apply(x).isfinite().all())

    @pytest.mark.parametrize("shape", [(2, 8, 12), (3, 16), (1, 4, 4, 8)])
    def test_jpeg_rounds_the_cosine_transform_of_blocks(self, shape):
        fft, x = pytest.importorskip("scipy.fft"), events(3, *shape)
        found, sides = made("jpeg[step=0.3,block=4]").apply(x).numpy(), shape[1:]
        steps = 0.3 * (1 + np.indices([4] * len(sides)).sum(0))
        for corner in np.ndindex(*[size // 4 for size in sides]):
            block = (slice(None), slice(None), *(slice(4 * k, 4 * k + 4) for k in corner))
            axes = tuple(range(2, x.ndim))
            c = fft.dctn(x.numpy()[block], axes=axes, norm="ortho")
            expected = fft.idctn(np.round(c / steps) * steps, axes=axes, norm="ortho")
            np.testing.assert_allclose(found[block], expected, atol=1e-12)
        again = made("jpeg[step=0.3,block=4]").apply(torch.from_numpy(found))
        np.testing.assert_allclose(again.numpy(), found, atol=1e-12)

    def test_jpeg_has_the_gradient_of_the_identity(self):
        x, y = events(2, 1, 4, 4).requires_grad_(), events(2, 1, 4, 4, seed=1)
        assert torch.equal(torch.autograd.grad(made("jpeg").apply(x), x, y)[0], y)

    @pytest.mark.parametrize(("shape", "times"), [((2, 5, 6), 2), ((1, 7), 3), ((1, 4, 4), 1)])
    def test_phase_leaves_magnitudes(self, shape, times):
        x, operator = events(3, *shape), made(f"phase[oversampling={times}]")
        axes, sides = tuple(range(2, x.ndim)), [times * size for size in shape[1:]]
        whole = np.abs(np.fft.fftn(x.numpy(), sides, axes)) / math.sqrt(math.prod(sides))
        np.testing.assert_allclose(operator.apply(x).numpy(), whole[..., : sides[-1] // 2 + 1], atol=1e-12)
        np.testing.assert_allclose((whole**2).sum(axes), (x.numpy() ** 2).sum(axes))
        for twin in (-x, x.flip(axes)):
            torch.testing.assert_close(operator.apply(twin), operator.apply(x))

    def test_phase_has_the_gradient_of_differences(self):
        x, operator = events(1, 1, 3, 4), made("phase")
        assert torch.autograd.gradcheck(operator.apply, (x.requires_grad_(),))


class TestSpectra:
    @pytest.mark.parametrize(
        "text", ["average", "blur[width=0.7]", "mask[mask=box]", "fourier", "fourier[mask=points]", "radon[angles=5]",
                 "identity"],
    )  # fmt: skip
    def test_singular_values_are_those_of_the_matrix(self, text):
        operator, shape = made(text), (1, 4, 6)
        dense = operator.apply(torch.eye(24, dtype=torch.float64).reshape(24, *shape)).reshape(24, -1)
        expected = torch.linalg.svdvals(dense)
        found = operator.spectrum(shape).values.flatten().sort(descending=True).values
        assert torch.allclose(found[: len(expected)], expected, atol=1e-6)
        inverse = torch.linalg.pinv(dense.T, rtol=1e-5)
        y = events(3, *operator.measured(shape))
        assert torch.allclose(operator.pseudo_inverse(y, shape).flatten(1), y.flatten(1) @ inverse.T, atol=1e-5)

    def test_it_is_none_where_it_is_not_cheap(self):
        assert made("radon").spectrum((1, 64, 64)) is None
        with pytest.raises(ValueError, match="RadonOperator has no cheap singular values for events of shape"):
            made("radon").pseudo_inverse(torch.zeros(1, 1, 30, 92), (1, 64, 64))


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("average[factor=3]", (1, 8, 8), r"blocks of 3 do not tile events of shape \[1, 8, 8\]: choose a divisor"),
        ("blur", (2,), "BlurOperator needs events with channels and sides"),
        ("radon", (1, 64), r"radon projects images .* not events of shape \[1, 64\]"),
        ("fourier", (7,), "fourier needs events with channels and sides"),
        ("phase", (7,), "phase needs events with channels and sides"),
        (
            "jpeg",
            (1, 8, 6),
            r"jpeg needs events with channels, and sides that blocks of 4 tile, not of shape \[1, 8, 6\]",
        ),
        ("mask[mask=top]", (2,), "a mask of the top half needs images"),
        (
            "matrix[path={folder}/m.npy]",
            (1, 8, 8),
            r"has shape \[5, 12\], an event of shape \[1, 8, 8\] has 64 entries",
        ),
    ],
)
def test_events_that_do_not_fit_are_one_line(text, shape, words, matrix):
    operator = made(text.format(folder=matrix[0]))
    with pytest.raises(ValueError, match=words) as caught:
        operator.measured(shape)
    assert operator.skip(shape) == str(caught.value)
    condition = create("conditions", f"linear[operator={text.format(folder=matrix[0])}]")
    assert condition.skip(shape) == str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_measurement_of_another_shape_is_one_line():
    with pytest.raises(
        ValueError, match=r"AverageOperator measures \[1, 4, 4\] of an event \[1, 8, 8\], not \[1, 8, 8\]"
    ):
        made("average").pseudo_inverse(torch.zeros(3, 1, 8, 8), (1, 8, 8))
    with pytest.raises(ScoreSDEError, match=r"by=AverageOperator.* does not fit .*: blocks of 3"):
        create("datasets", "degraded[of='exact[target=gaussian[shape=[1,8,8]]]',by=average[factor=3]]")
    with pytest.raises(ScoreSDEError, match=r"by=PhaseOperator.* it is not linear, and y has another shape than x"):
        create("datasets", "degraded[of='exact[target=gaussian[shape=[1,8,8]]]',by=phase]")
    with pytest.raises(ValueError, match="PhaseOperator is not linear and has no adjoint: take a linear operator"):
        made("phase").pseudo_inverse(torch.zeros(3, 1, 16, 9), (1, 8, 8))


def test_pairs_with_pictures_of_jpeg():
    pairs = create("datasets", "degraded[of='exact[target=gaussian[shape=[1,8,8]],count=5]',by=jpeg,noise=0]")
    assert torch.equal(pairs.known()["y"], made("jpeg").apply(pairs.load().double()).float())


def test_entries_that_are_not_finite_are_one_line(matrix):
    folder, values = matrix
    values[1, 2] = math.nan
    np.save(folder / "m.npy", values.numpy())
    with pytest.raises(FileError, match=r"m.npy has entries that are not finite"):
        made(f"matrix[path={folder}/m.npy]").apply(events(1, 12))


class TestConditions:
    """``linear`` takes any operator."""

    @pytest.mark.parametrize(
        "text", ["average", "blur[width=0.5]", "mask", "fourier", "fourier[mask=points]", "radon[angles=3]", "identity"]
    )
    def test_samples_have_the_measurement(self, text):
        target, condition = (
            GaussianTarget((1, 4, 4), std=0.5),
            create("conditions", f"linear[operator={text},smallest=1e-3]"),
        )
        x = target.sample(5, seed=1)
        sampler = ConditionedSampler(create("samplers", "pc[steps=10]"), condition.observe(x))
        drawn = sample(ExactScore(target, VPSDE()), sampler, 5).x
        torch.testing.assert_close(condition.measure(drawn), condition.measure(x), rtol=0, atol=1e-4)
        assert text in ("identity", "blur[width=0.5]") or float((drawn - x).abs().max()) > 0.1

    def test_noise_has_the_posterior_of_a_gaussian(self):
        """x ~ N(0, s^2), y = x + r z: x | y ~ N(k y, k r^2), k = s^2 / (s^2 + r^2); the other entries keep N(0, s^2).

        y is last imposed at the grid's noise q >= r next to r, with a fresh normal number of variance q^2 - r^2.
        """
        s, r, n = 0.7, 0.4, 6000
        target, condition = GaussianTarget((1, 1, 2), std=s), create("conditions", f"linear[operator=mask,noise={r}]")
        observed = condition.given(torch.full((n, 1, 1), 1.0, dtype=torch.float64), (1, 1, 2))
        sampler = create("samplers", "pc[predictor=dpmpp_2m_sde,grid=logsnr,steps=150]")
        x = sample(ExactScore(target, VPSDE()), ConditionedSampler(sampler, observed), n, seed=3).x.double().flatten(1)
        q = min(
            float(q) for q in VPSDE().log_noise_ratio(create("grids", "logsnr").times(VPSDE(), 150)).exp() if q >= r
        )
        k = s**2 / (s**2 + q**2)
        assert q < 1.1 * r
        assert float(x[:, 0].mean()) == pytest.approx(k, abs=4 * r / math.sqrt(n))
        assert float(x[:, 0].var()) == pytest.approx(k * q**2 + k**2 * (q**2 - r**2), rel=0.06)
        assert float(x[:, 1].mean()) == pytest.approx(0, abs=4 * s / math.sqrt(n))
        assert float(x[:, 1].var()) == pytest.approx(s**2, rel=0.06)

    def test_noise_is_of_the_stated_level_and_keyed_by_the_sample(self):
        condition, x = create("conditions", "linear[operator=average,noise=0.3]"), torch.zeros(500, 1, 4, 4)
        y = condition.measure(x)
        assert float(y.std()) == pytest.approx(0.3, rel=0.05)
        assert torch.equal(condition.measure(x[:9]), y[:9])
        other = create("conditions", "linear[operator=average,noise=0.3,seed=1]").measure(x)
        assert not torch.isclose(other, y).any()

    def test_particles_need_a_part_without_noise(self):
        with pytest.raises(ScoreSDEError, match="particles need a known part without noise: set noise=0"):
            create("conditions", "smcdiff[condition='linear[noise=0.1]']")


class ReverseOperator(Operator):
    """Every event backwards: no adjoint and no spectrum of its own."""

    def measured(self, shape):
        return shape

    def apply(self, x):
        return x.flatten(1).flip(1).reshape(x.shape) * 2


def test_what_follows_from_apply_alone():
    operator, y = ReverseOperator(), events(3, 2, 4)
    assert torch.equal(operator.adjoint(y, (2, 4)), operator.apply(y))
    assert torch.allclose(operator.pseudo_inverse(y, (2, 4)), operator.apply(y) / 4)
    assert torch.allclose(operator.spectrum((2, 4)).values, torch.full((8,), 2.0, dtype=torch.float64))


def test_others_register_theirs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sums_of_pairs.py").write_text('''
import attrs
from scoresde_run.sampling.operator import Operator

@attrs.frozen
class Pairs(Operator):
    """Sums of neighbours: y_k = x_2k + x_2k+1."""

    def measured(self, shape):
        if shape[-1] % 2:
            raise ValueError(f"pairs need an even number of columns, not {shape[-1]}")
        return (*shape[:-1], shape[-1] // 2)

    def apply(self, x):
        self.measured(tuple(x.shape[1:]))
        return x.unflatten(-1, (-1, 2)).sum(-1)
''')  # fmt: skip
    rows = "api: 1\noperators: {pairs: {target: 'sums_of_pairs:Pairs', summary: sums of neighbours}}\n"
    (tmp_path / "mine.yaml").write_text(rows)
    mine = ["--registry", "mine.yaml"]
    assert main([*mine, "check", "operators", "pairs"]) == 0
    draw = ["sample", "--target", "gaussian[shape=[4]]", "--condition", "linear[operator=pairs]", "--observe",
            "exact[target=gaussian[shape=[4]]]", "--steps", "5", "--n", "3", "--out", "drawn"]  # fmt: skip
    assert main([*mine, *draw]) == 0
    with np.load("drawn/samples.npz") as file:
        drawn, seen = file["floats"], file["observed"]
    pairs = drawn.reshape(3, 2, 2).sum(2)
    assert drawn.shape == (3, 4)
    x = create("datasets", "exact[target=gaussian[shape=[4]]]").load("test")[:3].reshape(3, 2, 2).sum(2)
    np.testing.assert_allclose(pairs, x.numpy(), atol=1e-4)
    assert seen.shape == (3, 4)
