"""Layers, and what else several chapters share."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion import require


class MaskedLinear(nn.Module):
    r"""A linear layer in which a mask decides who may see whom, Eq. (masked-layer).

    .. math:: y = (M \odot W)\, x + b

    Weights begin at 0: a hidden layer needs others, as in `MADE`.

    Args:
        mask: which input (column) reaches which output (row), shape ``(out, in)``; or
            ``(M, out, in)`` for M masks over one weight matrix, chosen at each call.
        bias: add a bias per output.

    Source: Germain, Gregor, Murray & Larochelle (2015), Sec. 4.
    """

    def __init__(self, mask: Tensor, bias: bool = True):
        super().__init__()
        if mask.dim() not in (2, 3):
            raise ValueError(f"a mask has shape (out, in) or (M, out, in), not {tuple(mask.shape)}")
        mask = mask if mask.dim() == 3 else mask[None]
        # Not persistent: the masks follow from the constructor's arguments, not from training.
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)
        self.weight = nn.Parameter(torch.zeros(mask.shape[1:]))
        self.bias = nn.Parameter(torch.zeros(mask.shape[1])) if bias else None

    def forward(self, x: Tensor, which: int = 0) -> Tensor:
        """``(*batch, in) -> (*batch, out)`` under the mask number ``which``."""
        return F.linear(x, self.masked_weight(which), self.bias)

    def masked_weight(self, which: int = 0) -> Tensor:
        """The weights that are left, ``(out, in)``."""
        return self.mask[which] * self.weight


class MaskedConv2d(nn.Conv2d):
    r"""A convolution that sees earlier pixels only, Eq. (masked-convolution).

    .. math:: y_{rc} = b + \sum_{s, t} M_{st} W_{st}\, x_{r + s,\, c + t}

    with s and t from -(k - 1)/2 to (k - 1)/2; pixels outside the image count as zero.

    Args:
        kind: "A" hides the centre too, for the first layer, whose input is the image itself; "B"
            shows it, for the layers above, whose inputs have not seen the pixel either.
        inputs, outputs: channels.
        kernel: k, the odd width of the square kernel.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), "Pixel recurrent neural networks".
    """

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int):
        if kind not in ("A", "B"):
            raise ValueError(f'a mask is of kind "A" or "B", not {kind!r}')
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"a kernel with a centre has an odd width, not {kernel}")
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        place = torch.arange(kernel * kernel).reshape(kernel, kernel)
        centre = kernel * kernel // 2
        mask = place <= centre if kind == "B" else place < centre
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, height, width) -> (B, outputs, height, width)``."""
        return F.conv2d(x, self.masked_weight(), self.bias, padding=self.padding)

    def masked_weight(self) -> Tensor:
        """The weights that are left, ``(outputs, inputs, k, k)``."""
        return self.mask * self.weight


def mlp(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A network of linear layers with these widths, an activation after each of them."""
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers)


def at_least_float32(values: Tensor) -> Tensor:
    """Values in float32 or better, as probabilities need them, whatever the network ran in."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def per_example(values: Tensor, x: Tensor) -> Tensor:
    """Return the values if there is one for each example; a mean over entries is no likelihood.

    Raises: ValueError if they have another shape.
    """
    if values.shape != x.shape[:1]:
        raise ValueError(
            f"one value for each of {len(x)} examples is needed, not {tuple(values.shape)}: sum "
            "over the event, with torch.distributions.Independent"
        )
    return values


def vectors(x: Tensor, like: Tensor) -> Tensor:
    """x in the precision and on the device of a parameter, of as many entries, ``(*batch, D)``.

    Raises: ValueError if it has another number of entries, or holds grey values up to 255.
    """
    require.tensors(x=x)
    if x.shape[-1:] != like.shape[-1:]:
        raise ValueError(
            f"x must have shape (*batch, {like.shape[-1]}), got {tuple(x.shape)}; images are "
            "flattened first: x.flatten(-2)"
        )
    if not x.is_floating_point() and ((x < 0) | (x > 1)).any():
        raise ValueError("x holds grey values: binarise it first, as data.binarize does")
    return x.to(like)


def draws(sample_shape: Sequence[int]) -> int:
    """How many draws a shape asks for.

    Raises: TypeError if it is a bare count; ValueError for a size that is none.
    """
    if not isinstance(sample_shape, Sequence):
        raise TypeError(f"sample takes a shape: ({sample_shape},), not {sample_shape}")
    for size in sample_shape:
        require.whole(0, size=size)
    return math.prod(sample_shape)


def require_shares(marginals: Tensor, bias: Tensor) -> None:
    """Refuse what is no share of ones, 0 to 1, for each entry of a bias, ``(D,)``."""
    require.tensors(marginals=marginals)
    if marginals.shape != bias.shape:
        shape = tuple(marginals.shape)
        raise ValueError(f"a share of ones for each of {len(bias)} entries is needed, not {shape}")
    require.shares(marginals=marginals)


def free_parameters(model: nn.Module) -> int:
    """How many numbers a model has, but for the weights that a mask hides."""
    hidden = 0
    for module in model.modules():
        if isinstance(module, MaskedLinear):
            hidden += int((module.mask == 0).all(0).sum())
        elif isinstance(module, MaskedConv2d):
            hidden += int((module.mask == 0).sum()) * module.weight[:, :, 0, 0].numel()
    return sum(parameter.numel() for parameter in model.parameters()) - hidden


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside it, gradients pass through the module, and its weights keep none."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:  # and not what the caller has frozen
            parameter.requires_grad_(True)
