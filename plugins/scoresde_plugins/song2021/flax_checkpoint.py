"""Checkpoints of the published JAX code (score_sde, score_flow; flax 0.3), without JAX: ``checkpoint_N``.

    {step, optimizer: {target: parameters, state: Adam's moments}, params_ema: averages, lr, rng, ...}

The file is one msgpack map; an array is an extension with shape, type and bytes. Adam's moments, half of the file, are
passed over. Nothing in it is run, and what it may hold is bounded before memory is taken. flax numbers layers by class
in the order of their calls, those without parameters too; ``all_modules`` of our U-Net has that order.
"""

import contextlib
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from scoresde_core import FileError
from scoresde_run.machine import inputs
from ..networks import layers
from ..networks.unet import Combine, UNet
from .published_checkpoint import Published

LAYOUT, DEQUANTISER = "score_sde and score_flow in JAX", "a dequantiser of score_flow in JAX"
_WEIGHTS, _AVERAGES = "optimizer/target/", "params_ema/"
_READ = {"step", "model_state", "optimizer", _WEIGHTS[:-1], _AVERAGES[:-1]}
"""The entries of the first two levels that are read."""
_ENTRIES, _DEPTH, _NAME, _ARRAY = 2**16, 8, 256, 2**28
"""The most entries, levels, letters of a name and bytes of an array: the published have 3,000, 5, 30 and 2^25."""
_TYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")
_MAPS = {bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF)}  # the first byte of a msgpack map
_CLASSES: dict[type[nn.Module], str] = {
    layers.FourierEmbedding: "GaussianFourierProjection",
    nn.Linear: "Dense",
    nn.Conv2d: "Conv",
    nn.GroupNorm: "GroupNorm",
    Combine: "Combine",
    **dict.fromkeys((layers.FIRDown, layers.FIRConvDown, layers.ConvDown, nn.AvgPool2d), "Downsample"),
    **dict.fromkeys((layers.FIRUp, layers.FIRConvUp, layers.ConvUp, nn.Upsample), "Upsample"),
}
"""flax's name of each layer of the U-Net, but for blocks, whose class has more names than one."""
_LEAVES = {"Conv": "kernel", "Dense": "kernel", "GroupNorm": "scale"}
"""flax's name of a layer's ``weight``, where it has another."""


def read(path: Path) -> Published | None:
    """Read weights and averages by their flax paths, such as ``Conv_0/kernel``; None if a file is no msgpack map.

    :class:`FileError` for one of another tree, or damaged.
    """
    first = b""
    with contextlib.suppress(OSError), inputs.regular(path, None).open("rb") as file:  # its other reader says why
        first = file.read(1)
    if first not in _MAPS - {b"\x80"}:  # with which pickles begin
        return None
    try:
        import msgpack
    except ImportError as error:
        raise FileError(f"{path} is a JAX checkpoint, which needs msgpack: pip install 'scoresde[jax]'") from error
    with inputs.reading(path, "a JAX checkpoint") as found, inputs.whole(found).open("rb") as file:
        size, leaves = os.fstat(file.fileno()).st_size, dict[str, Any]()
        limits = {"max_str_len": _NAME, "max_bin_len": 0, "max_array_len": 0, "max_map_len": 0, "max_ext_len": _ARRAY}
        parser = msgpack.Unpacker(file, read_size=2**16, max_buffer_size=max(size, 2**16), ext_hook=_array, **limits)
        try:
            _walk(parser, file.fileno(), leaves)
        except msgpack.OutOfData as error:
            raise ValueError(f"it ends in the middle, after {size:,} bytes: copy it again") from error
        if parser.tell() != size:
            raise ValueError(f"{size - parser.tell():,} bytes follow its end")
        return _published(leaves)


def _walk(parser: Any, file: int, leaves: dict[str, Any], path: str = "") -> None:
    """Read the wanted leaves of a map by path, one at a time, and None for each map in it."""
    for count in range(parser.read_map_header()):
        name = parser.unpack()
        place, many = f"{path}{name}", max(count, len(leaves)) > _ENTRIES
        odd = not isinstance(name, str) or name == "__msgpack_chunked_array__" or place in leaves
        if many or odd or place.count("/") > _DEPTH:
            raise ValueError("it is no train state of score_sde or score_flow, which has few levels and small arrays")
        if not (place.startswith((_WEIGHTS, _AVERAGES, "model_state/")) or place in _READ):
            parser.skip()
        elif os.pread(file, 1, parser.tell()) in _MAPS:
            leaves[place] = None
            _walk(parser, file, leaves, f"{place}/")
        else:
            leaves[place] = parser.unpack()


def _array(code: int, data: bytes) -> Tensor:
    import msgpack

    if code not in (1, 3):
        raise ValueError(f"it holds an object of kind {code}, which is no array of real numbers")
    head = msgpack.Unpacker(raw=True, max_map_len=0, max_array_len=2 * _DEPTH)
    head.feed(data[:_NAME])
    parts, shape, name, start = head.read_array_header(), head.unpack(), head.unpack(), head.tell()
    start += {b"\xc4": 2, b"\xc5": 3, b"\xc6": 5}.get(data[start : start + 1], len(data))
    content = memoryview(data)[start:]  # to be copied only once
    kind = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    counts = shape if isinstance(shape, list) and len(shape) <= _DEPTH else [None]
    if parts != 3 or kind not in _TYPES or not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"it holds an array of type {kind[:20]!r} and shape {str(shape)[:60]}")
    dtype: torch.dtype = getattr(torch, kind)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of type {kind} and shape {shape} has {len(content):,} bytes")
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def _published(leaves: dict[str, Any]) -> Published:
    arrays = {path: value for path, value in leaves.items() if value is not None}
    weights, averages = (
        {path.removeprefix(part): value for path, value in arrays.items() if path.startswith(part)}
        for part in (_WEIGHTS, _AVERAGES)
    )
    step, both = leaves.get("step"), {**weights, **averages}
    if not weights or not averages or not isinstance(step, Tensor | int | float):
        raise ValueError("it is no train state of score_sde or score_flow: optimizer/target, params_ema or step lacks")
    alien = [path for path in arrays if path.startswith("model_state/")]
    if odd := alien + [path for path, value in both.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{odd[0]} has no place in a network here: only arrays of parameters have")
    if any("Refine" in path.split("/")[0] for path in both):
        why = "it is score_sde's JAX NCSN or NCSNv2, another network than the PyTorch one of that name (other widths"
        raise ValueError(f"{why}, norms and resizing): import a .pth file of ncsnv2 or score_sde_pytorch instead")
    flow = all(path.startswith("params/") for path in both)  # score_flow optimised flax's variables
    return Published(DEQUANTISER if flow else LAYOUT, weights, averages, int(step))


def renamed(published: Published, network: nn.Module) -> Published:
    """``published``, if of JAX, under the names and in the layout of ``network``; what has no place keeps its path.

    Buffers, such as the noise scales, are in no file and are the network's. The notes say what no file tells.
    """
    if published.layout != LAYOUT:
        return published
    if not isinstance(network, UNet):
        raise FileError(f"a file of {LAYOUT} is for ncsnpp or ddpm alone: choose the model's own preset")
    own, tops = network.state_dict(), _tops(network)
    names = {_path(name, tops): name for name in own if name.startswith("all_modules.")}
    buffers = {name: value for name, value in network.named_buffers() if name in own}
    assert isinstance(published.ema, dict)
    weights, ema = (
        {(name := names.get(path, path)): _laid_out(value, own.get(name), path) for path, value in found.items()}
        for found in (published.weights, published.ema)
    )
    notes = ["Fourier features of the plain time, as in ScoreFlow; for score_sde's set model.network.label=log_time"]
    plain = network.fourier and network.spec.label == "time"
    return attrs.evolve(published, weights={**weights, **buffers}, ema=ema, notes=notes if plain else [])


def _tops(network: UNet) -> list[str]:
    """flax's names of the layers in ``all_modules``, such as ``Conv_0``."""
    style = network.style
    kind = "BigGANpp" if style.biggan else "DDPM" if style.min_group == 1 else "DDPMpp"
    attention = "AttnBlock" if kind == "DDPM" else "AttnBlockpp"
    classes = {**_CLASSES, layers.ResidualBlock: f"ResnetBlock{kind}", layers.AttentionBlock: attention}
    seen: Counter[str] = Counter()
    tops = []
    for layer in network.all_modules:
        name = classes.get(type(layer), type(layer).__name__)
        # The pyramids' filters have no parameters and are not in the list, but have numbers.
        seen["Downsample"] += name == "Combine"
        seen["Upsample"] += name == "GroupNorm" and network.grow is not None and seen[name] > 0
        tops.append(f"{name}_{seen[name]}")
        seen[name] += 1
    return tops


def _path(name: str, tops: list[str]) -> str:
    """flax's path of one of the network's tensors: all_modules.3.Conv_0.weight is ResnetBlock..._0/Conv_0/kernel."""
    _, number, *inner, leaf = name.split(".")
    path = [tops[int(number)], *inner]
    return "/".join([*path, _LEAVES.get(path[-1].split("_")[0], leaf) if leaf == "weight" else leaf])


def _laid_out(value: Tensor, own: Tensor | None, path: str) -> Tensor:
    """``value`` in PyTorch's layout: (h, w, in, out) is (out, in, h, w), (in, out) of a ``kernel`` is (out, in)."""
    if own is None:
        return value
    if own.ndim == value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if path.endswith("/kernel") and value.ndim == 2:
        return value.t()
    return value.reshape(-1) if own.ndim == 1 and value.numel() == value.shape[-1:].numel() else value
