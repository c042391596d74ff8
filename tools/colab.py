"""Run chapters as a reader does who opens them in Colab from somebody's fork of the book.

    python tools/colab.py                             every chapter
    python tools/colab.py autoregressive-models       this one
    python tools/colab.py --first 1                   of every chapter the first code cell alone

A fork is made of the files that are here, and published under an address of its own. Of it a
chapter gets its notebook, alone in an empty folder, and Python with the libraries and versions that
Colab has; Git is told that the address is the fork's folder. The chapter's first cell must do the
rest. It is run twice, since readers do that, too.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ROOT / "tools" / "colab.txt"
FORK = "a-reader/their-book"
SET_UP = "set-up"  # the id of a chapter's first code cell
TIMEOUT = 3600  # seconds for a cell


class Visit(NamedTuple):
    """What a reader of a chapter saw.

    Args:
        set_up:  seconds that the first code cell took.
        seconds: of the whole.
        said:    what that cell printed, the first time and the second.
        added:   what is in the environment that was not there before.
        error:   of the cell that failed, or "".
    """

    chapter: str
    set_up: float
    seconds: float
    said: tuple[str, str]
    added: set[str]
    error: str


class Colab:
    """An environment with Colab's versions, a fork of the book, and chapters run in it.

    Args: folder: an empty one for all of it.
    """

    def __init__(self, folder: Path):
        self.folder, self.base = folder, folder / "base"
        print("Installing the versions that Colab has", flush=True)
        environment(self.base)
        stand_in(folder / "stand-in")
        self.fork = folder / "fork"
        publish(self.fork)
        git = f'[url "{self.fork.as_uri()}"]\n\tinsteadOf = https://github.com/{FORK}\n'
        (folder / "gitconfig").write_text(git, "utf-8")

    def visit(self, chapter: str, first: int | None = None) -> Visit:
        """Run a chapter, or only its first code cells, in an empty folder."""
        here = self.folder / chapter
        here.mkdir()
        path = shutil.copy(self.fork / "book" / f"{chapter}.ipynb", here)
        notebook = nbformat.read(path, as_version=4)
        codes = [cell for cell in notebook.cells if cell.cell_type == "code"][:first]
        if codes[0].id != SET_UP:
            raise ValueError(f"the first code cell of {chapter} must have the id {SET_UP!r}")
        again = nbformat.from_dict(codes[0] | {"id": "set-up-again"})
        notebook.cells = [codes[0], again, *codes[1:]]
        began, spent = time.perf_counter(), []
        with self.kernel(chapter) as (name, packages):
            client = NotebookClient(
                notebook,
                kernel_name=name,
                timeout=TIMEOUT,
                resources={"metadata": {"path": str(here)}},
                on_cell_executed=lambda **_: spent.append(time.perf_counter() - began),
            )
            try:
                client.execute()
                error = ""
            except CellExecutionError as failure:
                error = f"{failure.ename}: {failure.evalue}"
            added = {path.name for path in packages.iterdir()}
        seconds = time.perf_counter() - began
        said = tuple(
            "".join(output.get("text", "") for output in cell.get("outputs", []))
            for cell in notebook.cells[:2]
        )
        return Visit(chapter, spent[0] if spent else seconds, seconds, said, added, error)

    @contextlib.contextmanager
    def kernel(self, chapter: str) -> Iterator[tuple[str, Path]]:
        """A fresh kernel's name, and the folder to which it would install."""
        # On top of the base, so that what a chapter installs is seen, and the next has it not.
        environment = self.folder / f"{chapter}-environment"
        venv.create(environment)
        packages = site_packages(environment)
        (packages / "base.pth").write_text(f"{site_packages(self.base)}\n", "utf-8")
        ipython = self.folder / f"{chapter}-ipython"
        startup = ipython / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "colab.py").write_text("import google.colab\n", "utf-8")
        spec = {
            "argv": [
                str(environment / "bin" / "python"),
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
            ],
            "display_name": chapter,
            "language": "python",
            "env": {
                "GIT_CONFIG_GLOBAL": str(self.folder / "gitconfig"),
                "IPYTHONDIR": str(ipython),
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # it would warn of frozen modules
                "PYTHONPATH": str(self.folder / "stand-in"),
            },
        }
        kernels = self.folder / "jupyter" / "kernels" / chapter
        kernels.mkdir(parents=True)
        (kernels / "kernel.json").write_text(json.dumps(spec), "utf-8")
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = str(self.folder / "jupyter")
        try:
            yield chapter, packages
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def requirements() -> list[str]:
    """What the package needs, as `pyproject.toml` says."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return tomllib.loads(text)["project"]["dependencies"]


def site_packages(environment: Path) -> Path:
    """Where an environment keeps its packages."""
    return environment.joinpath("lib", "python{}.{}".format(*sys.version_info), "site-packages")


def environment(folder: Path) -> None:
    """Make a virtual environment with Colab's versions, and with the torch that is here."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "-r", VERSIONS], check=True)
    for name in sorted({each.metadata["Name"].lower() for each in metadata.distributions()}):
        if name in ("torch", "triton") or name.startswith("nvidia-"):
            lent = metadata.distribution(name)
            for top in {file.parts[0] for file in lent.files or []} - {"..", "bin"}:
                link = site_packages(folder) / top
                if not link.exists():
                    link.symlink_to(lent.locate_file(top))


def stand_in(folder: Path) -> None:
    """Make a package `google.colab`, by which Colab is known."""
    package = folder / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", "utf-8")


def publish(fork: Path) -> None:
    """Make a repository of the files that are here, as its owner would have pushed it."""
    git = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (fork / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, fork / name)
    quiet = {"check": True, "cwd": fork, "stdout": subprocess.DEVNULL}
    subprocess.run([sys.executable, fork / "tools" / "publish.py", "--as", FORK], **quiet)
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], **quiet)
    subprocess.run(["git", "add", "--all"], **quiet)
    author = ["-c", "user.name=A reader", "-c", "user.email=reader@example.org"]
    subprocess.run(["git", *author, "commit", "--quiet", "-m", "Publish"], **quiet)


def main(arguments: list[str] | None = None) -> int:
    chapters = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(chapters))
    parser.add_argument("--first", type=int, help="run so many code cells of each, not all")
    options = parser.parse_args(arguments)
    if unknown := {*options.names} - {*chapters}:
        parser.error(f"no chapter {', '.join(unknown)}; there are: {', '.join(chapters)}")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        colab = Colab(Path(folder))
        print(f"{'chapter':<34}{'set-up':>8}{'all':>8}")
        for name in options.names or chapters:
            visit = colab.visit(name, options.first)
            print(f"{name:<34}{visit.set_up:>6.0f} s{visit.seconds:>6.0f} s", flush=True)
            if visit.error:
                print(visit.error)
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
