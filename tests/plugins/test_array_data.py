"""The data set ``array``: what a file holds is what is read, and what it cannot hold is one line."""

import pickle
import sys

import numpy as np
import pytest
import torch
from scoresde import Batches, Preprocessing
from scoresde_core import create
from scoresde_core.errors import FileError, ScoreSDEError, UsageError
from scoresde_plugins.datasets import array
from scoresde_run.commands.shell import main


def generator():
    return np.random.default_rng(0)


def made(path, **more):
    return create("datasets", "array", path=str(path), **more)


def train_rows(values, share=10):
    return values[np.arange(len(values)) % share != share - 1]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (7,), (1, 256), (2, 4, 6), (1, 5, 4, 3), (2, 2, 2, 2, 2)], ids=str)
def test_floats_of_any_rank_and_type(tmp_path, dtype, shape):
    values = generator().normal(size=(20, *shape)).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    data = made(tmp_path / "a.npy")
    assert (data.shape, data.levels) == (shape or (1,), None)
    expected = train_rows(values).reshape(18, *data.shape).astype(np.float32)
    assert (data.load().dtype, data.load().numpy().tolist()) == (torch.float32, expected.tolist())
    assert data.load("test").numpy().ravel().tolist() == values[9::10].astype(np.float32).ravel().tolist()


@pytest.mark.parametrize(
    ("shape", "event", "order"),
    [
        ((6, 5), (1, 6, 5), None),
        ((6, 5, 3), (3, 6, 5), (0, 3, 1, 2)),
        ((3, 6, 5), (3, 6, 5), None),
        ((7,), (7,), None),
        ((1, 4, 5, 6), (1, 4, 5, 6), None),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "levels"), [("u1", 256), ("<u2", 65536), (">u2", 65536)])
def test_grey_levels_of_any_rank(tmp_path, dtype, levels, shape, event, order):
    values = generator().integers(0, levels, (20, *shape)).astype(dtype)
    np.savez(tmp_path / "a.npz", images=values)
    data = made(tmp_path / "a.npz")
    assert (data.shape, data.levels) == (event, levels)
    expected = (values if order is None else values.transpose(order)).reshape(20, *event)
    assert data.load("test").tolist() == expected[9::10].astype(int).tolist()
    assert Preprocessing(levels=levels)(data.load()).abs().max() <= 1


def test_a_second_file_is_the_test_split(tmp_path):
    values = generator().normal(size=(6, 3))
    np.save(tmp_path / "a.npy", values[:4])
    np.save(tmp_path / "b.npy", values[4:])
    data = made(tmp_path / "a.npy", test=str(tmp_path / "b.npy"))
    assert torch.equal(torch.cat([data.load("train"), data.load("test")]), torch.from_numpy(values).float())


class TestLarge:
    @pytest.fixture
    def values(self, tmp_path, monkeypatch):
        """An array that counts as large."""
        monkeypatch.setattr(array, "LARGE", 100)
        values = generator().normal(size=(40, 2, 3))
        np.save(tmp_path / "a.npy", values)
        return values

    def test_events_are_read_as_they_are_asked_for(self, values, tmp_path, monkeypatch):
        data = made(tmp_path / "a.npy")
        monkeypatch.setattr(array.ArrayDataset, "load", lambda *_: pytest.fail("read whole"))
        events = pickle.loads(pickle.dumps(data.open()))
        assert (len(events), events[35].numpy().tolist()) == (36, train_rows(values)[35].tolist())

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    @pytest.mark.parametrize("workers", [0, 2])
    def test_batches_are_those_of_an_array_in_memory(self, values, tmp_path, workers):
        data, batches = made(tmp_path / "a.npy"), []
        for resident in (False, True):
            stream = Batches(data, 8, resident=resident, workers=workers).stream()
            batches.append(torch.stack([next(stream).x for _ in range(6)]))
        assert torch.equal(*batches)

    def test_a_row_that_is_not_finite_is_named(self, values, tmp_path):
        values[37, 1, 2] = np.nan
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(FileError, match=r"row 37 of .*a.npy, counted from 0, has values that are not finite"):
            made(tmp_path / "a.npy").open()


class TestTables:
    @pytest.mark.parametrize("names", ["", "height,weight\n"])
    def test_numbers_between_commas(self, tmp_path, names):
        values = generator().normal(size=(20, 2))
        text = "\n".join(f"{float(a)!r}, {float(b):.17e}" for a, b in values)
        (tmp_path / "a.csv").write_text(f"{names}{text}\n\n")
        data = made(tmp_path / "a.csv")
        assert (data.shape, data.levels) == ((2,), None)
        np.testing.assert_array_equal(data.load().numpy(), train_rows(values).astype(np.float32))

    def test_a_changed_table_is_read_again(self, tmp_path):
        import os

        for k, text in enumerate(("1\n2\n3\n", "1\n2\n4\n")):
            (tmp_path / "a.csv").write_text(text)
            os.utime(tmp_path / "a.csv", (k, k))
            assert made(tmp_path / "a.csv", test_share=0.9).load("test").tolist() == [[2.0]]
            assert made(tmp_path / "a.csv", test_share=0.9).load().tolist() == [[1.0], [3.0 + k]]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a,b\n1,2\n3,cat\n", "line 3 of .*a.csv has 'cat', not a number: write finite numbers"),
            ("1,2\n3,\n", "line 2 of .*a.csv has '', not a number"),
            ("1,2\n3,nan\n", "line 2 of .*a.csv has 'nan', not a number"),
            ("1,2\n\n-inf,2\n", "line 3 of .*a.csv has '-inf', not a number"),
            ("1,x\n3,4\n", "line 1 of .*a.csv has 'x', not a number"),
            ("a,b\nc,d\n", "line 2 of .*a.csv has 'c', not a number"),
            ("1;2\n3;4\n", "line 2 of .*a.csv has '3;4', not a number: write finite numbers between commas"),
            ("1,2\n3,4,5\n", "line 2 of .*a.csv has 3 columns, the first line 2: give each line as many"),
            ("a,b,c\n3,4\n", "line 2 of .*a.csv has 2 columns, the first line 3"),
            ("a,b\n", "has no line of numbers: write one event a line"),
            ("", "has no line of numbers"),
        ],
    )
    def test_what_is_no_table_is_one_line(self, tmp_path, text, words):
        (tmp_path / "a.csv").write_text(text)
        for read in (lambda: made(tmp_path / "a.csv").shape, lambda: made(tmp_path / "a.csv").load("test")):
            with pytest.raises(FileError, match=words) as caught:
                read()
            assert "\n" not in str(caught.value)


class TestKnown:
    def test_arrays_with_a_row_an_event(self, tmp_path):
        values, y = generator().normal(size=(20, 3)), generator().normal(size=(20, 3))
        image = generator().integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
        mask = generator().random((20, 3)) < 0.5
        np.savez(tmp_path / "a.npz", images=values, y=y, image=image, mask=mask, mean=np.zeros(3), word=np.array("a"))
        found = made(tmp_path / "a.npz").known("test")
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "y": (2, 3), "image": (2, 3, 6, 5), "mask": (2, 3)
        }  # fmt: skip
        np.testing.assert_array_equal(found["y"].numpy(), y[9::10].astype(np.float32))
        np.testing.assert_array_equal(found["image"].numpy(), image[9::10].transpose(0, 3, 1, 2))
        assert found["mask"].tolist() == mask[9::10].astype(float).tolist()

    @pytest.mark.parametrize("suffix", ["npy", "csv"])
    def test_labels_in_a_file_of_their_own(self, tmp_path, suffix):
        np.save(tmp_path / "a.npy", np.zeros((20, 2)))
        np.save(tmp_path / "b.npy", np.arange(20) % 7)
        (tmp_path / "b.csv").write_text("class\n" + "\n".join(str(k % 7) for k in range(20)))
        data = made(tmp_path / "a.npy", labels=f"{tmp_path}/b.{suffix}")
        assert data.known("test")["labels"].tolist() == [9 % 7, 19 % 7]
        assert (data.known()["labels"].dtype, len(data.known()["labels"])) == (torch.int64, 18)
        assert data.files() == [f"{tmp_path}/a.npy", f"{tmp_path}/b.{suffix}"]

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (np.arange(19), "a.npy has 20 events and 19 labels: give each event one"),
            (np.arange(20) / 2, "must be integers from 0"),
            (np.arange(20) - 1, "must be integers from 0"),
            (np.full(20, np.nan), "must be integers from 0"),
            (np.zeros((20, 2), int), "must be integers from 0"),
        ],
    )
    def test_labels_that_are_none(self, tmp_path, labels, words):
        np.save(tmp_path / "a.npy", np.zeros((20, 2)))
        np.save(tmp_path / "b.npy", labels)
        with pytest.raises(FileError, match=words):
            made(tmp_path / "a.npy", labels=f"{tmp_path}/b.npy").known()

    def test_labels_that_cannot_be_found(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((20, 2)))
        with pytest.raises(UsageError, match=r"a.npy has one array without a name, none called 'classes'"):
            made(tmp_path / "a.npy", labels="classes").known()
        np.save(tmp_path / "b.npy", np.arange(20))
        with pytest.raises(UsageError, match="has the labels of one split"):
            made(tmp_path / "a.npy", labels=f"{tmp_path}/b.npy", test=f"{tmp_path}/a.npy").known()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 2), np.int64), "must be uint8 or uint16 images, or float events .* got int64"),
        (np.zeros((4, 2), bool), "got bool"),
        (np.array([[0.0, 1.0], [np.inf, 0.0]]), "row 1 of .* not finite: remove the row"),
        (np.zeros((4, 2), complex), "complex128"),
        (np.float32(3), r"holds float32 of shape \[\]"),
    ],
    ids=["int64", "bool", "infinite", "complex", "a number"],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_arrays_that_are_no_events_are_one_line(tmp_path, values, words, name):
    np.save(tmp_path / name, values) if name == "a.npy" else np.savez(tmp_path / name, values)
    with pytest.raises(ScoreSDEError, match=words) as caught:
        made(tmp_path / name).load()
    assert "\n" not in str(caught.value)


def test_commands_take_npy_and_csv(tmp_path, capsys, monkeypatch):
    """``--dataset`` and ``--observe`` read what the data set reads."""
    monkeypatch.chdir(tmp_path)
    values = generator().normal(size=(3, 2)).astype(np.float32)
    np.save("a.npy", values)
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(repr, row)) for row in values.tolist()))
    np.savez("a.npz", images=values)
    latents = []
    for name in ("a.npz", "a.npy", "a.csv"):
        command = ["encode", "--target", "gaussian[shape=[2]]", "--dataset", name, "--device", "cpu"]
        assert main([*command, "--out", f"o-{name}"]) == 0, capsys.readouterr().err
        latents.append(np.load(f"o-{name}/latents.npz")["latents"])
    assert np.array_equal(latents[0], latents[1])
    assert np.array_equal(latents[0], latents[2])
    observe = ["sample", "--target", "gaussian[shape=[2]]", "--condition", "inpaint", "--observe", "a.npy", "--n", "3"]
    assert main([*observe, "--steps", "3", "--device", "cpu", "--out", "o"]) == 0
    np.testing.assert_array_equal(np.load("o/samples.npz")["floats"][:, 0], values[:, 0])


class TestLevels:
    def test_stated_levels_are_those_of_dequantisation_and_bits(self, tmp_path):
        from scoresde_plugins.likelihood.bits_per_dim import Grey

        values = generator().integers(0, 4096, (20, 6, 6)).astype("u2")
        np.save(tmp_path / "a.npy", values)
        data = made(tmp_path / "a.npy", levels=4096)
        assert (data.levels, made(tmp_path / "a.npy").levels) == (4096, 65536)
        x = Preprocessing(levels=data.levels)(data.load())
        expected = train_rows(values)[:, None] / 4095 * 2 - 1
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
        half = Preprocessing(levels=4096, dequantise=True)(data.load())
        np.testing.assert_allclose(half.numpy(), (train_rows(values)[:, None] + 0.5) / 4096 * 2 - 1, atol=1e-6)
        assert torch.equal(Preprocessing(levels=4096).to_images(x), data.load())
        assert Grey(levels=4096).levels == 4096

    @pytest.mark.parametrize(
        ("dtype", "levels", "words"),
        [
            ("u2", 300, "has grey levels up to 4095, not below levels=300"),
            ("u1", 4096, "levels=4096 is of uint16 arrays, not of"),
            ("f4", 4096, "levels=4096 is of uint16 arrays, not of"),
            ("u2", 100, "levels"),
        ],
    )
    def test_wrong_ones_are_one_line(self, tmp_path, dtype, levels, words):
        values = np.full((20, 6, 6), 4095 if dtype == "u2" else 1).astype(dtype)
        np.save(tmp_path / "a.npy", values)

        def read():
            data = made(tmp_path / "a.npy", levels=levels)
            return data.levels, data.load()

        with pytest.raises(ScoreSDEError, match=words) as caught:
            read()
        assert "\n" not in str(caught.value)


class TestColumns:
    def test_a_column_of_a_table_has_the_classes(self, tmp_path):
        values, kinds = generator().normal(size=(20, 2)), np.arange(20) % 3
        lines = [f"{a!r},{kind},{b!r}" for (a, b), kind in zip(values.tolist(), kinds, strict=True)]
        (tmp_path / "a.csv").write_text("\n".join(["height,kind,weight", *lines]))
        data = made(tmp_path / "a.csv", labels="kind")
        assert data.shape == (2,)
        np.testing.assert_array_equal(data.load("test").numpy(), values[9::10].astype("f4"))
        assert data.known("test")["labels"].tolist() == kinds[9::10].tolist()
        with pytest.raises(UsageError, match=r"a.csv has no column 'sort': it has height, kind, weight"):
            made(tmp_path / "a.csv", labels="sort").load()
        with pytest.raises(FileError, match=r"'weight' in .* must be integers from 0"):
            made(tmp_path / "a.csv", labels="weight").known()


class TestParquet:
    @pytest.fixture
    def write(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def to_file(**columns):
            parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
            return made(tmp_path / "a.parquet", labels="kind" if "kind" in columns else None)

        return to_file

    def test_columns_of_numbers(self, write):
        values = generator().normal(size=(20, 2))
        data = write(a=values[:, 0], b=values[:, 1], kind=np.arange(20) % 4)
        np.testing.assert_array_equal(data.load().numpy(), train_rows(values).astype("f4"))
        assert data.known("test")["labels"].tolist() == [1, 3]

    @pytest.mark.parametrize("column", [["a", "b"] * 10, [1.0, float("nan")] * 10, [1, None] * 10], ids=str)
    def test_words_and_gaps_are_one_line(self, write, column):
        with pytest.raises(FileError, match=r"the column 'b' of .*a.parquet has .* no finite numbers: leave it out"):
            write(a=[1.0] * 20, b=column).load()

    def test_what_is_none_is_one_line(self, tmp_path):
        pytest.importorskip("pyarrow")
        (tmp_path / "a.parquet").write_bytes(b"PAR1 no table")
        with pytest.raises(FileError, match=r"cannot read .*a.parquet as a .parquet table"):
            made(tmp_path / "a.parquet").load()

    def test_without_pyarrow_the_error_has_the_command(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        with pytest.raises(UsageError, match=r"needs pyarrow to be read: pip install 'scoresde\[data\]'"):
            made(tmp_path / "a.parquet").load()


@pytest.mark.parametrize(("count", "words"), [(0, r"is empty: .* \[0, 1\]"), (40_000_000, "store it uncompressed")])
def test_a_table_of_no_rows_or_of_far_too_many_is_refused_before_it_is_read(tmp_path, count, words):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": np.zeros(count)}), tmp_path / "table.parquet", compression="zstd")
    with pytest.raises(ScoreSDEError, match=words):
        create("datasets", f"array[path={tmp_path / 'table.parquet'}]").load()


def test_an_array_without_rows_is_refused(tmp_path):
    np.save(tmp_path / "none.npy", np.zeros((0, 2)))
    with pytest.raises(UsageError, match=r"is empty: its events have the shape \[0, 2\]"):
        create("datasets", f"array[path={tmp_path / 'none.npy'}]").load()
