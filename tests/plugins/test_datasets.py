"""Data sets: events are read as they were written, in the format of each set's distribution."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scoresde import Batches, Preprocessing
from scoresde_core import create, load_registry
from scoresde_core.errors import FileError, PluginError, UsageError
from scoresde_run.models.model import plan_data, plan_model

PLAIN = Preprocessing(centered=False)


def encoded(array, format="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format)
    return stream.getvalue()


def gradient(height, width, value=0):
    """An RGB picture whose pixels tell where they are."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, value)], -1).astype(np.uint8)


def take(batches, start, count):
    stream = batches.stream(start)
    return torch.stack([next(stream).x for _ in range(count)])


# Sets that torchvision reads.


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files(tmp_path, name, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    for part, count in (("train", 7), ("t10k", 3)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images[:count]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(count, np.uint8)))
    data = create("datasets", f"{name}[root={tmp_path}]")
    assert torch.equal(data.load("train"), torch.from_numpy(images).unsqueeze(1))
    assert len(data.load("test")) == 3
    (raw / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"damaged"))
    with pytest.raises(FileError, match=rf"or is damaged: give its folder, {name}\[root"):
        data.load()


def test_cifar10(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3072), dtype=np.uint8)
    for part, name in enumerate(["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]):
        (folder / name).write_bytes(pickle.dumps({"data": pixels[2 * part : 2 * part + 2], "labels": [0, 1]}))
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels[10:], "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = create("datasets", f"cifar10[root={tmp_path}]")
    assert torch.equal(data.load("train"), torch.from_numpy(pixels[:10]).reshape(-1, 3, 32, 32))
    assert torch.equal(data.load("test"), torch.from_numpy(pixels[10:]).reshape(-1, 3, 32, 32))
    assert data.shape == (3, 32, 32)


def test_svhn(tmp_path, monkeypatch):
    savemat = pytest.importorskip("scipy.io").savemat
    (tmp_path / "svhn").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    savemat(tmp_path / "svhn" / "train_32x32.mat", {"X": pixels, "y": np.ones((5, 1), np.uint8)})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    found = create("datasets", f"svhn[root={tmp_path}]").load("train")
    assert torch.equal(found, torch.from_numpy(pixels.transpose(3, 2, 0, 1).copy()))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "svhn", "celeba"])
def test_nothing_is_downloaded_unasked_and_the_remedy_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a download"))
    try:
        data = create("datasets", f"{name}[root={tmp_path}]")
    except PluginError:
        pytest.skip("its requirements are not installed")
    with pytest.raises(FileError, match=rf"{name}\[download=true\]") as caught:
        data.load()
    assert "\n" not in str(caught.value)


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(FileError, match="MNIST cannot be downloaded to"):
        create("datasets", f"mnist[root={tmp_path},download=true]").load()


# Files.


def test_celeba_is_cropped_as_published_and_split_by_its_list(tmp_path):
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for number in range(4):
        (folder / "img_align_celeba" / f"{number}.png").write_bytes(encoded(gradient(218, 178, number)))
    (folder / "list_eval_partition.txt").write_text("0.png 0\n1.png 1\n2.png 0\n3.png 2\n")
    data = create("datasets", f"celeba[root={tmp_path},size=140]")
    train = data.load("train")
    assert train[:, 2, 0, 0].tolist() == [0, 2]
    assert data.load("test")[:, 2, 0, 0].tolist() == [1]
    # Rows 39 .. 178 and columns 19 .. 158: the central 140 pixels.
    assert train[0, :2, [0, -1], [0, -1]].tolist() == [[39, 178], [19, 158]]
    assert create("datasets", f"celeba[root={tmp_path}]").load().shape == (2, 3, 64, 64)


@pytest.mark.parametrize(("name", "mode"), [("celeba", "bilinear"), ("image_folder", "bicubic")])
def test_pictures_shrink_by_the_published_filter(tmp_path, name, mode):
    """Antialiased, against torch's own resampling of the central 140 pixels."""
    array = np.random.default_rng(0).integers(60, 196, (218, 178, 3), dtype=np.uint8)  # no overshoot to cut off
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(encoded(array))
    (folder / "2.png").write_bytes(encoded(array))
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("1.png 0\n")
    where = f"root={tmp_path}" if name == "celeba" else f"path={folder},crop=140,test_share=0.5"
    found = create("datasets", f"{name}[{where},size=64]").load()[0].double()
    crop = torch.from_numpy(array[39:179, 19:159]).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(crop, (64, 64), mode=mode, antialias=True)[0]
    assert (found - expected).abs().max() < 1.1


def test_celeba_out_of_its_zip(tmp_path):
    (tmp_path / "celeba").mkdir()
    with zipfile.ZipFile(tmp_path / "celeba" / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/1.png", encoded(gradient(218, 178, 9)))
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("1.png 0\n")
    assert create("datasets", f"celeba[root={tmp_path}]").load()[0, 2].unique().tolist() == [9]


def lmdb_folder(path, rows):
    """A database as LSUN's own export makes it: encoded images under keys that are their hashes."""
    environment = pytest.importorskip("lmdb").open(str(path), map_size=1 << 20)
    with environment.begin(write=True) as transaction:
        for key, value in rows.items():
            transaction.put(key, value)
    environment.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_lsun(tmp_path):
    rows = {f"{k:040x}".encode(): encoded(gradient(10, 14, k), "WEBP" if k == 2 else "PNG") for k in range(3)}
    lmdb_folder(tmp_path / "church_outdoor_val_lmdb", rows)
    lmdb_folder(tmp_path / "church_outdoor_train_lmdb", {key: rows[key] for key in sorted(rows)[:2]})
    data = create("datasets", f"lsun[root={tmp_path},size=10]")
    images = data.load("test")
    assert images.shape == (3, 3, 10, 10)
    # The central square of 10 x 14 pixels begins at column 2.
    assert images[1, :, 0, 0].tolist() == [0, 2, 1]
    assert data.load("train")[:, 2, 0, 0].tolist() == [0, 1]
    again = create("datasets", f"lsun[root={tmp_path},size=10]").open("test")  # lmdb opens a folder once a process
    assert torch.equal(torch.stack([again[i] for i in range(3)]), images)
    with_workers = take(Batches(data, 2, split="test", resident=False, workers=2), 0, 3)
    assert torch.equal(with_workers, take(Batches(data, 2, split="test", resident=True), 0, 3))


def test_lsun_that_is_not_there_or_damaged(tmp_path):
    pytest.importorskip("lmdb")
    data = create("datasets", f"lsun[root={tmp_path},category=bedroom]")
    with pytest.raises(FileError, match=r"LSUN folder .*bedroom_train_lmdb does not exist: give its parent"):
        data.load("train")
    (tmp_path / "bedroom_val_lmdb").mkdir()
    (tmp_path / "bedroom_val_lmdb" / "data.mdb").write_bytes(b"damaged" * 4096)
    with pytest.raises(FileError, match=r"cannot read the LSUN database .*bedroom_val_lmdb"):
        data.load("test")


def example_class():
    """tf.train.Example, by Google's own library from its schema."""
    descriptors, messages, pools = (
        pytest.importorskip(f"google.protobuf.{name}")
        for name in ("descriptor_pb2", "message_factory", "descriptor_pool")
    )
    field = descriptors.FieldDescriptorProto
    file = descriptors.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")

    def message(name, *fields, to=file.message_type):
        made = to.add(name=name)
        for number, (label, kind, of) in enumerate(fields, 1):
            made.field.add(name=f"f{number}", number=number, label=label, type=kind, type_name=of)
        return made

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", (many, field.TYPE_BYTES, None))
    message("FloatList", (many, field.TYPE_FLOAT, None))
    message("Int64List", (many, field.TYPE_INT64, None))
    message("Feature", *((one, field.TYPE_MESSAGE, f".tf.{kind}List") for kind in ("Bytes", "Float", "Int64")))
    features = message("Features", (many, field.TYPE_MESSAGE, ".tf.Features.F1Entry"))
    entry = message(
        "F1Entry", (one, field.TYPE_STRING, None), (one, field.TYPE_MESSAGE, ".tf.Feature"), to=features.nested_type
    )
    entry.field[0].name, entry.field[1].name, entry.options.map_entry = "key", "value", True
    message("Example", (one, field.TYPE_MESSAGE, ".tf.Features"))
    pool = pools.DescriptorPool()
    pool.Add(file)
    return messages.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


@pytest.fixture
def records(tmp_path):
    """Twelve images of StyleGAN's tool, with TensorBoard's writer of records."""
    writers, example = pytest.importorskip("tensorboard.summary.writer.record_writer"), example_class()
    path = tmp_path / "faces-r03.tfrecords"
    with path.open("wb") as file:
        writer = writers.RecordWriter(file)
        for k in range(12):
            image = example()
            image.f1.f1["shape"].f3.f1.extend([3, 8, 8])
            image.f1.f1["data"].f1.f1.append(gradient(8, 8, k).transpose(2, 0, 1).tobytes())
            writer.write(image.SerializeToString())
        writer.flush()
    return path


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("name", ["image_folder", "ffhq", "celebahq"])
def test_tensorflow_records(records, name):
    data = create("datasets", f"{name}[path={records},size=8]")
    images = data.load()
    expected = torch.stack([torch.from_numpy(gradient(8, 8, k)).permute(2, 0, 1) for k in range(12) if k != 9])
    assert torch.equal(images, expected)
    assert data.load("test")[:, 2, 0, 0].tolist() == [9]
    assert data.known() == {}
    assert torch.equal(take(Batches(data, 4, resident=False, workers=2), 0, 3), take(Batches(data, 4), 0, 3))


def test_damaged_tensorflow_records(records, tmp_path):
    whole = records.read_bytes()
    for name, content in {"short": whole[:-1], "other": b"no records at all", "empty": b""}.items():
        (tmp_path / f"{name}.tfrecords").write_bytes(content)
        with pytest.raises(FileError, match=rf"{name}\.tfrecords .*(records|empty)") as caught:
            create("datasets", f"image_folder[path={tmp_path}/{name}.tfrecords]").load()
        assert "\n" not in str(caught.value)
    assert "damaged after record 11" in short_message(tmp_path)
    foreign = whole.replace(b"shape", b"shope", 1)
    (tmp_path / "foreign.tfrecords").write_bytes(foreign)
    with pytest.raises(FileError, match=r"it has the features \['data', 'shope'\], not shape and data"):
        create("datasets", f"image_folder[path={tmp_path}/foreign.tfrecords]").load()


def short_message(folder):
    with pytest.raises(FileError) as caught:
        create("datasets", f"image_folder[path={folder}/short.tfrecords]").load()
    return str(caught.value)


@pytest.mark.parametrize("values", [np.uint16([[0, 300], [40_000, 65_535]]), np.float32([[0, 0.5], [1, 2]])], ids=str)
def test_more_than_8_bits_a_pixel_are_refused_rather_than_cut_off(tmp_path, values):
    Image.fromarray(values).save(tmp_path / ("a.png" if values.dtype == np.uint16 else "a.tiff"))
    with pytest.raises(FileError, match=r"a\.(png|tiff) .*not 8 bits: convert it"):
        create("datasets", f"image_folder[path={tmp_path},size=2]").load()


def test_photographs_are_turned_upright(tmp_path):
    """EXIF orientation 6: the camera was turned, and what is stored as the top row belongs on the right."""
    stored, exif = np.zeros((16, 16, 3), np.uint8), Image.Exif()
    stored[:4], exif[0x0112] = 255, 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "b.png", exif=b"Exif\0\0no header of a TIFF")
    turned, plain = create("datasets", f"image_folder[path={tmp_path},size=16,test={tmp_path}]").load()
    assert (turned[:, :, 12:] == 255).all()
    assert (turned[:, :, :12] == 0).all()
    assert torch.equal(plain, torch.from_numpy(stored).permute(2, 0, 1))


@pytest.mark.parametrize("grey", ["false", "true"])
def test_what_is_transparent_lies_on_white(tmp_path, grey):
    stored = np.zeros((8, 8, 4), np.uint8)
    stored[..., 0], stored[2:6, 2:6] = 200, (0, 0, 0, 255)  # a black square on a red that nobody sees
    image = Image.fromarray(stored)
    image.save(tmp_path / "a.png")
    image.convert("LA").save(tmp_path / "b.png")
    image.quantize(4).save(tmp_path / "c.png")
    expected = torch.full((8, 8), 255, dtype=torch.uint8)
    expected[2:6, 2:6] = 0
    for found in create("datasets", f"image_folder[path={tmp_path},size=8,grey={grey},test={tmp_path}]").load():
        assert (found == expected).all()


def test_linked_folders_are_followed_and_hidden_files_are_none(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("links")
    (place / "cats.png").symlink_to(folder)  # a folder, whatever its name ends with
    (place / "._00.png").write_bytes(b"a resource fork")
    (place / ".thumbnails").mkdir()
    (place / ".thumbnails" / "x.png").write_bytes(b"")
    with zipfile.ZipFile(place / "all.zip", "w") as archive:
        archive.write(folder / "00.png", "deep/00.png")
        archive.writestr("deep/._00.png", b"a resource fork")
        archive.writestr("more.png/", b"")
    names = create("datasets", f"image_folder[path={place},test={place}]").open().names
    assert names == [f"cats.png/{number:02}.png" for number in range(20)]
    assert create("datasets", f"image_folder[path={place}/all.zip,test={place}]").open().names == ["deep/00.png"]


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures, of which number 7 is truncated."""
    for number in range(20):
        data = encoded(np.full((8, 8, 3), 5 * number, np.uint8))
        (tmp_path / f"{number:02}.png").write_bytes(data[:40] if number == 7 else data)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_second_folder_is_the_test_split(tmp_path):
    """With the classes of the first, whichever of them it has."""
    for place, names in {"train": ("cat/a", "cat/b", "dog/a", "owl/a"), "val": ("dog/x", "owl/y")}.items():
        for value, name in enumerate(names):
            path = tmp_path / place / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(np.full((4, 4, 3), value + 100 * (place == "val"), np.uint8)))
    data = create("datasets", f"image_folder[path={tmp_path}/train,test={tmp_path}/val,size=4]")
    assert data.load()[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.load("test")[:, 0, 0, 0].tolist() == [100, 101]
    assert (data.known()["labels"].tolist(), data.known("test")["labels"].tolist()) == ([0, 0, 1, 2], [1, 2])
    (tmp_path / "val" / "fox").mkdir()
    (tmp_path / "val" / "fox" / "z.png").write_bytes(encoded(gradient(4, 4)))
    with pytest.raises(FileError, match=r"has a folder 'fox' that .*train' does not have"):
        data.known("test")


def archived(folder):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for path in sorted(folder.glob("*.png")):
            archive.write(path, f"deep/{path.name}")
        archive.writestr("__MACOSX/deep/._00.png", b"")
    return folder / "all.zip"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_broken_image_is_named_or_skipped(folder, packed):
    path = archived(folder) if packed else folder
    with pytest.raises(FileError, match=r"07\.png .*broken=skip"):
        create("datasets", f"image_folder[path={path},size=8]").load()
    lenient = create("datasets", f"image_folder[path={path},size=8,broken=skip]")
    expected = [5 * n for n in range(20) if n not in (7, 9, 19)]
    with pytest.warns(UserWarning, match=r"07\.png"):
        assert lenient.load()[:, 0, 0, 0].tolist() == expected
    events = lenient.open()
    assert len(events) == 18
    with pytest.warns(UserWarning, match=r"07\.png"):
        assert int(events[7][0, 0, 0]) == 40  # the next one stands in


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_workers_decode_files_and_name_the_broken_one(folder, packed):
    path = archived(folder) if packed else folder
    data = create("datasets", f"image_folder[path={path},size=8]")
    with pytest.raises(FileError, match=r"07\.png") as caught:
        take(Batches(data, 6, resident=False, workers=2), 0, 3)
    assert "\n" not in str(caught.value)
    (folder / "07.png").write_bytes((folder / "06.png").read_bytes())
    path = archived(folder) if packed else folder
    data = create("datasets", f"image_folder[path={path},size=8]")
    expected = take(Batches(data, 6, resident=True), 0, 5)
    assert torch.equal(take(Batches(data, 6, resident=False, workers=2), 0, 5), expected)


def test_a_resident_set_leaves_broken_files_out(folder):
    data = create("datasets", f"image_folder[path={folder},size=8,broken=skip]")
    with pytest.warns(UserWarning, match=r"07\.png"):
        batches = Batches(data, 17, preprocessing=PLAIN)
    assert batches.size == 17
    assert 35 not in (take(batches, 0, 1)[0, :, 0, 0, 0] * 255).round().tolist()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("image_folder[path={folder}/empty]", "no image file in"),
        ("image_folder[path={folder}/a.zip]", "cannot read .*a.zip as a zip file"),
        ("image_folder[path={folder}/one]", "has 1 images, too few for a test split"),
        ("image_folder[path={folder}/one,crop=9]", None),
        ("npz[path={folder}/a.zip]", "cannot read .*a.zip as an .npz file"),
        ("npz[path={folder}/floats.npz,key=infinite]", "not finite"),
        ("npz[path={folder}/floats.npz,key=cube]", "must be uint8 or uint16 images, or float .* got int64"),
        ("jpeg_archive[path={folder}]", "cannot read .*test.npz as packed images"),
        ("imagenet[root={folder}]", "no val_data"),
    ],
    ids=lambda v: v.split("[")[0] if v and "[" in v else None,
)
def test_bad_files_are_one_sentence(tmp_path, spec, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(encoded(gradient(8, 8)))
    (tmp_path / "a.zip").write_bytes(b"nothing of the kind")
    np.savez(tmp_path / "floats.npz", infinite=np.array([[np.inf, 0.0]]), cube=np.zeros((2, 3, 4), int))
    data = create("datasets", spec.format(folder=tmp_path))
    if message is None:
        with pytest.raises(FileError, match="less than the crop of 9"):
            data.load("train")
        return
    with pytest.raises(FileError, match=message) as caught:
        data.load("test")
    assert "\n" not in str(caught.value)


def test_npz_of_points_and_of_two_files(tmp_path):
    points = np.random.default_rng(0).normal(size=(40, 2))
    images = np.random.default_rng(0).integers(0, 256, (6, 7, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "points.npz", xy=points)
    np.savez(tmp_path / "a.npz", images=images)
    np.savez(tmp_path / "b.npz", images=images[:2])
    data = create("datasets", f"npz[path={tmp_path}/points.npz,key=xy]")
    assert data.shape == (2,)
    assert data.load().dtype == torch.float32
    assert len(data.load()) == 36
    np.testing.assert_array_equal(data.load("test").numpy(), points[9::10].astype(np.float32))
    both = create("datasets", f"npz[path={tmp_path}/a.npz,test={tmp_path}/b.npz]")
    assert both.shape == (3, 7, 5)
    assert torch.equal(both.load("train"), torch.from_numpy(images).permute(0, 3, 1, 2))
    assert len(both.load("test")) == 2


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_downsampled_imagenet(tmp_path, protocol):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    mean = pixels.mean(0)
    for number in (1, 2, 10):
        row = {"data": pixels[number % 5 : number % 5 + 1], "labels": [3, np.int64(4)], "mean": mean}
        (tmp_path / f"train_data_batch_{number}").write_bytes(pickle.dumps(row, protocol=protocol))
    np.savez(tmp_path / "val_data.npz", data=pixels, labels=np.arange(6))
    data = create("datasets", f"imagenet[root={tmp_path}]")
    expected = torch.from_numpy(pixels).reshape(-1, 3, 32, 32)
    assert torch.equal(data.load("train"), expected[[1, 2, 0]])
    assert torch.equal(data.load("test"), expected)
    with pytest.raises(FileError, match="rows of 12288 numbers for size=64"):
        create("datasets", f"imagenet[root={tmp_path},size=64]").load()


def test_downsampled_imagenet_of_64_pixels_in_ten_npz_files(tmp_path):
    """As they come out of their archives: in folders of their own, labels from 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3 * 64 * 64), dtype=np.uint8)
    for number in range(1, 11):
        folder = tmp_path / f"part{1 + number // 6}"
        folder.mkdir(exist_ok=True)
        rows = {"data": pixels[number - 1 : number], "labels": np.array([100 * number]), "mean": np.zeros(3)}
        np.savez(folder / f"train_data_batch_{number}.npz", **rows)
    data = create("datasets", f"imagenet[root={tmp_path},size=64]")
    assert torch.equal(data.load(), torch.from_numpy(pixels).reshape(-1, 3, 64, 64))
    assert data.known()["labels"].tolist() == [100 * number - 1 for number in range(1, 11)]


class Attack:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('owned').touch()",))


HIDDEN = [Attack(), {"data": Attack()}, np.array([Attack()], dtype=object)]


@pytest.mark.parametrize("hidden", HIDDEN, ids=["object", "value", "array"])
def test_a_pickle_runs_nothing(tmp_path, monkeypatch, hidden):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train_data_batch_1").write_bytes(pickle.dumps({"data": hidden}))
    with pytest.raises(FileError, match=r"it asks for builtins\.eval, which is not an array"):
        create("datasets", f"imagenet[root={tmp_path}]").load()
    assert not (tmp_path / "owned").exists()


def test_packed_images(tmp_path):
    files = [encoded(gradient(6, 9, k)) for k in range(3)]
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(tmp_path / "test.npz", jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets)
    data = create("datasets", f"jpeg_archive[path={tmp_path}]")
    assert data.shape == (3, 6, 9)
    expected = torch.stack([torch.from_numpy(gradient(6, 9, k)).permute(2, 0, 1) for k in range(3)])
    assert torch.equal(data.load("test"), expected)
    assert create("datasets", f"jpeg_archive[path={tmp_path},size=4,grey=true]").load("test").shape == (3, 1, 4, 4)
    np.savez(tmp_path / "train.npz", jpeg=np.zeros(5, np.uint8), offsets=offsets)
    with pytest.raises(FileError, match="its offsets exceed its 5 bytes"):
        data.load("train")


def test_cifar10_jpegs(shared):
    data = create("datasets", f"jpeg_archive[path={shared / 'data' / 'cifar10_jpeg'}]")
    test = data.load("test")
    assert test.shape == (10_000, 3, 32, 32)
    # The channel means of CIFAR-10, as everybody normalises by them; compression moves them by less than 0.002.
    means = test.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-3)


# Sets made of others.


def test_draws_of_a_target():
    data = create("datasets", "exact[target=mixture2d[components=4,radius=3],count=4000,test_count=500]")
    train, test = data.load("train"), data.load("test")
    assert data.shape == (2,)
    assert (train.shape, test.shape, train.dtype) == ((4000, 2), (500, 2), torch.float32)
    assert torch.equal(train, data.load("train"))
    assert not torch.equal(train[:500], test)
    mean, covariance = create("targets", "mixture2d[components=4,radius=3]").moments()
    errors = (train.double().mean(0) - mean) / (covariance.diagonal() / 4000).sqrt()
    assert errors.abs().max() < 4


def test_resized_crops_resizes_and_pads(tmp_path):
    images = np.stack([gradient(12, 12, 40 * k) for k in range(4)])
    np.savez(tmp_path / "a.npz", images=images)
    base = f"npz[path={tmp_path}/a.npz,test={tmp_path}/a.npz]"
    cropped = create("datasets", f"resized[data={base},crop=8,padding=1]")
    found = cropped.load()
    assert found.shape == (4, *cropped.shape) == (4, 3, 10, 10)
    assert torch.equal(found[..., 1:-1, 1:-1], torch.from_numpy(images).permute(0, 3, 1, 2)[..., 2:10, 2:10])
    assert found[..., 0, :].max() == found[..., -1].max() == 0
    halved = create("datasets", f"resized[data={base},size=6]")
    # Antialiased halving of a ramp keeps the ramp away from its ends.
    middle = halved.load()[0, 0, 2:4, 0].tolist()
    assert middle == pytest.approx([4.5, 6.5], abs=0.51)
    assert halved.load()[3, 2].unique().tolist() == [120]
    with pytest.raises(UsageError, match="crop must be at most"):
        create("datasets", f"resized[data={base},crop=13]")


def test_resized_streams_what_streams(folder):
    (folder / "07.png").unlink()
    data = create("datasets", f"resized[data=image_folder[path={folder},size=8],size=4]")
    events = data.open()
    assert torch.equal(torch.stack([events[i] for i in range(len(events))]), data.load())


def test_points_are_not_resized():
    data = create("datasets", "resized[data=exact[target=mixture2d,count=10],padding=1]")
    with pytest.raises(ValueError, match="only 8-bit images can be resized"):
        data.load()


def test_one_line_of_yaml_is_a_data_set(tmp_path, monkeypatch):
    """A file of one's own: rows point to a class; here the bundled one with the user's defaults."""
    (tmp_path / "mine.py").write_text(
        "import attrs\n"
        "from scoresde_core import param\n"
        "from scoresde_plugins.datasets.files import ImageFolderDataset\n"
        "@attrs.frozen\n"
        "class Cats(ImageFolderDataset):\n"
        f'    path: str = param({str(tmp_path)!r}, "where the cats are")\n'
    )
    (tmp_path / "rows.yaml").write_text('api: 1\ndatasets: {cats: {target: "mine:Cats", summary: my cats}}\n')
    (tmp_path / "a.png").write_bytes(encoded(gradient(8, 8)))
    monkeypatch.syspath_prepend(tmp_path)
    registry = load_registry(local=[tmp_path / "rows.yaml"])
    assert registry.create("datasets", "cats[size=8]").load().shape == (1, 3, 8, 8)


# Data for a configuration.


def planned(preset, *changes, **options):
    registry = load_registry()
    return plan_data(plan_model(registry.create("presets", preset).override(changes), registry), registry, **options)


@pytest.mark.parametrize(
    ("preset", "changes", "shape"),
    [
        ("vp_cifar10_ddpmpp_continuous", [], (3, 32, 32)),
        ("ve_ncsnv2_celeba", [], (3, 64, 64)),
        ("ve_ffhq_256_ncsnpp_continuous", [], (3, 256, 256)),
        ("ve_ffhq_ncsnpp_continuous", [], (3, 1024, 1024)),
        ("scoreflow_vp_imagenet32_ddpmpp_continuous", [], (3, 32, 32)),
        ("vp_cifar10_ddpmpp_continuous", ["data.dataset=image_folder[path=here]"], (3, 32, 32)),
        ("vp_cifar10_ddpmpp_continuous", ["model.shape=[3,16,16]"], (3, 16, 16)),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v)) or "as it is",
)
def test_images_come_in_the_size_of_the_model(preset, changes, shape):
    dataset, preprocessing = planned(preset, *changes)
    assert dataset.shape == shape
    assert preprocessing.centered == ("vp" in preset)


def test_points_and_wrong_channels(tmp_path):
    np.savez(tmp_path / "grey.npz", images=np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(UsageError, match=r"events of shape \(1, 8, 8\), the model \(3, 32, 32\)"):
        planned("vp_cifar10_ddpmpp_continuous", f"data.dataset=npz[path={tmp_path}/grey.npz]")
    with pytest.raises(UsageError, match=r"events of shape \(2,\)"):
        planned("vp_cifar10_ddpmpp_continuous", "data.dataset=exact[target=mixture2d]")
    with pytest.raises(UsageError, match="names no data set"):
        planned("vp_cifar10_ddpmpp_continuous", "data.dataset=null")


def test_a_download_is_asked_for_in_one_place():
    assert planned("vp_cifar10_ddpmpp_continuous", download=True)[0].download
    assert not planned("vp_cifar10_ddpmpp_continuous")[0].download
    inner = planned("vp_cifar10_ddpmpp_continuous", "model.shape=[3,16,16]", download=True)[0].data
    assert inner.download
