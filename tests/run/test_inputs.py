"""Files that are no files, lie about their size, or expand beyond the memory: one line that names them, at once."""

import json
import os
import resource
import signal
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scoresde_bench.plan.suite import Suite
from scoresde_core import document, manifest
from scoresde_core.errors import FileError, ScoreSDEError
from scoresde_core.registry import load_registry
from scoresde_plugins.datasets.array import ArrayDataset
from scoresde_plugins.datasets.files import ImageFolderDataset, JPEGArchiveDataset
from scoresde_plugins.datasets.published import DownsampledImageNetDataset
from scoresde_plugins.evaluators import statistics_file
from scoresde_plugins.extractors.networks import Classifier, Inception
from scoresde_plugins.song2021 import flax_checkpoint
from scoresde_plugins.song2021.published_checkpoint import read_published
from scoresde_plugins.targets import mfa
from scoresde_run.commands import events
from scoresde_run.data import array_file
from scoresde_run.machine import inputs
from scoresde_run.models import checkpoint
from scoresde_run.models.config import Config
from scoresde_run.results.results import read_rows
from scoresde_run.training import state


def mask(path):
    from scoresde_plugins.operators import mask

    mask._read(path)


def packed(path):
    JPEGArchiveDataset(path=str(path.parent)).load("train")


READERS = {
    "mine.yaml": [manifest.read],
    "preset.yaml": [lambda path: Config.read(path.parent, path.name), lambda path: Suite.read(path.parent, path.name)],
    "model.yaml": [lambda path: checkpoint.read(path.parent)],
    "weights.safetensors": [
        checkpoint.file_hash,
        mfa.load,
        statistics_file.read,
        lambda path: Classifier(str(path)),
    ],
    "results.jsonl": [read_rows],
    "state.json": [lambda path: state.read(path.parent)],
    "a.npz": [
        lambda path: array_file.read(path),
        lambda path: ArrayDataset(path=str(path)).load(),
        statistics_file.read,
    ],
    "train.npz": [packed],
    "mask.npy": [mask],
    "mask.png": [mask, lambda path: events._pictures(path, (1, 8, 8))],
    "checkpoint.pth": [read_published, lambda path: Inception(weights=str(path)).load(torch.device("cpu"))],
    "checkpoint_12": [lambda path: flax_checkpoint.read(path) or read_published(path)],
    "a.zip": [lambda path: ImageFolderDataset(path=str(path)).load()],
    "a.tfrecords": [lambda path: ImageFolderDataset(path=str(path)).load()],
    "train_data_batch_1": [lambda path: DownsampledImageNetDataset(root=str(path.parent)).load()],
}
CASES = [
    pytest.param(name, read, id=f"{name}-{number}")
    for name, found in READERS.items()
    for number, read in enumerate(found)
]


def fifo(path):
    os.mkfifo(path)


def zero(path):
    path.symlink_to("/dev/zero")


def sparse(path):
    """8 TiB, of which none is on the disk."""
    with path.open("wb") as file:
        file.truncate(2**43)


def refused(read, path):
    """The error of a reader, which is one line, names the file, and comes within 5 seconds and 300 MB."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    try:
        with pytest.raises(ScoreSDEError) as caught:
            read(path)
    finally:
        signal.alarm(0)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text or str(path.parent) in text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    return text


@pytest.mark.parametrize("make", [fifo, zero, sparse, Path.mkdir], ids=["pipe", "device", "sparse", "folder"])
@pytest.mark.parametrize(("name", "read"), CASES)
def test_no_file(name, read, make, tmp_path):
    make(tmp_path / name)
    refused(read, tmp_path / name)


@pytest.mark.parametrize(
    "junk", [b"", b"\x00" * 64, b"\xff" * 64, b"PK\x05\x06" + b"\0" * 18, b"[" * 10_000, b"9" * 5000]
)
@pytest.mark.parametrize(("name", "read"), CASES)
def test_junk(name, read, junk, tmp_path):
    if name == "results.jsonl":
        junk += b"\n"
    (tmp_path / name).write_bytes(junk)
    if (name == "results.jsonl" and junk == b"\n") or read is checkpoint.file_hash:
        return
    refused(read, tmp_path / name)


class TestArrays:
    def npz(self, path, header, data=b"", **more):
        """An .npz file with one array ``images`` of this header."""
        text = str({"fortran_order": False, **header}).encode()
        text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
        with zipfile.ZipFile(path, "w", **more) as file:
            file.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)

    def test_a_header_of_58_tib(self, tmp_path):
        self.npz(tmp_path / "a.npz", {"descr": "<f8", "shape": (2**43 - 7,)}, b"1" * 64)
        for read in READERS["a.npz"]:
            assert "GiB" not in refused(read, tmp_path / "a.npz")
        (tmp_path / "mask.npy").write_bytes(zipfile.ZipFile(tmp_path / "a.npz").read("images.npy"))
        assert f"the header of it says float64 of shape [{2**43 - 7}]" in refused(mask, tmp_path / "mask.npy")

    @pytest.mark.parametrize("shape", [(-1, 4), (2**62, 2**62)])
    def test_an_impossible_shape(self, shape, tmp_path):
        self.npz(tmp_path / "a.npz", {"descr": "<f8", "shape": shape}, b"1" * 64)
        for read in READERS["a.npz"]:
            refused(read, tmp_path / "a.npz")

    def test_a_bomb(self, tmp_path, monkeypatch):
        """8 MiB of zeros in 8 kB, with the least size of a bomb lowered."""
        monkeypatch.setattr(inputs, "_SMALL", 2**20)
        np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2**18, 4)), mu=np.zeros(2**20), sigma=np.zeros((2, 2)))
        for read in READERS["a.npz"]:
            assert (
                "images.npy expands from 8" in (text := refused(read, tmp_path / "a.npz")) or "mu.npy expands" in text
            )
        with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a/data.pkl", b"\0" * 2**23)
        assert "a/data.pkl expands from 8" in refused(read_published, tmp_path / "a.pth")
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a.png", b"\0" * 2**23)
        assert "a.png expands from 8" in refused(READERS["a.zip"][0], tmp_path / "a.zip")

    def test_what_is_dense_or_small_is_read(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2**16, 4)))
        assert ArrayDataset(path=str(tmp_path / "a.npz")).load().shape[1:] == (4,)

    @pytest.mark.parametrize("dtype", [np.longdouble, complex, object, "U3", "M8[s]"], ids=str)
    def test_no_numbers(self, dtype, tmp_path):
        np.savez(tmp_path / "a.npz", images=np.zeros((4, 2)).astype(dtype))
        for read in (*READERS["a.npz"][:2], lambda path: ArrayDataset(path=str(path)).shape):
            refused(read, tmp_path / "a.npz")
        np.savez(tmp_path / "a.npz", mu=np.zeros(2, dtype), sigma=np.eye(2).astype(dtype))
        assert "mu has dtype" in refused(statistics_file.read, tmp_path / "a.npz")

    def test_an_array_beside_it_may_be_anything(self, tmp_path):
        np.savez(tmp_path / "a.npz", images=np.zeros((4, 2)), names=np.array(["a", "b"]), odd=np.array([None]))
        assert ArrayDataset(path=str(tmp_path / "a.npz"), test_share=0.5).load().shape[1:] == (2,)


def test_a_picture_of_too_many_pixels(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    (tmp_path / "mask.png").write_bytes(data)
    for read in READERS["mask.png"]:
        assert "decompression bomb" in refused(read, tmp_path / "mask.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mask.png").rename(tmp_path / "pictures" / "mask.png")
    assert "decompression bomb" in refused(READERS["a.zip"][0], tmp_path / "pictures")


@pytest.mark.parametrize(
    "text",
    ["[" * 500 + "]" * 500, "{a: " * 60 + "1" + "}" * 60, "a: 0x" + "f" * 5000, "a: " + "9" * 5000, "a: 2001-99-99",
     "a: &a [*a]", "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))])],
    ids=["levels", "mappings", "hexadecimal", "digits", "date", "itself", "aliases"],
)  # fmt: skip
@pytest.mark.parametrize("read", [READERS["mine.yaml"][0], *READERS["preset.yaml"], READERS["model.yaml"][0]])
def test_a_hostile_document(read, text, tmp_path):
    (tmp_path / "model.yaml").write_text(text)
    refused(read, tmp_path / "model.yaml")


def test_many_keys_take_no_quadratic_time():
    assert len(document.load("".join(f"k{i}: 1\n" for i in range(30_000)))) == 30_000


def test_a_large_document(tmp_path):
    (tmp_path / "mine.yaml").write_text("# " + "a" * 2**20)
    assert "it has 1,048,578 bytes, a file of its kind at most 1,048,576" in refused(
        manifest.read, tmp_path / "mine.yaml"
    )


def test_labels_with_many_levels(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": ' + "[" * 100_000)
    (tmp_path / "a.png").write_bytes(b"")
    assert "too many levels" in refused(lambda path: ImageFolderDataset(path=str(path)).known(), tmp_path)


def test_metadata_with_many_levels(tmp_path):
    save_file({"mean": torch.zeros(1)}, tmp_path / "a.safetensors", {
        "format": "scoresde.mfa", "version": "1", "shape": "[" * 100_000, "entropy": "0", "entropy_stderr": "0",
    })  # fmt: skip
    refused(mfa.load, tmp_path / "a.safetensors")


def test_a_registry_of_the_environment_that_is_a_pipe(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "mine.yaml")
    monkeypatch.setenv("SCORESDE_REGISTRY", str(tmp_path / "mine.yaml"))
    assert "is a pipe" in refused(lambda path: load_registry(), tmp_path / "mine.yaml")


def test_the_advice_to_trust_a_pickle_is_not_passed_on(tmp_path):
    """Torch's message recommends weights_only=False, which would run what is in the file."""
    torch.save({"weights": Path("a")}, tmp_path / "a.pth")
    for read in READERS["checkpoint.pth"]:
        text = refused(read, tmp_path / "a.pth")
        assert "holds a pickled" in text
        assert "weights_only" not in text


def test_rows_may_be_large(tmp_path):
    """The bound of documents is not one of results."""
    row = {"schema": 2, "cell": "a", "status": "failed", "reason": "b" * 2**21}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    assert read_rows(tmp_path / "results.jsonl") == {"a": row}
    with pytest.raises(FileError):
        inputs.text(tmp_path / "results.jsonl")
