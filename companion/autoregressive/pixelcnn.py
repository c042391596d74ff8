"""Convolutions that see earlier pixels only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.autoregressive.base import Autoregressive
from companion.nn import MaskedConv2d


class PixelCNN(Autoregressive):
    r"""Masked convolutions, the same at every pixel, Eq. (masked-convolution).

    A stack of them never sees some of the earlier pixels, the blind spot; see `GatedPixelCNN`.

    Args:
        shape:    height and width of the image; D is their product.
        channels: of every hidden layer.
        layers:   how many masked convolutions follow the first.
        kernel:   their odd width.
        first_kernel: the odd width of the first.
        order:    the order of the pixels, shape ``(D,)``: the image is scanned row by row after
            the pixels have been put into that order, so that only orders that keep neighbours
            together (rows, columns, their reverses) leave it an image. For columns of an image
            that is not square, ``shape`` is width and height.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), "Pixel recurrent neural networks", with
        plain residual layers.
    """

    def __init__(
        self,
        shape: tuple[int, int] = (28, 28),
        channels: int = 32,
        layers: int = 5,
        *,
        kernel: int = 3,
        first_kernel: int = 7,
        order: Tensor | Sequence[int] | None = None,
    ):
        super().__init__(_pixels(shape), order)
        _require(self, channels, layers)
        self.shape = tuple(shape)
        self.first = MaskedConv2d("A", 1, channels, first_kernel)
        self.layers = nn.ModuleList(
            MaskedConv2d("B", channels, channels, kernel) for _ in range(layers)
        )
        self.output = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.output.weight)
        self.b = nn.Parameter(torch.zeros(self.features))

    @property
    def bias(self) -> nn.Parameter:
        return self.b

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        h = self.first(to_images(self, x)).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            h = h + layer(F.relu(h))
        return to_vectors(self, self.output(F.relu(h).movedim(1, -1)), x)

    @torch.no_grad()
    def walk(self, x: Tensor, which: int = 0) -> Iterator[Tensor]:
        """Every activation once, at the pixel whose turn it is."""
        height, width = self.shape
        stack = [self.first, *self.layers]
        margins = [layer.kernel_size[0] // 2 for layer in stack]
        # A kernel's rows below the centre are all masked.
        weights = [
            layer.masked_weight()[:, :, : m + 1].flatten(1)
            for layer, m in zip(stack, margins, strict=True)
        ]
        # What each layer reads, with a margin of zeros.
        inputs = [
            x.new_zeros(len(x), layer.in_channels, height + m, width + 2 * m)
            for layer, m in zip(stack, margins, strict=True)
        ]
        for place, i in enumerate(self.orders[0].tolist()):
            r, c = divmod(place, width)
            h = 0
            for layer, weight, m, below in zip(stack, weights, margins, inputs, strict=True):
                if layer is not self.first:
                    below[:, :, r + m, c + m] = F.relu(h)
                patch = below[:, :, r : r + m + 1, c : c + 2 * m + 1]
                h = h + F.linear(patch.flatten(1), weight, layer.bias)
            yield self.output(F.relu(h)).squeeze(1) + self.b[i]
            inputs[0][:, 0, r + margins[0], c + margins[0]] = x[:, i]


class GatedPixelCNN(Autoregressive):
    r"""Two stacks of convolutions without a blind spot, Eq. (gated-pixelcnn).

    The vertical stack sees all rows above, the horizontal one the pixels to the left and, at every
    layer, what the vertical one has found; both pass through gates, Eq. (gate).

    Args:
        shape:    height and width of the image; D is their product.
        channels: of every hidden layer.
        layers:   how many gated layers follow the first convolutions.
        kernel:   their odd width.
        first_kernel: the odd width of the first, which reads a single channel and costs little.
        order:    the order of the pixels, shape ``(D,)``, as in `PixelCNN`.

    Source: van den Oord et al. (2016), "Conditional image generation", Sec. 2 and Fig. 2; the
        residual connection of the vertical stack and the pixels' own offsets are added here.
    """

    def __init__(
        self,
        shape: tuple[int, int] = (28, 28),
        channels: int = 32,
        layers: int = 3,
        *,
        kernel: int = 5,
        first_kernel: int = 15,
        order: Tensor | Sequence[int] | None = None,
    ):
        super().__init__(_pixels(shape), order)
        _require(self, channels, layers)
        for width in (kernel, first_kernel):
            if width < 3 or width % 2 == 0:
                raise ValueError(f"a kernel has an odd width of at least 3, not {width}")
        self.shape = tuple(shape)
        C, k, f = channels, kernel // 2, first_kernel // 2
        # The kernels are those that a mask would leave: rows above, pixels to the left.
        self.first_vertical = nn.Conv2d(1, C, (f, 2 * f + 1))
        self.first_horizontal = nn.Conv2d(1, C, (1, f))
        # A convolution is the same everywhere; digits are not.
        self.offsets = nn.Parameter(torch.zeros(2, C, *shape))
        self.vertical, self.horizontal, self.link, self.residual = (
            nn.ModuleList(nn.Conv2d(inputs, outputs, size) for _ in range(layers))
            for inputs, outputs, size in [
                (C, 2 * C, (k + 1, 2 * k + 1)),
                (C, 2 * C, (1, k + 1)),
                (2 * C, 2 * C, 1),
                (C, C, 1),
            ]
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(C, C, 1), nn.ReLU(), nn.Conv2d(C, 1, 1, bias=False)
        )
        nn.init.zeros_(self.head[-1].weight)
        self.b = nn.Parameter(torch.zeros(self.features))

    @property
    def bias(self) -> nn.Parameter:
        return self.b

    def logits(self, x: Tensor, which: int = 0) -> Tensor:
        image = to_images(self, x)
        f = self.first_vertical.kernel_size[0]
        v = self.first_vertical(F.pad(image, (f, f, f, -1))) + self.offsets[0]
        h = self.first_horizontal(F.pad(image, (f, -1))) + self.offsets[1]
        v, h = (t.contiguous(memory_format=torch.channels_last) for t in (v, h))
        for vertical, horizontal, link, residual in zip(
            self.vertical, self.horizontal, self.link, self.residual, strict=True
        ):
            k = vertical.kernel_size[0] - 1
            a = vertical(F.pad(v, (k, k, k, 0)))
            h = h + residual(gate(horizontal(F.pad(h, (k, 0))) + link(a)))
            v = v + gate(a)
        return to_vectors(self, self.head(h), x)

    @torch.no_grad()
    def walk(self, x: Tensor, which: int = 0) -> Iterator[Tensor]:
        """Every activation once: the vertical stack row by row, the horizontal pixel by pixel."""
        height, width = self.shape
        f, k = self.first_vertical.kernel_size[0], self.vertical[0].kernel_size[0] - 1
        C, order = self.offsets.shape[1], self.orders[0].tolist()
        # With margins of zeros: the image, and what the vertical layers read.
        image = x.new_zeros(len(x), 1, height + f, width + 2 * f)
        above = x.new_zeros(len(self.vertical), len(x), C, height + k, width + 2 * k)
        for r in range(height):
            v = self.first_vertical(image[:, :, r : r + f]) + self.offsets[0, :, r : r + 1]
            links = []
            for vertical, link, rows in zip(self.vertical, self.link, above, strict=True):
                rows[:, :, r + k : r + k + 1, k : k + width] = v
                a = vertical(rows[:, :, r : r + k + 1])
                links.append(link(a).squeeze(2))
                v = v + gate(a)
            left = x.new_zeros(len(self.horizontal), len(x), C, width + k)
            for c in range(width):
                i = order[r * width + c]
                h = _at(self.first_horizontal, image[:, :, r + f, c : c + f])
                h = h + self.offsets[1, :, r, c]
                for horizontal, residual, found, row in zip(
                    self.horizontal, self.residual, links, left, strict=True
                ):
                    row[:, :, c + k] = h
                    a = _at(horizontal, row[:, :, c : c + k + 1]) + found[:, :, c]
                    h = h + _at(residual, gate(a))
                yield self.head(h[:, :, None, None]).flatten() + self.b[i]
                image[:, 0, r + f, c + f] = x[:, i]


def gate(a: Tensor) -> Tensor:
    r"""Half the channels, each times a gate, ``(B, 2C, ...) -> (B, C, ...)``, Eq. (gate).

    .. math:: \tanh(a_1) \odot \sigma(a_2)

    Source: van den Oord et al. (2016), "Conditional image generation", Eq. 2.
    """
    a_1, a_2 = a.chunk(2, 1)
    return a_1.tanh() * a_2.sigmoid()


def _pixels(shape: tuple[int, int]) -> int:
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise TypeError(f"shape is height and width, such as (28, 28), not {shape}")
    return math.prod(shape)


def _require(model: Autoregressive, channels: int, layers: int) -> None:
    name = type(model).__name__
    if channels < 1 or layers < 1:
        raise ValueError(
            f"a {name} needs at least 1 channel and 1 layer; got {channels} and {layers}"
        )


def to_images(model: Autoregressive, x: Tensor) -> Tensor:
    """The pixels in the model's order as images, ``(*batch, D) -> (B, 1, height, width)``."""
    return x[..., model.orders[0]].reshape(math.prod(x.shape[:-1]), 1, *model.shape)


def to_vectors(model: Autoregressive, images: Tensor, x: Tensor) -> Tensor:
    """Back into the places of x, with the bias."""
    return images.reshape(x.shape)[..., model.orders[0].argsort()] + model.b


def _at(convolution: nn.Conv2d, patch: Tensor) -> Tensor:
    """A convolution at one place, from the patch below its kernel, ``(B, ...) -> (B, C)``."""
    return F.linear(patch.flatten(1), convolution.weight.flatten(1), convolution.bias)
