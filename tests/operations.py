"""What the operations of torch return while some code runs."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Results(TorchDispatchMode):
    """Records of the tensors that operations return the most entries, and how many float32 numbers are denormal."""

    entries, denormal = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
                if tensor.dtype is torch.float32 and "empty" not in func.__name__:  # which has any numbers
                    tiny = tensor.abs() < torch.finfo(torch.float32).tiny
                    self.denormal += int((tiny & (tensor != 0)).sum())
        return out
