"""What is installed is what is here: a checkout hides a folder that the wheel forgets."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_folder_of_the_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [path.parent for path in (ROOT / "companion").rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(path.relative_to(ROOT).parts) for path in found)


def test_measured_results_are_installed():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "_data/*" in tool["package-data"]["companion"]
    assert (ROOT / "companion" / "_data" / "results.json").exists()
