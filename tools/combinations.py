"""Test the package under every combination of Python and of dependencies that is promised.

    python tools/combinations.py                    all whose Python this machine has
    python tools/combinations.py floors-3.11        one of them, which must then run

`locked` is requirements.txt; `floors` is the oldest version of everything in pyproject.toml. Each
gets an environment of its own, kept in _build/combinations, in which all code is compiled, every
module imported and the tests run, those of the website and the notebooks left out. What pytest says
goes to _build/combinations/NAME/tests.log.

On Linux the registry's torch is a build of several gigabytes: here it is torch's own for CPUs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.lock import (  # after the path: this file is also called by its name
    OLDEST,
    OTHERS,
    wanted,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "_build" / "combinations"
TESTED = (OLDEST, *OTHERS)
COMBINATIONS = [*(f"locked-{version}" for version in TESTED), f"floors-{TESTED[0]}"]
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"

# Run in the new environment: which modules of the package can be imported.
IMPORTS = """
import importlib, json, pkgutil, warnings
import companion
warnings.filterwarnings("error", module="companion")
names = ["companion", *(m.name for m in pkgutil.walk_packages(companion.__path__, "companion."))]
found = {"imported": [], "broken": []}
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
        found["imported"].append(name)
    except Exception as error:
        found["broken"].append(f"{name}: {type(error).__name__}: {error}")
print(json.dumps(found))
"""


class Failed(Exception):
    """A combination that does not work; the message says where."""


class Row(NamedTuple):
    """A line of the table."""

    combination: str
    python: str = "—"
    torch: str = "—"
    installed: str = "—"
    modules: str = "—"
    tests: str = "—"
    seconds: str = "—"
    outcome: str = "passed"


# --- what is wanted ----------------------------------------------------------------------------


def floors(requirements: list[str]) -> list[str]:
    """The oldest versions that pyproject.toml promises: ``name>=1.2,<3`` becomes ``name==1.2``.

    Raises: Failed for a requirement that has no floor.
    """
    found = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)(?:,<[\w.]+)?", requirement)
        if not match:
            raise Failed(f"{requirement!r} of pyproject.toml has no floor: name>=version")
        found.append(f"{match[1]}=={match[2]}")
    return found


def locked() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# --- how it is had -----------------------------------------------------------------------------


def interpreter(version: str) -> str | None:
    """A Python of this version: the one that runs this, one on the path, or one of pyenv's."""
    if version == "{}.{}".format(*sys.version_info[:2]):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))
    for path in filter(None, candidates):  # pyenv's shims may be there for what is not
        asked = [path, "-c", "import sys; print('{}.{}'.format(*sys.version_info[:2]))"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.stdout.strip() == version:
            return path
    return None


class Environment:
    """A virtual environment, and how to run things in it."""

    def __init__(self, folder: Path, python: str):
        self.folder = folder
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not self.python.exists():
            subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
            # A pip as old as its Python fetches whole files where a newer one reads their metadata.
            self.pip("install", "--upgrade", "pip")

    def demand(self, *arguments, **options) -> str:
        """What a command prints; Failed, with the end of its words, if it fails."""
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, **options)
        if done.returncode:
            words = (done.stdout + done.stderr).strip().splitlines()
            what = " ".join(map(str, arguments[:5]))
            raise Failed(f"python {what} …\n" + "\n".join(words[-40:]))
        return done.stdout

    def pip(self, *arguments) -> str:
        return self.demand("-m", "pip", "-q", "--disable-pip-version-check", *arguments)

    def versions(self) -> dict[str, str]:
        return {
            package["name"].lower(): package["version"]
            for package in json.loads(self.demand("-m", "pip", "list", "--format", "json"))
        }


def install(environment: Environment, kind: str) -> None:
    """Install what a combination asks for.

    Raises: Failed if the requirements do not fit together, or not this Python.
    """
    asked = locked() if kind == "locked" else floors(wanted("newest"))
    [torch] = [one for one in asked if one.startswith("torch==")]
    environment.pip("install", "--no-deps", "--index-url", CPU_BUILDS, torch)
    environment.pip("install", *asked)


# --- how it is tested --------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """What the package is built from, copied: setuptools would write beside the original."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "companion", folder / "companion", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def modules(environment: Environment, folder: Path) -> str:
    """Install the package, and import each module of it in a folder that is not the checkout."""
    package = copied(folder / "package")
    environment.pip("install", "--no-deps", "--force-reinstall", package)
    found = json.loads(environment.demand("-c", IMPORTS, cwd=folder).splitlines()[-1])
    if found["broken"]:
        raise Failed("cannot be imported:\n" + "\n".join(found["broken"]))
    return str(len(found["imported"]))


def tests(environment: Environment, folder: Path) -> str:
    """Run the tests, and count them."""
    report = folder / "tests.xml"
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    options = ["-n", "2", "--dist", "loadfile", "--max-worker-restart", "0"]  # or it may hang
    options += ["-p", "no:cacheprovider", "--junitxml", report]
    chosen = ["tests", "--ignore", "tests/test_site.py"]
    command = [environment.python, "-m", "pytest", *options, *chosen]
    log = environment.folder / "tests.log"  # to be watched, and read afterwards
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=file, stderr=file)
    if not report.exists():
        raise Failed(f"pytest did not run: see {log}")
    failed, passed, skipped = [], 0, 0
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    if failed or done.returncode:
        raise Failed("\n".join((f"{len(failed)} tests failed: see {log}", *failed)))
    return f"{passed} passed" + (f", {skipped} skipped" if skipped else "")


def combination(name: str, folder: Path) -> Row:
    """Install and test one combination."""
    began = time.perf_counter()
    kind, version = name.split("-")
    python = interpreter(version)
    if python is None:
        return Row(name, outcome=f"not run: no Python {version} here")
    print(f"{name}: installing and testing (minutes)", flush=True)
    row = Row(name)
    try:
        environment = Environment(folder / name, python)
        row = row._replace(python=environment.demand("-V").split()[1])
        install(environment, kind)
        versions = environment.versions()
        main = ("numpy", "matplotlib", "accelerate", "pillow")
        row = row._replace(
            torch=versions["torch"],
            installed=", ".join(f"{one} {versions[one]}" for one in main),
        )
        with tempfile.TemporaryDirectory() as temporary:
            scratch = Path(temporary)
            caches = os.environ | {"PYTHONPYCACHEPREFIX": str(scratch / "compiled")}
            code = ("companion", "tests", "tools", "book/_ext")
            environment.demand(
                "-W", "error", "-m", "compileall", "-q", "-f", *code, cwd=ROOT, env=caches
            )
            row = row._replace(modules=modules(environment, scratch))
            row = row._replace(tests=tests(environment, scratch))
    except (Failed, subprocess.CalledProcessError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        row = row._replace(outcome="FAILED: " + str(error).splitlines()[0])
    return row._replace(seconds=f"{time.perf_counter() - began:.0f}")


def table(rows: list[Row]) -> str:
    lines = [[field.replace("_", " ") for field in Row._fields], *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="*", help=f"some of: {', '.join(COMBINATIONS)}")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the environments")
    options = parser.parse_args()
    if unknown := [name for name in options.name if name not in COMBINATIONS]:
        parser.error(f"no combination {', '.join(unknown)}; there are {', '.join(COMBINATIONS)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = [combination(name, options.folder) for name in options.name or COMBINATIONS]
    print(table(rows))
    accepted = ("passed",) if options.name else ("passed", "not run")
    return int(not all(row.outcome.startswith(accepted) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
