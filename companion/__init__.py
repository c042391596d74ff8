"""The tested torch package behind *Generative Models, Line by Line*."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _version() -> str:
    # A checkout is asked first: what an editable install wrote down may be older than it.
    try:
        text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
        project = tomllib.loads(text)["project"]
        if project["name"] == "companion":
            return project["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        pass  # installed
    try:
        return version("companion")
    except PackageNotFoundError:  # a copied folder
        return "0+unknown"


__version__ = _version()
