"""Models with data of each sample: selecting samples selects their rows of the model too."""

import pytest
import torch
from scoresde import ConditionedSampler, ExactScore, NetworkScore, create, sample
from scoresde_core.errors import UsageError
from scoresde_plugins.conditions.label import ClassObservation, GuidedScore, TargetClassifier
from scoresde_plugins.likelihood.bound import likelihood_bound
from scoresde_plugins.likelihood.likelihood import log_likelihood as likelihood
from scoresde_plugins.numerics.encoding import decode, encode

SDE = create("sdes", "vp[t_min=0.05]")
CENTRES = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
SAMPLERS = [
    "adaptive_sde[rel_tol=0.3,abs_tol=0.1]",
    "pc[steps=8,predictor=dpmpp_2m]",
    "pc[steps=8,corrector=ald]",
    "ode[method=rk4,steps=8]",
]


class Centred(torch.nn.Module):
    """The score of N(centre, 0.5^2 I), with one ``centre`` per sample and one ``scale`` for all."""

    def forward(self, x, t, centre, scale, note=""):
        alpha, sigma = (f(t)[:, None] for f in (SDE.alpha, SDE.sigma))
        return scale * (alpha * centre[:, None] - x) / ((0.5 * alpha) ** 2 + sigma**2)


def model(centres=CENTRES):
    return NetworkScore(
        Centred(),
        SDE,
        (2,),
        parameterisation="score",
        label="t",
        cond={"centre": centres, "scale": torch.ones(1, 1), "note": "plain"},
    )


def draw(score, sampler, n=6, **more):
    return sample(score, create("samplers", sampler), n, seed=3, dtype=torch.float64, **more)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_has_its_own_row(sampler):
    """A sample is the same as with its row alone, whatever the batch and whichever samples finished before."""
    whole = draw(model(), sampler).x
    torch.testing.assert_close(draw(model(), sampler, batch_size=4).x, whole)
    alone = draw(model(CENTRES[:1].expand(6)), sampler).x[0]
    torch.testing.assert_close(alone, whole[0])
    assert float((whole[5] - whole[0]).min()) > 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_parts_are_counted_by_the_whole(sampler):
    counted = model()
    drawn = draw(counted, sampler, batch_size=4)
    assert drawn.nfe == counted.rows / 6 > 0
    if "adaptive" not in sampler:
        assert counted.calls == 2 * drawn.nfe  # two batches


def test_too_few_rows_are_an_error():
    """Before any work; and wherever rows are chosen."""
    counted = model()
    with pytest.raises(UsageError, match="'centre' has 6 rows for 12 samples: give one row a sample, or one"):
        draw(counted, SAMPLERS[1], n=12, batch_size=6)
    assert counted.calls == 0
    with pytest.raises(ValueError, match="'centre' has 6 rows, too few for sample 11: give one row per sample"):
        counted.select(torch.tensor([0, 11]))


def test_a_row_for_all_serves_every_batch():
    one = NetworkScore(
        Centred(), SDE, (2,), parameterisation="score", label="t", cond={"centre": CENTRES[:1], "scale": 1.0}
    )
    torch.testing.assert_close(draw(one, SAMPLERS[1], batch_size=4).x, draw(one, SAMPLERS[1]).x)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "adaptive_sde[error=drift,rel_tol=0.3,abs_tol=0.1]"])
def test_guidance_keeps_its_labels(sampler):
    """Each sample equals that of a run in which all samples have its class."""
    target = create("targets", "mixture2d[layout=ring]").to("cpu", torch.float64)
    labels, score = torch.tensor([0, 3, 1, 7, 2, 5]), ExactScore(target, SDE)

    def guided(classes):
        observed = ClassObservation(classes, TargetClassifier(target), scale=2.0)
        sampler_ = ConditionedSampler(create("samplers", sampler), observed)
        return sample(score, sampler_, 6, seed=1, batch_size=4, dtype=torch.float64).x

    mixed = guided(labels)
    for k in (1, 3):
        torch.testing.assert_close(mixed[k], guided(labels[k].expand(6))[k])
    assert sorted(target.responsibilities(mixed).argmax(1).tolist()) == sorted(labels.tolist()) or "pc" in sampler


def test_particles_have_the_row_of_their_sample():
    """A condition on the first coordinate, with a model whose second coordinate has another centre for each sample."""
    observed = create("conditions", "smcdiff[condition=inpaint[mask=left],particles=8]").observe(
        CENTRES[:, None].expand(6, 2).clone()
    )
    sampler = ConditionedSampler(create("samplers", "pc[steps=30,grid=logsnr,predictor=ddim]"), observed)
    counted = model()
    drawn = sample(counted, sampler, 6, seed=2, dtype=torch.float64, batch_size=4)
    assert float((drawn.x[:, 1] - CENTRES).abs().max()) < 4 * 0.5
    assert float((drawn.x[:, 1] - CENTRES.flip(0)).abs().max()) > 2
    assert drawn.nfe == counted.rows / 6 == 8 * 30


def test_likelihoods_and_encodings_in_batches():
    x = CENTRES[:, None] + 0.1
    x = torch.cat([x, x], 1)
    for measure in (
        lambda size: likelihood(model(), x, trace="exact", t_min=0.05, batch_size=size).log_prob,
        lambda size: likelihood_bound(model(), x, times=100, t_min=0.05, batch_size=size).nats,
        lambda size: encode(model(), x, batch_size=size),
        lambda size: decode(model(), x, batch_size=size, denoise=True),
    ):
        torch.testing.assert_close(measure(4), measure(None), rtol=1e-3, atol=2e-3)


def test_a_guided_part_counts_for_the_model_behind_it():
    target = create("targets", "mixture2d[layout=ring]")
    inner = model()
    guided = GuidedScore(inner, TargetClassifier(target), torch.arange(6), 1.0)
    x, level = torch.zeros(2, 2), SDE.level(torch.tensor(0.5))
    guided.select(torch.tensor([1, 4])).score(x, level)
    assert (guided.calls, guided.rows, inner.calls, inner.rows) == (1, 2, 1, 2)
