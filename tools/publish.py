"""Write the book's own address, branch and version wherever they stand.

    python tools/publish.py                    what _config.yml and pyproject.toml say
    python tools/publish.py --as owner/name    another repository's address, a fork's for instance
    python tools/publish.py --check            only say where something else stands

The address stands in _config.yml, the version in pyproject.toml. The first cell of every chapter
repeats them, since in Colab the notebook is all that there is. Nothing but Python is needed, so
that a workflow can run this before anything is installed.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
HOST = "https://github.com/"
NOBODY = "OWNER"  # who owns the repository until somebody does
COLAB = "https://colab.research.google.com/github/"
PLAIN = "colab"  # the branch of the chapters as tools/plain.py writes them
ID = "set-up"
URL = re.compile(rf"^(  url: )({re.escape(HOST)}\S+)$", re.MULTILINE)
BRANCH = re.compile(r"^  branch: (\S+)$", re.MULTILINE)
NAME = re.compile(rf"(?:{re.escape(HOST)})?([A-Za-z0-9-]+/[A-Za-z0-9._-]+?)(?:\.git)?/?")

CELL = """\
# Installs the book's package where it is missing, as in Colab, and nothing else.
import subprocess
import sys
from importlib.util import find_spec

VERSION = "{version}"
REPOSITORY = "{url}"
REFERENCES = {references}

if find_spec("companion") is None:
    if "/{nobody}/" in REPOSITORY:
        raise ModuleNotFoundError(
            "The package 'companion' is not installed, and this copy of the book does "
            "not say where it is published. Clone it and run `make book` in its folder."
        )
    print(f"Installing companion {{VERSION}} …")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    for reference in REFERENCES:
        pip_this = [*pip, f"git+{{REPOSITORY}}@{{reference}}"]
        done = subprocess.run(pip_this, capture_output=True, text=True)
        if done.returncode == 0:
            break
    else:
        raise RuntimeError(
            f"{{done.stderr}}\\nThe package could not be installed from {{REPOSITORY}}: "
            "see above why. If the network failed, run this cell again."
        )

from companion.notebook import set_up

set_up(VERSION)"""


class PublishError(Exception):
    """A repository or a file that cannot be used; the message says what would be right."""


class Book(NamedTuple):
    """Where the book is published, and which version it is."""

    url: str
    branch: str
    version: str

    @property
    def references(self) -> list[str]:
        """What the chapters install, the first of these that there is."""
        # A fork may have been made without tags; between releases there is none.
        return [*([] if ".dev" in self.version else [f"v{self.version}"]), self.branch]

    def in_colab(self, chapter: str) -> str:
        """The address that opens a chapter in Colab."""
        return f"{COLAB}{self.url.removeprefix(HOST)}/blob/{PLAIN}/book/{chapter}.ipynb"

    @property
    def cell(self) -> str:
        """The source of a chapter's first cell."""
        references = json.dumps(self.references)
        return CELL.format(**self._asdict(), references=references, nobody=NOBODY)


def read(root: Path) -> Book:
    """What `_config.yml` and `pyproject.toml` say."""
    config = (root / "_config.yml").read_text(encoding="utf-8")
    url, branch = URL.search(config), BRANCH.search(config)
    if url is None or branch is None:
        raise PublishError(
            f"_config.yml must have the lines `  url: {HOST}owner/name` and `  branch: main`"
        )
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Book(url[2], branch[1], project["version"])


def address(repository: str) -> str:
    """The address of owner/name, which may be given as an address already.

    Raises: PublishError for anything else.
    """
    found = NAME.fullmatch(repository)
    if found is None or found[1].partition("/")[0] == NOBODY:
        raise PublishError(f"{repository!r} is no repository: write owner/name, as on GitHub")
    return HOST + found[1]


def changes(root: Path, book: Book) -> dict[Path, str]:
    """The new texts of the files in which something else stands."""
    config = root / "_config.yml"
    texts = {config: URL.sub(rf"\g<1>{book.url}", config.read_text(encoding="utf-8"))}
    for path in sorted((root / "book").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["id"] == ID]
        if len(cells) != 1:
            raise PublishError(f"{path.name} must have one cell with the id {ID!r}")
        cells[0]["source"] = book.cell.splitlines(keepends=True)
        # As nbformat writes it, which need not be installed here.
        texts[path] = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    return {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}


def store(path: Path, text: str) -> None:
    """Write a file in one step, so that an interruption leaves the old one."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=".", delete=False
    ) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode if path.exists() else 0o644)
    os.replace(file.name, path)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--as", dest="repository", metavar="OWNER/NAME")
    parser.add_argument("--check", action="store_true", help="only say where something else stands")
    options = parser.parse_args(arguments)
    try:
        book = read(root)
        if options.repository is not None:
            book = book._replace(url=address(options.repository))
        changed = changes(root, book)
    except PublishError as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join(path.name for path in changed)
    if options.check:
        if changed:
            print(f"Another address or version stands in {names}: python tools/publish.py")
        return int(bool(changed))
    for path, text in changed.items():
        store(path, text)
    print(f"{book.url}, version {book.version}: {f'written to {names}' if names else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
