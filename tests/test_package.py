"""What is installed is what is here: a checkout hides a folder that the wheel forgets."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import companion

ROOT = Path(__file__).parents[1]
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
DATA = ROOT / "companion" / "_data"
JUNK = shutil.ignore_patterns("__pycache__", ".*", "results.json.*")


def test_every_folder_of_the_package_is_installed():
    found = [path.parent for path in (ROOT / "companion").rglob("__init__.py")]
    listed = sorted(".".join(path.relative_to(ROOT).parts) for path in found)
    assert sorted(TOOL["packages"]) == listed


def test_measured_results_are_installed():
    assert "_data/*" in TOOL["package-data"]["companion"]
    assert (DATA / "results.json").exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with a wheel and a source distribution, built without a network."""
    source = tmp_path_factory.mktemp("source")  # setuptools leaves its work beside the sources
    for folder in ("companion", "tests", "tools"):
        shutil.copytree(ROOT / folder, source / folder, ignore=JUNK)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT.md"):
        shutil.copy(ROOT / name, source)
    folder = tmp_path_factory.mktemp("dist")
    program = (
        "import sys; from setuptools import build_meta as b; to = sys.argv[1]; "
        "b.build_sdist(to); b.build_wheel(to)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def expected() -> set[str]:
    """Every file of the package, as the wheel should name it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "companion").rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.name[0] != "."
        and not path.name.startswith("results.json.")
    }


def test_the_wheel_holds_the_package_its_data_and_the_licence_and_nothing_else(built):
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"companion-{companion.__version__}.dist-info"
        metadata = archive.read(f"{about}/METADATA").decode()
        assert f"Version: {companion.__version__}\n" in metadata
        assert "License-Expression: MIT AND CC-BY-SA-3.0\n" in metadata  # the latter of MNIST
        assert archive.read("companion/_data/results.json") == (DATA / "results.json").read_bytes()
    meta = {name for name in names if name.startswith(f"{about}/")}
    assert names - meta == expected()
    assert "companion/_data/mnist.tar.xz" in names
    assert any(name.startswith("companion/_data/weights/") for name in names)
    assert {f"{about}/licenses/{name}" for name in ("LICENSE", "LICENSE-TEXT.md")} <= meta


def test_the_source_distribution_can_be_built_from(built):
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert expected() | {"pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT.md"} <= names


def test_models_know_nothing_of_training():
    models = "autoregressive, distributions, nn, vae"
    program = f"import sys; from companion import {models}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    modules = set(loaded.stdout.split())
    assert "companion.vae.model" in modules
    assert not {"companion.training", "companion.data", "accelerate", "matplotlib"} & modules


def test_an_installed_package_reads_its_data_and_draws(built, tmp_path):
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # as pip does for a wheel without scripts
        archive.extractall(tmp_path / "site")
    program = (
        "import runpy, sys, companion; from companion import data; "
        "print(companion.__file__, companion.__version__, len(data.mnist().train.images)); "
        "sys.argv = ['companion', 'sample', 'made', '--to', 'drawings.png']; "
        "runpy.run_module('companion', run_name='__main__')"
    )
    variables = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, version, images = done.stdout.split()[:3]
    assert Path(where).is_relative_to(tmp_path)
    assert (version, images) == (companion.__version__, "50000")
    assert (tmp_path / "drawings.png").stat().st_size > 1000
