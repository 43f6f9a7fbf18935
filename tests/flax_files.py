"""Files as flax 0.3 writes them, by an encoder of our own."""

import struct

import numpy as np
import torch


def head(small, size, wide):
    """The first bytes of something with ``size`` parts."""
    return bytes([small + size]) if size < 16 else struct.pack(">BI", wide, size)


def encoded(value):
    """msgpack of maps, texts, whole numbers, floats, bytes, and arrays as flax has them."""
    if isinstance(value, dict):
        return head(0x80, len(value), 0xDF) + b"".join(encoded(name) + encoded(part) for name, part in value.items())
    if isinstance(value, list):
        return head(0x90, len(value), 0xDD) + b"".join(map(encoded, value))
    if isinstance(value, str):
        return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return struct.pack(">Bq", 0xD3, value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    inner = encoded([list(value.shape), value.dtype.name, value.tobytes()])
    return extension(1, inner)


def extension(code, data):
    """An extension of any kind."""
    return struct.pack(">BIb", 0xC9, len(data), code) + data


def nested(flat):
    """{"a/b": 1} as {"a": {"b": 1}}."""
    tree = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value.numpy() if isinstance(value, torch.Tensor) else value
    return tree


def state(target, ema, **changes):
    """A train state of score_sde, of parameters by path."""
    target, ema = nested(target), nested(ema)
    moments = {"grad_ema": np.full(3, 7, np.float32), "grad_sq_ema": np.full(3, 8, np.float32)}
    optimizer = {"target": target, "state": {"step": np.array(12, np.int32), "param_states": {"Conv_0": moments}}}
    found = {"step": np.array(12, np.int32), "optimizer": optimizer, "lr": np.array(2e-4, np.float32),
             "model_state": {}, "ema_rate": np.array(0.999, np.float32), "params_ema": ema,
             "rng": np.array([0, 1], np.uint32)}  # fmt: skip
    return {**found, **changes}
