"""Batches: batch k depends on (seed, k) alone, for any number of processes and workers; preprocessing of events."""

import itertools
import multiprocessing
import signal
import subprocess

import attrs
import pytest
import torch
from scoresde import Batches, Dataset, Draws, Preprocessing
from scoresde_core.errors import UsageError
from scoresde_run.data.batches import order


@attrs.frozen
class Counted(Dataset):
    """Images whose pixels all equal their index; read one by one unless loaded."""

    count: int = 10

    @property
    def shape(self):
        return (1, 2, 2)

    def load(self, split="train"):
        return torch.arange(self.count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()

    def open(self, split="train"):
        return [*self.load(split)]


PLAIN = Preprocessing(centered=False)


def take(batches, start, count):
    stream = batches.stream(start)
    return torch.stack([next(stream).x for _ in range(count)])


def shown(batches, start, count):
    """The indices of the events in some batches of :class:`Counted`."""
    return (take(batches, start, count)[..., 0, 0, 0] * 255).round().int().tolist()


def flat(batches, start, count):
    return [index for batch in shown(batches, start, count) for index in batch]


def test_every_event_comes_once_an_epoch():
    stream = flat(Batches(Counted(), 4, seed=1, preprocessing=PLAIN), 0, 15)
    epochs = [stream[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert epochs[2] == order(1, 2, 10).tolist()


@pytest.mark.parametrize("batch_size", [3, 4, 10, 27], ids=lambda b: f"batch{b}")
def test_the_stream_is_one_sequence_cut_into_batches(batch_size):
    found = flat(Batches(Counted(), batch_size, preprocessing=PLAIN), 0, 6)
    expected = torch.cat([order(0, epoch, 10) for epoch in range(20)]).tolist()
    assert found == expected[: 6 * batch_size]


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "decoded"])
def test_a_stream_is_entered_anywhere(resident):
    def batches():
        preprocessing = Preprocessing(flip=True, dequantise=True)
        return Batches(Counted(), 4, seed=3, preprocessing=preprocessing, resident=resident, workers=0)

    assert torch.equal(take(batches(), 0, 9)[5:], take(batches(), 5, 4))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_workers_give_what_one_process_gives():
    state = torch.random.get_rng_state()
    with_workers = take(Batches(Counted(), 4, resident=False, workers=2), 2, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(with_workers, take(Batches(Counted(), 4, resident=True), 2, 5))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_workers_outlive_a_signal_to_the_whole_group(number):
    others = multiprocessing.active_children()
    stream = Batches(Counted(), 4, resident=False, workers=2).stream()
    next(stream), next(stream)  # one from each: both are at work
    workers = [child for child in multiprocessing.active_children() if child not in others]
    assert len(workers) == 2
    subprocess.run(["kill", f"-{number}", *(str(worker.pid) for worker in workers)], check=True)
    for _ in range(20):
        assert next(stream).x.shape == (4, 1, 2, 2)
    workers[0].terminate()  # as their parent does where one does not answer
    workers[0].join(10)
    assert workers[0].exitcode == 0
    stream.close()
    workers[1].join(10)
    assert workers[1].exitcode == 0


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "decoded"])
@pytest.mark.parametrize("world", [1, 2])
def test_one_pass_meets_every_event_in_order(world, resident):
    """In evaluation: three batches of 4, the last one short, shared among processes, the same in each call."""
    preprocessing = Preprocessing(centered=False, dequantise=True)
    options = dict(preprocessing=preprocessing, world=world, resident=resident, workers=0)
    passes = [[batch.x for batch in Batches(Counted(), 4, rank=rank, **options).once()] for rank in range(world)]
    rows = [part for parts in itertools.zip_longest(*passes) for part in parts if part is not None]
    assert (torch.cat(rows)[:, 0, 0, 0] * 256).floor().tolist() == list(range(10))
    whole = Batches(Counted(), 4, **{**options, "world": 1})
    for _ in range(2):
        assert torch.equal(torch.cat(rows), torch.cat([batch.x for batch in whole.once()]))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_global_batch(world):
    preprocessing = Preprocessing(dequantise=True)

    def of(rank, world):
        return take(Batches(Counted(), 8, seed=5, preprocessing=preprocessing, rank=rank, world=world), 1, 3)

    assert torch.equal(torch.cat([of(rank, world) for rank in range(world)], 1), of(0, 1))


def test_seeds_differ():
    assert shown(Batches(Counted(), 10, seed=0, preprocessing=PLAIN), 0, 1) != shown(
        Batches(Counted(), 10, seed=1, preprocessing=PLAIN), 0, 1
    )


def test_small_sets_are_resident_as_bytes_and_large_ones_are_not(monkeypatch):
    batches = Batches(Counted(), 4)
    assert batches.resident
    assert batches.events.dtype == torch.uint8
    monkeypatch.setattr("scoresde_run.data.batches.RESIDENT_BYTES", 39)
    assert not Batches(Counted(), 4).resident


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=6, world=4), "a batch of 6 does not divide among 4 processes"),
        (dict(batch_size=0), "a batch of 0"),
    ],
    ids=["ranks", "none"],
)
def test_a_batch_that_does_not_divide_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Batches(Counted(), **arguments)


def test_an_empty_set_is_refused():
    with pytest.raises(UsageError, match=r"the train split of .* is empty"):
        Batches(Counted(0), 4)


# Preprocessing.


def test_scaling_is_the_published_one():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert Preprocessing(centered=False)(images).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert Preprocessing()(images).flatten().tolist() == pytest.approx([-1, -0.6, 1])


@pytest.mark.parametrize("dequantise", [False, True], ids=["points", "bins"])
@pytest.mark.parametrize("centered", [False, True], ids=["unit", "centered"])
def test_images_come_back(centered, dequantise):
    preprocessing = Preprocessing(centered=centered, dequantise=dequantise)
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    assert torch.equal(preprocessing.to_images(preprocessing(images)), images)
    assert preprocessing.to_images(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_dequantisation_is_uniform_within_a_grey_level():
    images = torch.full((200, 1, 10, 10), 37, dtype=torch.uint8)
    u = (Preprocessing(centered=False, dequantise=True)(images, Draws(0, 0, 200)) * 256 - 37).double()
    assert 0 <= u.min() < u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 4 / 12**0.5 / 20_000**0.5
    assert float(u.var()) == pytest.approx(1 / 12, rel=0.03)


def test_half_of_the_images_are_mirrored_and_differ_from_step_to_step():
    images = torch.tensor([[[[0, 255]]]], dtype=torch.uint8).expand(4000, 1, 1, 2)
    preprocessing = Preprocessing(centered=False, flip=True)
    first, second = (preprocessing(images, Draws(0, step, 4000))[:, 0, 0, 0] for step in (0, 1))
    assert set(first.tolist()) == {0.0, 1.0}
    assert abs(float(first.mean()) - 0.5) < 4 * 0.5 / 4000**0.5
    assert not torch.equal(first, second)
    assert torch.equal(preprocessing(images), images / 255)


def test_points_pass_and_are_not_mirrored():
    points = torch.randn(5, 2)
    assert torch.equal(Preprocessing()(points), points)
    with pytest.raises(UsageError, match="flip=false"):
        Preprocessing(flip=True)(points)
