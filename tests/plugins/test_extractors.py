"""Extractors: the bundled classifier, and the published networks with random weights and small stand-ins."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from scoresde_core.errors import FileError
from scoresde_core.registry import create
from scoresde_plugins.datasets.published import torchvision_datasets
from scoresde_plugins.extractors.networks import MNIST_FILE, VGG16, Classifier, DINOv2, Inception, MNISTClassifier

CPU = torch.device("cpu")


# --- The shipped classifier ---------------------------------------------------------------------------------------


def test_the_shipped_classifier_is_small_and_says_how_good_it_is() -> None:
    assert MNIST_FILE.stat().st_size < 500_000
    assert MNISTClassifier().report["test_accuracy"] > 0.994
    assert MNISTClassifier().protocol()["sha256"] == hashlib.sha256(MNIST_FILE.read_bytes()).hexdigest()


def test_its_accuracy_is_as_it_says(shared: Path) -> None:
    """On the first 2000 of the test images: 4 standard errors of a share of 99.4 %."""
    test = torchvision_datasets().MNIST(str(shared / "data"), train=False)
    extract = MNISTClassifier().load(CPU)
    right = extract(test.data[:2000, None]).logits.argmax(1) == test.targets[:2000]
    assert float(right.float().mean()) > 0.994 - 4 * 0.0018


def test_images_of_another_shape_are_refused() -> None:
    reason = MNISTClassifier().skip((3, 28, 28))
    assert reason == "mnist_classifier reads images of shape (1, 28, 28), these have (3, 28, 28)"


def test_files_that_are_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone does not exist: train a classifier with docs/pictures/train_classifier"):
        Classifier("gone")
    (tmp_path / "broken").write_bytes(b"no")
    with pytest.raises(FileError, match="is damaged"):
        Classifier(str(tmp_path / "broken"))
    weights = load_file(MNIST_FILE)
    for name, metadata, words in (
        ("foreign", {"format": "x"}, "not a trained classifier: its format is 'x'"),
        ("new", {"format": "scoresde.classifier", "version": "2"}, "format version 2, this release reads up to 1"),
        ("cut", {"format": "scoresde.classifier", "version": "1", "shape": "[3, 28, 28]"}, "do not fit the network"),
    ):
        save_file(weights, tmp_path / name, metadata)
        with pytest.raises(FileError, match=words):
            Classifier(str(tmp_path / name))


# --- Published networks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch-fidelity's InceptionV3 with random weights, in a file."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_gives_torch_fidelitys_features(inception: Path) -> None:
    utils = pytest.importorskip("torch_fidelity.utils")
    theirs = utils.create_feature_extractor(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        cuda=False,
        feature_extractor_weights_path=str(inception),
        verbose=False,
    )
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = theirs(images)
    extractor = create("extractors", f"inception[weights={inception}]")
    found = extractor.load(CPU)(images)
    torch.testing.assert_close(found.pooled, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(found.logits, expected[1], rtol=0, atol=0)
    assert found.pooled.shape == (2, 2048)
    grey = images[:1, :1]
    torch.testing.assert_close(extractor.load(CPU)(grey).pooled, theirs(grey.expand(-1, 3, -1, -1))[0])
    protocol = extractor.protocol()
    assert protocol["sha256"] == hashlib.sha256(inception.read_bytes()).hexdigest()
    assert "299" in protocol["resize"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    torch.save({"something": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(FileError, match=r"odd\.pth do not fit InceptionV3"):
        Inception(weights=str(tmp_path / "odd.pth")).load(CPU)


class Alarm:
    def __reduce__(self):
        return print, ("this file runs code",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Alarm()))
    with pytest.raises(FileError, match=r"cannot read the weights .*bad\.pth of InceptionV3"):
        Inception(weights=str(tmp_path / "bad.pth")).load(CPU)
    assert "runs code" not in capsys.readouterr().out


@pytest.mark.parametrize("extractor", [Inception, VGG16, DINOv2])
def test_missing_weights_name_the_path_and_the_remedy(
    extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileError, match=rf"{extractor.name}\[download=true\], or get https://.*weights=FILE"):
        extractor().load(CPU)
    with pytest.raises(FileError, match=r"the file gone\.pth of the weights .* does not exist"):
        extractor(weights="gone.pth").load(CPU)

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileError, match=r"cannot download https://.* \(no route to host\): get it elsewhere"):
        extractor(download=True).load(CPU)


def test_a_download_is_checked_against_the_published_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def fetch(url, path, digest, progress):
        asked.append((url, digest))
        torch.save({}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    cached = [extractor(download=True).path() for extractor in (Inception, VGG16, DINOv2)]
    assert [digest for _, digest in asked] == ["6726825d", "397923af", None]
    assert all(path.is_file() for path in cached)
    assert Inception().path() == cached[0]
    assert len(asked) == 3


def test_events_that_are_no_images_are_refused() -> None:
    assert Inception().skip((3, 32, 48)) is None
    assert Inception().skip((1, 28, 28)) is None
    assert "1 or 3 channels" in str(Inception().skip((2,)))


class TinyVGG(nn.Module):
    """Five outputs instead of 4096."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        layers = [nn.Linear(12, 6), nn.ReLU(), nn.Identity(), nn.Linear(6, 5), nn.ReLU(), nn.Identity()]
        self.classifier = nn.Sequential(*layers, nn.Linear(5, 3))

    def forward(self, x):
        return self.classifier(self.pool(x).flatten(1))


def test_vgg16_is_cut_after_its_second_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity.feature_extractor_vgg16")
    import torchvision

    monkeypatch.setattr(torchvision.models, "vgg16", TinyVGG)
    network = TinyVGG()
    torch.save(network.state_dict(), tmp_path / "vgg.pth")
    found = VGG16(weights=str(tmp_path / "vgg.pth")).load(CPU)(torch.full((2, 3, 16, 16), 90, dtype=torch.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((90 / 255 - mean) / std).repeat_interleave(4)
    expected = network.classifier[:4](pixels).relu()
    torch.testing.assert_close(found.pooled, expected.expand(2, -1), rtol=1e-4, atol=1e-5)


HUBCONF = """
import torch
def dinov2_vits14(pretrained=True):
    assert not pretrained
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 7))
"""


def test_dinov2_from_a_checkout_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity.feature_extractor_dinov2")
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    transformer = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 7))
    torch.save(transformer.state_dict(), tmp_path / "dino.pth")
    extractor = DINOv2(model="vits14", checkout=str(tmp_path), weights=str(tmp_path / "dino.pth"))
    found = extractor.load(CPU)(torch.full((2, 1, 16, 16), 90, dtype=torch.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = transformer[2](((90 / 255 - mean) / std).repeat_interleave(4))
    torch.testing.assert_close(found.pooled, expected.detach().expand(2, -1), rtol=1e-4, atol=1e-5)
    assert extractor.protocol()["model"] == "vits14"
    with pytest.raises(FileError, match=r"the code of DINOv2 is not in .*dinov2\[checkout=FOLDER,weights=FILE\]"):
        DINOv2(model="vits14", checkout=str(tmp_path / "no"), weights=str(tmp_path / "dino.pth")).load(CPU)
