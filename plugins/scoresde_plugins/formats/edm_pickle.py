"""EDM's pickles (Karras et al. 2022, arXiv:2206.00364) as our networks, read without importing or running anything.

A pickle is a program for a stack. This reader knows the names in such files and makes inert values of them; any other
name is refused. Objects carry the source of their classes, which is left unread. SongUNet is our NCSN++:

    EDMPrecond      D = c_skip x + c_out F(c_in x, log(s) / 4)            parameterisation edm, label log_ratio
    VPPrecond       D = x - s F(x / sqrt(1 + s^2), 999 t(s))              noise, time
    iDDPMPrecond    D = x - s F(x / sqrt(1 + s^2), entry of a table)      noise, index; F has further channels
    VEPrecond       D = x + s F(x, log(s / 2))                            noise is -F, log_half
"""

import io
import math
import os
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from scoresde_core import FileError
from scoresde_run.machine import inputs
from .foreign import Foreign, names, rows


@attrs.define(eq=False)
class Inert:
    """A name in a pickle, what it was called with, and the state that it was given; nothing is called."""

    name: str
    args: Any = ()
    state: Any = None


class _Reader(pickle._Unpickler):
    """The stack machine of pickles with inert values; its memo is a mapping, which a wild index cannot blow up."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Inert:
        if f"{module}.{name}" not in rows("edm.yaml")["names"]:
            raise FileError(f"it wants to run {module}.{name}, and nothing is run: save the state dict alone")
        return Inert(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        raise FileError(f"it wants to run the extension {code}, and nothing is run: save the state dict alone")

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def reduce(self) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        self.stack.append(_value(called.name, args) if isinstance(called, Inert) else called.refused)

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Inert):
            made.state = state

    def newobj(self) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(called.name, args))

    for code, step in ((pickle.REDUCE, reduce), (pickle.BUILD, build), (pickle.NEWOBJ, newobj)):
        dispatch[code[0]] = step
    for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.BYTEARRAY8):
        del dispatch[code[0]]


class _Bounded(io.BufferedReader):
    """A file of which no more is asked than it has: a wild length would reserve as much memory."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, os.fstat(self.fileno()).st_size))


def _value(name: str, args: Any) -> Any:
    """What a call in a pickle would give, as plain data."""
    what = name.rpartition(".")[2]
    if what == "_reconstruct_persistent_obj":
        return Inert(str(args[0]["class_name"]), (), args[0]["state"])
    if what == "_load_from_bytes":
        return _storage(args[0])
    if what == "_rebuild_tensor_v2":
        return torch.as_strided(args[0], args[2], args[3], args[1])
    if what == "_rebuild_parameter":
        return args[0]
    if what in ("OrderedDict", "EasyDict"):
        return {}
    return Inert(name, args)


def _storage(data: bytes) -> Tensor:
    """The numbers of a storage, in the format of torch.save before zip files, without a copy."""
    stream = io.BytesIO(data)
    head = [_Reader(stream).load() for _ in range(5)]  # magic number, protocol, system, the storage, its keys
    (count,), at = struct.unpack("<q", stream.read(8)), stream.tell()
    kind = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "DoubleStorage": torch.float64}
    with warnings.catch_warnings(action="ignore"):  # it says that bytes cannot be written to, and nobody does
        return torch.frombuffer(data, dtype=kind[head[3][1].name.rpartition(".")[2]], count=count, offset=at)


def read_pickle(path: Path) -> Foreign:
    """Read the network in ``path``, its averages (``ema``); :class:`FileError` for any other content."""
    with inputs.reading(path, "a pickle of EDM") as found:
        with _Bounded(io.FileIO(found)) as file:
            content = _Reader(file).load()
        net = content["ema"] if isinstance(content, dict) else content
        row, given = rows("edm.yaml")["preconditioning"].get(net.name), net.state
        model = given["_modules"]["model"]
        if row is None or model.name != "SongUNet":
            raise FileError(f"it is a {net.name} of a {model.name}, and we have SongUNet: choose another model")
        wrong = [key for key, value in row["state"].items() if key not in given or given[key] != value]
        if wrong:
            raise FileError(f"its {wrong[0]} is {given.get(wrong[0])}, and we have {row['state'][wrong[0]]}")
        return _foreign(path, net, row)


def _tensors(module: Inert, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > 8:
        raise ValueError("its modules are nested too deep")
    for kind in ("_parameters", "_buffers"):
        yield from ((prefix + name, value) for name, value in module.state[kind].items() if isinstance(value, Tensor))
    for name, inner in module.state["_modules"].items():
        if inner is not None:
            yield from _tensors(inner, f"{prefix}{name}.", depth + 1)


def _foreign(path: Path, net: Inert, row: Mapping[str, Any]) -> Foreign:
    given, how = net.state, dict(rows("edm.yaml")["defaults"])
    how |= {key: value for key, value in given["_init_kwargs"].items() if key in how}
    weights = {k: value for k, value in _tensors(given["_modules"]["model"]) if not k.endswith("resample_filter")}
    taps, channels, side = how["resample_filter"], given["img_channels"], given["img_resolution"]
    noise, kinds = {"positional": 1, "fourier": 2}, {"standard": "none", "residual": "residual", "skip": "input_skip"}
    fixed = {"channel_mult_emb": 4, "channel_mult_noise": noise.get(how["embedding_type"])}
    if wrong := [key for key, value in fixed.items() if how[key] != value]:
        raise FileError(f"its {wrong[0]} is {how[wrong[0]]}, and we have {fixed[wrong[0]]}")
    network = {"name": "ncsnpp", "nf": how["model_channels"], "ch_mult": list(how["channel_mult"])}
    network |= {"num_res_blocks": how["num_blocks"], "attn_resolutions": list(how["attn_resolutions"])}
    network |= {"dropout": float(how["dropout"]), "embedding_type": how["embedding_type"]}
    network |= {"progressive_input": kinds[how["encoder_type"]]}
    network |= {"progressive": "output_skip" if how["decoder_type"] == "skip" else "none", **row["network"]}
    network |= {"fir": False} if list(taps) == [1, 1] else {"fir_kernel": [float(tap) for tap in taps]}
    made, notes = {}, [f"{net.name}: averages alone, as the file has"]
    if "map_augment.weight" in weights:
        weights.pop("map_augment.weight")
        notes.append("the layer of augmentation labels is left out: sampling never reads it")
    if "map_label.weight" in weights:
        label, bias = weights.pop("map_label.weight"), weights.pop("map_label.bias")
        table = torch.cat([label.t() * math.sqrt(label.shape[1]), torch.zeros_like(bias)[None]]) + bias
        network |= {"classes": label.shape[1], "class_joins": "features"}
        made["class_embedding.weight"] = table / math.sqrt(len(bias))
    for key in [key for key in weights if ".".join(key.split(".")[-2:-1]).endswith("aux_conv")]:
        weights[key] = weights[key][:channels] * row["sign"]
    plain = {"network": network, "sde": row["sde"], "shape": [channels, side, side]}
    config = {"model": plain, "sampling": {"sampler": row["sampler"]}}
    return Foreign(f"EDM {net.name}", path, config, weights, lambda unet: names(unet, "edm", side), notes, made)
