"""Test the package under every combination of Python and of dependencies that is promised.

    python tools/combinations.py                    all that this machine can run
    python tools/combinations.py floors-3.11        one of them, which must then run
    python tools/combinations.py --with-torch ...   fetch torch, whatever its size

`locked` is requirements.txt; `floors` is the oldest version of everything in pyproject.toml. Each
gets an environment of its own, kept in _build/combinations, in which all code is compiled, every
module imported and the tests run, those of the website and the notebooks left out. What pytest says
goes to _build/combinations/NAME/tests.log.

On Linux the registry's torch is a build of several gigabytes. It is used where pip finds it without
asking the registry; else what needs no torch is run, and the table says so.
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
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "_build" / "combinations"
TESTED = ("3.11", "3.12", "3.13")  # as tools/lock.py has it
COMBINATIONS = [*(f"locked-{version}" for version in TESTED), f"floors-{TESTED[0]}"]
NEEDS_TORCH = "needs torch"  # as tools/without_torch.py has it

# Run in the new environment: which modules of the package can be imported.
IMPORTS = """
import importlib, json, pkgutil, warnings
import companion
warnings.filterwarnings("error", module="companion")
names = ["companion", *(m.name for m in pkgutil.walk_packages(companion.__path__, "companion."))]
found = {"imported": [], "without torch": [], "broken": []}
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
        found["imported"].append(name)
    except ModuleNotFoundError as error:
        key = "without torch" if (error.name or "").split(".")[0] == "torch" else "broken"
        found[key].append(f"{name}: {error}")
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


def floors(project: dict, extras: tuple[str, ...] = ("book", "test")) -> list[str]:
    """The oldest versions that pyproject.toml promises: ``name>=1.2,<3`` becomes ``name==1.2``.

    Raises: Failed for a requirement that has no floor.
    """
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found = []
    for requirement in wanted:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)(?:,<[\w.]+)?", requirement)
        if not match:
            raise Failed(f"{requirement!r} of pyproject.toml has no floor: name>=version")
        found.append(f"{match[1]}=={match[2]}")
    return found


def locked() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def split(requirements: list[str]) -> tuple[str, list[str]]:
    """torch's own requirement, and all others."""
    [torch] = [one for one in requirements if re.match(r"torch\b(?!-)", one)]
    return torch, [one for one in requirements if one != torch]


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

    def run(self, *arguments, **options) -> subprocess.CompletedProcess:
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    def demand(self, *arguments, **options) -> str:
        """What a command prints; Failed, with the end of its words, if it fails."""
        done = self.run(*arguments, **options)
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

    def take(self, requirement: str) -> bool:
        """Install a torch that is at hand, if there is one, without asking the registry.

        Without an index pip knows what is installed and what lies in the folders of its setting
        ``find-links``.
        """
        asked = ("install", "--no-deps", "--no-index", requirement)
        return self.run("-m", "pip", *asked).returncode == 0


def install(environment: Environment, kind: str, with_torch: bool) -> str:
    """Install what a combination asks for; returns what the table should say beside torch.

    Raises: Failed if the requirements do not fit together, or not this Python.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    torch, others = split(locked() if kind == "locked" else floors(project))
    if with_torch or not sys.platform.startswith("linux"):  # elsewhere its wheels are small
        environment.pip("install", torch, *others)
        return ""
    promised, _ = split(project["dependencies"])
    if environment.take(torch) or (kind == "floors" and environment.take(promised)):
        have = environment.versions()["torch"]
        environment.pip("install", f"torch=={have}", *others)
        wanted = torch.split("==")[1]
        return "" if have.split("+")[0] == wanted or kind == "locked" else f", not {wanted}"
    if kind == "floors":
        raise Failed(f"{promised} is not at hand; --with-torch fetches it, gigabytes on Linux")
    # The lock is complete: nothing has to be resolved, and so nothing asks for torch. That the
    # registry has it for this Python is seen from its list of versions.
    environment.pip("install", "--no-deps", *others)
    wrong = [
        line
        for line in environment.run("-m", "pip", "check").stdout.splitlines()
        if line != "No broken requirements found."
        and "requires torch, which is not installed" not in line
    ]
    listed = environment.demand("-m", "pip", "index", "versions", "torch")
    if torch.split("==")[1] not in re.findall(r"[\w.]+", listed):
        wrong.append(f"{torch} is not to be had for this Python")
    if wrong:
        raise Failed("the lock does not fit:\n" + "\n".join(wrong))
    return "none at hand"


# --- how it is tested --------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """What the package is built from, copied: setuptools would write beside the original."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "companion", folder / "companion", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def modules(environment: Environment, folder: Path) -> str:
    """Install the package, and import each module of it in a folder that is not the checkout."""
    package = copied(folder / "package")
    environment.pip("install", "--no-deps", "--force-reinstall", package)
    found = json.loads(environment.demand("-c", IMPORTS, cwd=folder).splitlines()[-1])
    if found["broken"]:
        raise Failed("cannot be imported:\n" + "\n".join(found["broken"]))
    count, without = len(found["imported"]), len(found["without torch"])
    return f"{count} of {count + without}" if without else f"{count}"


def tests(environment: Environment, folder: Path, torch: bool) -> str:
    """Run the tests, and count them."""
    report = folder / "tests.xml"
    here = os.pathsep.join((str(ROOT), str(ROOT / "tools")))
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    options = ["-n", "2", "--dist", "loadfile", "--max-worker-restart", "0"]  # or it may hang
    options += ["-p", "no:cacheprovider", "--junitxml", report]
    if not torch:  # conftest.py seeds torch
        options += ["--noconftest", "-p", "without_torch"]
    chosen = ["tests", "--ignore", "tests/test_site.py"]
    command = [environment.python, "-m", "pytest", *options, *chosen]
    log = environment.folder / "tests.log"  # to be watched, and read afterwards
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=file, stderr=file)
    if not report.exists():
        raise Failed(f"pytest did not run: see {log}")
    failed, passed, skipped, ran = [], 0, 0, set()
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{module}::{case.get('name')}")
        elif (reason := case.find("skipped")) is None:
            passed += 1
            ran.add(module)
        else:
            skipped += NEEDS_TORCH not in reason.get("message", "")
    if failed or done.returncode:
        raise Failed("\n".join((f"{len(failed)} tests failed: see {log}", *failed)))
    said = f"{passed} passed" + (f", {skipped} skipped" if skipped else "")
    every = len([*ROOT.glob("tests/test_*.py")]) - 1  # without the website
    return said if torch else f"{said}, of {len(ran)} in {every} files"


def combination(name: str, folder: Path, with_torch: bool) -> Row:
    """Install and test one combination."""
    began = time.perf_counter()
    kind, version = name.split("-")
    python = interpreter(version)
    if python is None:
        return Row(name, outcome=f"not run: no Python {version} here")
    print(f"{name}: installing and testing (minutes)", flush=True)
    environment = Environment(folder / name, python)
    row = Row(name, python=environment.demand("-V").split()[1])
    try:
        said = install(environment, kind, with_torch)
        versions = environment.versions()
        torch = versions.get("torch", "")
        main = ("numpy", "matplotlib", "accelerate", "pillow")
        row = row._replace(
            torch=torch + said,
            installed=", ".join(f"{one} {versions[one]}" for one in main if one in versions),
        )
        with tempfile.TemporaryDirectory() as temporary:
            scratch = Path(temporary)
            caches = os.environ | {"PYTHONPYCACHEPREFIX": str(scratch / "compiled")}
            code = ("companion", "tests", "tools", "book/_ext")
            environment.demand(
                "-W", "error", "-m", "compileall", "-q", "-f", *code, cwd=ROOT, env=caches
            )
            row = row._replace(modules=modules(environment, scratch))
            row = row._replace(tests=tests(environment, scratch, bool(torch)))
    except Failed as error:
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
    parser.add_argument("--with-torch", action="store_true", help="fetch torch, whatever its size")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the environments")
    options = parser.parse_args()
    if unknown := [name for name in options.name if name not in COMBINATIONS]:
        parser.error(f"no combination {', '.join(unknown)}; there are {', '.join(COMBINATIONS)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        combination(name, options.folder, options.with_torch)
        for name in options.name or COMBINATIONS
    ]
    print(table(rows))
    accepted = ("passed",) if options.name else ("passed", "not run")
    return int(not all(row.outcome.startswith(accepted) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
