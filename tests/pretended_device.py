"""A device that is not there: tensors that say they lie on it, hold their values on the CPU, and obey its rules.

    with Pretended() as device:
        x = torch.randn(3, device=device.name)
        x + torch.ones(3)                           # RuntimeError: two devices
        float(x.sum())                              # noted in device.waits
        torch.tensor(0.5, device=device.name)       # so is this: the copy of a number waits

So any machine shows what a GPU would complain about or wait for, with values, so that code that reads them goes on. Its
name is ``meta``, the one device besides the CPU that every build of torch can record gradients on.
"""

import traceback
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
READS = frozenset({
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_consecutive",
    "unique_dim", "repeat_interleave", "bincount",
})  # fmt: skip
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class There(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=NAME
        )
        made.held = held
        return made

    def __repr__(self):
        return f"There({self.held})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        raise AssertionError(f"{operation} on a tensor of the pretended device, outside of it")


class FromNumbers(TorchFunctionMode):
    """``torch.tensor(..., device=there)`` by way of the host, as on a GPU; for ``meta`` torch takes a short cut."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        if function in (torch.tensor, torch.as_tensor) and NAME in str(options.get("device")):
            options.pop("device")
            if not isinstance(arguments[0], There):
                return function(*arguments, **options).to(NAME)
        if function is torch.Tensor.new_tensor and isinstance(arguments[0], There):
            return torch.tensor(arguments[1], **{"dtype": arguments[0].dtype, **options}).to(NAME)
        if function is torch.Tensor.tolist and isinstance(arguments[0], There):
            return arguments[0].cpu().tolist()
        return function(*arguments, **options)


class Pretended(TorchDispatchMode):
    """The device, while it is entered; ``waits`` lists what would have made the host wait, and where."""

    name = NAME

    def __init__(self):
        super().__init__()
        self.waits = []

    def __enter__(self):
        generator, autocast = torch.Generator, torch.autocast
        here = type("Generator", (), {"__new__": lambda cls, device="cpu": generator()})
        self._changed = [
            patch.object(torch, "Generator", here),
            patch.object(torch, "autocast", lambda kind, *how, **more: autocast("cpu", *how, **more)),
            FromNumbers(),
        ]
        for change in self._changed:
            change.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for change in reversed(self._changed):
            change.__exit__(*error)

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        tensors = [a for a in tree_flatten((arguments, options))[0] if isinstance(a, torch.Tensor)]
        inside = any(isinstance(a, There) for a in tensors)
        stays = torch.device(options["device"]).type == NAME if options.get("device") is not None else inside
        if not (inside or stays):
            return operation(*arguments, **options)
        name = operation.overloadpacket._qualified_op_name.removeprefix("aten::")
        self._check(name, arguments, options, tensors, stays)
        bare_arguments, bare_options = tree_map(_bare, (arguments, options))
        out = operation(*bare_arguments, **bare_options)
        if stays:
            out = tree_map(lambda a: There(a) if isinstance(a, torch.Tensor) else a, out)
        return return_and_correct_aliasing(operation, arguments, options, out) if inside and stays else out

    def _check(self, name, arguments, options, tensors, stays):
        """Raise what the device would, and note what the host would have to wait for."""
        there = [isinstance(a, There) for a in tensors]
        if name in ("_to_copy", "copy_"):
            if there[-1] != (there[0] if name == "copy_" else stays) and not options.get("non_blocking"):
                self._note("a copy between the devices")
        elif name in READS:
            self._note(name)
        elif name in INDEXING:
            indices = [a for a in arguments[1] if a is not None]
            if any(a.dtype in (torch.bool, torch.uint8) for a in indices):
                self._note("a mask as index")
            elif not all(isinstance(a, There) for a in indices):
                self._note("an index on the host")
        elif any(not isinstance(a, There) and (a.ndim or name in ("cat", "stack")) for a in tensors):
            raise RuntimeError(f"{name} of tensors on two devices, {[str(a.device) for a in tensors]}")

    def _note(self, what):
        frames = [f for f in traceback.extract_stack() if "/scoresde_" in f.filename]
        place = f"{frames[-1].filename.rpartition('/scoresde_')[2]}:{frames[-1].lineno}" if frames else "the test"
        self.waits.append(f"{what} at {place}")


def _bare(value):
    if isinstance(value, There):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value
