"""A CUDA device that is not there, by torch's fake tensors, which have its name, shapes and dtypes, but no values.

    with gpu() as device:
        x = torch.randn(3, device="cuda:0")         # nothing is drawn
        x + torch.ones(3)                           # RuntimeError: two devices
        float(x.sum())                              # Waiting: there is no value to read
        device.watching = True
        torch.ones(3).to("cuda:0")                  # Waiting: for the copy

The device of :mod:`pretended_device` has values, so that code that reads them goes on; this one has the name, and with
it all that depends on that: autocast's rules, fused optimisers, loss scaling, layouts, the size of a block of noise.
Tensors on the CPU stay real. The way back is not to be had: the engine asks the driver for its threads.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = "cuda:0"


class Waiting(AssertionError):
    """The host would wait for the device."""


class Fake(FakeTensorMode):
    """Operations on the device alone are faked; ``watching``, copies to it and from it are refused."""

    watching = False

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        flat = tree_flatten((arguments, options))[0]
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        device = options.get("device")
        to_gpu = device is not None and torch.device(device).type == "cuda"
        if not (to_gpu or any(isinstance(tensor, FakeTensor) for tensor in tensors)):
            return operation(*arguments, **options)
        if self.watching:
            self._watch(operation, arguments, options, tensors)
        arguments, options = tree_map(self._faked, (arguments, options))
        try:
            return super().__torch_dispatch__(operation, types, arguments, options)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Waiting(f"{operation} reads a value") from error

    def _watch(self, operation, arguments, options, tensors):
        name = operation.overloadpacket._qualified_op_name.removeprefix("aten::")
        places = {tensor.device.type for tensor in tensors}
        if name == "_to_copy" and options.get("device") is not None:
            places.add(torch.device(options["device"]).type)
        if name in ("_to_copy", "copy_") and len(places) > 1 and not options.get("non_blocking"):
            raise Waiting(f"{operation} copies between the devices")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and (index.dtype == torch.bool or index.device.type == "cpu") for index in arguments[1]
        ):
            raise Waiting(f"{operation} by a mask, or by an index on the host")

    def _faked(self, value):
        return (
            self.from_tensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor) else value
        )


@contextmanager
def gpu():
    """Enter the device; what is yielded may be told to watch."""
    generator = torch.Generator
    changes = [
        patch.object(torch, "Generator", type("Generator", (), {"__new__": lambda cls, device="cpu": generator()})),
        patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor),
        patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    ]
    answers = {"current_device": 0, "is_bf16_supported": True, "synchronize": None, "manual_seed_all": None}
    with Fake(allow_non_fake_inputs=True) as mode, ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        yield mode
