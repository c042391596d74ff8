"""The tested torch package behind *Generative Models, Line by Line*."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("companion")
except PackageNotFoundError:  # imported straight from a checkout
    __version__ = "0+unknown"
