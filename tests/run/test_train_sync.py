"""Training steps between two logs never wait for the device: checked by CUDA, and without it by the operations."""

from itertools import islice

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, gpu
from torch.utils._python_dispatch import TorchDispatchMode
from scoresde_core.registry import load_registry
from scoresde_plugins.song2021.classification import ClassificationLoss
from scoresde_run.machine.processes import Processes
from scoresde_run.training.trainer import Trainer, plan_training

REGISTRY = load_registry()
UNET = "model.network=ncsnpp[nf=8,num_res_blocks=1,ch_mult=[1],attn_resolutions=[8],dropout=0.1,fir=false]"
NCSN = "model.network=ncsn[nf=4]"
CASES = {
    "vp": ("mnist_vp", [UNET, "data.random_flip=true", "training.accumulate=2"]),
    "vp, half precision": ("mnist_vp", [UNET, "training.precision=float16", "data.dequantizer=uniform"]),
    "subvp, importance": ("mnist_subvp", [UNET, "training.loss=importance[stratified=true]"]),
    "ve": ("mnist_ve", [UNET.replace("fir", "parameterisation=score,label=sigma,fir"), "training.ema_warmup=true"]),
    "ve, discrete": ("ve_ncsn_cifar10", [NCSN, "training.optimizer=adamw", "training.weight_decay=0.1"]),
    "vp, discrete": ("vp_ddpm_cifar10", ["model.network.nf=32", "model.network.ch_mult=[1]",
                                         "model.network.attn_resolutions=[]", "training.gradient_clip=null"]),
    "classifier": ("mnist_classifier", ["model.network.embedding=16", "training.ema=null"]),
    "points": ("lesson_many_scales", ["data.dataset.count=64"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 labelled images of 8 x 8 pixels, grey and in colour."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for channels in (1, 3):
        images = rng.integers(0, 256, (40, 8, 8, channels), dtype=np.uint8)
        np.savez(folder / f"{channels}.npz", images=images, labels=rng.integers(0, 10, 40))
    return folder


def trainer(case, data, device):
    preset, changes = CASES[case]
    config = REGISTRY.create("presets", preset).override(["training.batch_size=8", "training.evaluate_every=null"])
    if len(config.model.shape) == 3:
        channels = config.model.shape[0]
        images = f"data.dataset=npz[path={data}/{channels}.npz,labels=labels]"
        config = config.override([images, f"model.shape=[{channels},8,8]"])
    return Trainer(plan_training(config.override(changes), REGISTRY), Processes(torch.device(device)))


class Waiting(AssertionError):
    """A value on the device was read."""


class NoWaiting(TorchDispatchMode):
    """Refuses operations that make the host wait on CUDA: reads, shapes that depend on values, scalar copies."""

    names = frozenset({
        "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "_unique2",
        "unique_consecutive", "unique_dim", "repeat_interleave", "bincount", "lift_fresh",
    })  # fmt: skip

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket._qualified_op_name.removeprefix("aten::")
        mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
        if name in self.names or mask:
            raise Waiting(f"{operation} makes the host wait for the device")
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize("case", CASES)
def test_no_operation_of_a_step_waits(case, data):
    steps = trainer(case, data, "cpu").steps()
    next(steps)  # which makes the optimiser's state
    with NoWaiting():
        losses = list(islice(steps, 3))
    assert all(loss.isfinite() for loss in losses)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.mean()),
        lambda x: "positive" if x.sum() > 0 else "not",
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor(1.0) + x,
    ],
    ids=["item", "float", "branch", "mask", "nonzero", "scalar"],
)
def test_the_watch_sees_what_waits(waiting):
    with NoWaiting(), pytest.raises(Waiting):
        waiting(torch.ones(3))


def test_a_log_waits_once(data):
    made = trainer("vp", data, "cpu")
    next(made.steps())
    with NoWaiting(), pytest.raises(Waiting):
        made.read_loss()


@pytest.mark.filterwarnings("ignore:the data's standard deviation")  # tensors that are not there hold no data
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch was built without CUDA")
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_on_a_gpu_that_is_not_there(case, precision, data, monkeypatch):
    """Its kinds of numbers, loss scaling, clipping, the fused optimiser, averaging: all but the way back."""
    monkeypatch.setattr(ClassificationLoss, "skip_data", lambda *_: None)  # which reads the labels, once
    monkeypatch.setitem(CASES, case, (CASES[case][0], [*CASES[case][1], f"training.precision={precision}"]))
    with gpu() as device:
        made = trainer(case, data, DEVICE)

        def gradients(loss):
            for parameter in made.state.network.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

        monkeypatch.setattr(torch.Tensor, "backward", gradients)
        steps = made.steps()
        next(steps)  # which makes the optimiser's state, and brings tables to the device
        device.watching = True
        (loss,) = islice(steps, 1)
        assert (str(loss.device), loss.dtype) == (DEVICE, torch.float64)
        assert made.state.scaler.is_enabled() == (precision == "float16")
        assert {value.device.type for slots in made.state.optimizer.state.values() for value in slots.values()} == {
            "cuda"
        }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_cuda_sees_no_synchronisation(case, data):
    steps = trainer(case, data, "cuda").steps()
    list(islice(steps, 2))  # kernels are loaded, cuDNN and the optimiser have their state
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(islice(steps, 3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
