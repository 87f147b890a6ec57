"""What torch is doing around a call: the private names of torch that refnet needs, in one place.

Forward mode and higher orders come from differentiating an op's reference equations, so an op has
to know when a forward-mode level is open; a check that reads a tensor's values has to know when
there are none to read (under `torch.compile`, `torch.func`, fake tensors).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def forward_mode() -> bool:
    """Return whether a forward-mode (dual-number) level is open.

    Example:
        >>> import torch
        >>> forward_mode()
        False
        >>> with torch.autograd.forward_ad.dual_level():
        ...     forward_mode()
        True
    """
    if torch.compiler.is_compiling():
        return False
    return bool(forward_ad._current_level >= 0)  # no public way to ask


def has_readable_values(tensor: Tensor) -> bool:
    """Return whether Python may branch on the values of `tensor` at no cost worth speaking of.

    True for a plain CPU tensor in eager mode; False while compiling, under torch.func transforms,
    dispatch modes and for tensor subclasses (fake tensors among them), on meta, and on CUDA, where
    reading would wait for the device.

    Example:
        >>> import torch
        >>> has_readable_values(torch.zeros(3)), has_readable_values(torch.zeros(3, device="meta"))
        (True, False)
    """
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def autocast(
    input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast the operands of a matmul to autocast's dtype where it is on, as torch does.

    float64 and non-float tensors stay as they are, and so does everything outside `torch.autocast`.

    Example:
        >>> import torch
        >>> x, w = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     autocast(x, w, None)[0].dtype
        torch.bfloat16
    """
    device = input.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device)
    lower = (torch.float32, torch.float16, torch.bfloat16)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.dtype in lower else tensor

    return cast(input), cast(weight), None if bias is None else cast(bias)
