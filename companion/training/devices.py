"""Any device, precision and number of processes: all that the package takes from accelerate."""

from __future__ import annotations

import itertools
import os

import accelerate
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

PRECISIONS = ("no", "bf16", "fp16", "fast")


def accelerator(
    device: str | torch.device | None, precision: str
) -> tuple[accelerate.Accelerator, torch.device]:
    """The engine on a device, and that device, which under torchrun is the process's own."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: one of {', '.join(PRECISIONS)}, not {precision!r}")
    device, several = usable(device), processes() > 1
    if precision == "fast":
        precision = fast_precision(device)
    if device.type == "cpu" and precision == "fp16":
        raise ValueError('fp16 needs a GPU; on a CPU the precision is "bf16" or "no"')
    if several and device != usable(device.type):
        raise ValueError(f"torchrun deals out the devices: ask for {device.type!r}, not {device}")
    # accelerate fixes device and precision for the whole process; a notebook trains many models.
    # The part that knows the device is kept where it can be: a new one calls nvidia-smi.
    known = PartialState._shared_state.get("device")
    stays = known is not None and known.type == device.type
    AcceleratorState._reset_state(reset_partial_state=not stays)
    engine = accelerate.Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        mixed_precision=precision,
    )
    return engine, engine.device if several else device


def processes() -> int:
    """How many of them train together: torchrun's, or this one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def default() -> torch.device:
    """Where whatever takes long is computed, unless the caller names a device: CUDA, if here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable(device: str | torch.device | None) -> torch.device:
    """A device, that of `default` if it is left out; ValueError if it is not here.

    Of torchrun's processes each has its own "cuda", lest all begin something on the first.
    """
    try:
        device = torch.device(device or default())
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        if device == torch.device("cuda") and processes() > 1:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.empty(0, device=device)
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]  # torch may add pages
        raise ValueError(f'device {str(device)!r} is not here, "cpu" is ({reason})') from None
    return device


def fast_precision(device: str | torch.device | None = None) -> str:
    """The precision that is fastest here for large networks: "bf16" where a processor knows it.

    Args:    device: as in `fit`.
    Returns: "bf16" on a CPU with AMX or AVX512-BF16 and on a CUDA device of capability 8 or more,
        else "no".
    """
    device = torch.device(device or default())
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "no"
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # not in every torch
    supported = (getattr(torch.cpu, test, lambda: False) for test in tests)
    return "bf16" if device.type == "cpu" and any(each() for each in supported) else "no"


def home_of(module: nn.Module) -> torch.device:
    """Where a module is: its first parameter or buffer. One that has none is on the CPU."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        return tensor.device
    return torch.device("cpu")


class Call(nn.Module):
    """What accelerate may wrap and patch, so that the caller's module stays as it is."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        # Sent from process to process once (`share_buffers`), not at every call: masks never
        # change, and running means are not used in training.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers: orders drawn at random, running means."""
    state = PartialState()
    if state.num_processes > 1:
        for buffer in module.buffers():  # which NCCL sends from a GPU only
            there = buffer.to(state.device).contiguous()
            buffer.copy_(accelerate.utils.broadcast(there))
