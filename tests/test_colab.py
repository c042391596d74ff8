"""A chapter as in Colab: its notebook alone, Colab's versions, and the fork that it is from.

`make colab` does so with every chapter. Their first cells are the same (tests/test_publish.py), so
that here one chapter stands for all. Installing needs the network; without it the test is skipped
on a reader's machine and fails in CI.
"""

import os
import re
import subprocess

import pytest

from tests.book import ROOT
from tools import colab

CHAPTER = "generative-models"  # the quickest


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    try:
        return colab.Colab(tmp_path_factory.mktemp("colab")).visit(CHAPTER)
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Colab's versions could not be installed: {error}")


def test_the_chapter_runs_from_its_notebook_alone(visit):
    assert not visit.error


def test_the_first_cell_installs_and_says_so_and_is_safe_to_run_twice(visit):
    first, second = visit.said
    ready = "Ready, on the CPU. That is enough. A GPU is quicker: "
    assert re.match(r"Installing companion \S+ …\n" + re.escape(ready), first)
    assert second.startswith(ready)


def test_nothing_is_installed_but_the_package(visit):
    assert {name for name in visit.added if not name.endswith((".pth", ".pyc"))} == {
        "companion",
        *(name for name in visit.added if re.fullmatch(r"companion-[\w.]+\.dist-info", name)),
    }


def test_colab_has_what_the_package_needs():
    """A dependency that Colab lacks would have to be installed there: `--no-deps` would fail."""
    from packaging.requirements import Requirement

    listed = (ROOT / "tools" / "colab.txt").read_text("utf-8").splitlines()
    there = dict(line.lower().split("==") for line in listed if "==" in line) | {"torch": "2.11.0"}
    for each in colab.requirements():
        assert Requirement(each).specifier.contains(there[Requirement(each).name]), each
