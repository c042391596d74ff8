"""A pretend GPU: a second device for machines that have none. Its tensors compute on the CPU.

It refuses what CUDA refuses, an operation on tensors of both devices, and as CUDA lets numbers
(tensors without dimensions) and copies pass. `install` cannot be undone, so call it in a process of
its own. How fast a GPU is, its memory and its random numbers are not pretended.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
COPIES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
# The first argument may be here and the indices on the CPU, as with CUDA.
INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class Pretend(Tensor):
    """A tensor that says it is on the device; what it holds is ``raw``, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor):
        here = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, 0),
        )
        here.raw = raw
        return here

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return compute(op, *args, **(kwargs or {}))

    # What torch does in C++, and for its own tensors only.

    def tolist(self):
        return self.raw.tolist()

    def __format__(self, how):
        return format(self.raw, how)

    def __repr__(self):
        return f"{NAME}: {self.raw!r}"

    def __array__(self, *_):
        raise TypeError("a tensor on the device does not convert to NumPy: use Tensor.cpu() first")

    numpy = __array__


def compute(op, *args, **kwargs):
    """Carry out an operation on the CPU, and put what comes out of it where it belongs."""
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    here = [each for each in tensors if isinstance(each, Pretend)]
    name = op._schema.name
    if name not in COPIES:
        refuse_both(name, args, tensors)
    asked = kwargs.get("device")
    stays = bool(here) if asked is None else torch.device(asked).type == NAME
    found = op(*tree_map(raw, args), **tree_map(raw, kwargs))
    known = {id(each.raw): each for each in here}  # written in place

    def wrapped(each):
        if isinstance(each, Tensor) and id(each) in known:
            return known[id(each)]
        return Pretend(each) if isinstance(each, Tensor) and stays else each

    return tree_map(wrapped, found)


def refuse_both(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Raise RuntimeError, as CUDA does, if an operation's tensors are on both devices."""
    if name in INDEXED and isinstance(args[0], Pretend):
        tensors = [args[0]] if name == "aten::index" else [args[0], args[2]]
    places = {each.device.type for each in tensors if each.dim() or isinstance(each, Pretend)}
    if len(places) > 1:
        shapes = ", ".join(f"{each.device.type} {tuple(each.shape)}" for each in tensors)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shapes}")


def raw(value):
    """What the CPU is to be given instead."""
    if isinstance(value, Pretend):
        return value.raw
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value


class Generator(torch.Generator):
    """One that can be asked for on the device."""

    def __new__(cls, device: str | torch.device = "cpu"):
        return super().__new__(cls, raw(torch.device(device)))


class Module:
    """What torch asks of ``torch.pretend``: one device, with a generator of its own."""

    default_generators = (torch.Generator(),)

    @staticmethod
    def init():
        pass

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def device_count():
        return 1

    @staticmethod
    def current_device():
        return 0

    @staticmethod
    def _is_in_bad_fork():
        return False

    @classmethod
    def manual_seed_all(cls, seed):
        cls.default_generators[0].manual_seed(seed)

    @staticmethod
    def get_amp_supported_dtype():
        return [torch.bfloat16, torch.float16]


_libraries = []


def install() -> None:
    """Give this process the device, and let the package take it for its GPU."""
    from companion.training import devices

    _setup_privateuseone_for_python_backend(NAME, Module)
    # A parameter that moves stays the same object, as it does between CPU and CUDA.
    torch.__future__.set_swap_module_params_on_conversion(True)
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(compute, "PrivateUse1")  # what makes tensors of nothing
    copies = torch.library.Library("aten", "IMPL")
    copies.impl("_copy_from", _copy_from, "PrivateUse1")
    _libraries.extend([everything, copies])  # registered as long as they live

    torch.Generator = Generator
    devices.default = lambda: torch.device(NAME)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    raw(target).copy_(raw(source))
    return target
