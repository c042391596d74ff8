"""Autoregressive models of binary vectors: every conditional is a Bernoulli distribution.

Chapter: book/autoregressive-models.ipynb. Checks: tests/equations/autoregressive.py.
"""

from companion.autoregressive import orders
from companion.autoregressive.base import Autoregressive
from companion.autoregressive.fvsbn import FVSBN
from companion.autoregressive.made import MADE
from companion.autoregressive.nade import NADE
from companion.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN

__all__ = ["FVSBN", "MADE", "NADE", "Autoregressive", "GatedPixelCNN", "PixelCNN", "orders"]
