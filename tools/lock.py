"""Write requirements.txt: the newest versions that fit pyproject.toml and every Python it allows.

    python tools/lock.py                  torch as the book's outputs were computed with
    python tools/lock.py --torch newest

pip resolves for the first release of the oldest Python, so that no machine has an older one, and
must then find the same versions for the others.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.publish import store  # after the path: this file is also called by its name

ROOT = Path(__file__).resolve().parents[1]
OLDEST, *OTHERS = "3.11", "3.12", "3.13"
TORCH = "2.13.0"

HEADER = f"""\
# The environment the book is tested in, on Python {OLDEST} to {OTHERS[-1]}. Written by: make lock
# (pip's resolution of the package with its extras book and test; see tools/lock.py).
"""


def wanted(torch: str) -> list[str]:
    """The requirements of the package with its extras, and torch at the version asked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = list(project["dependencies"])
    for extra in ("book", "test"):
        names += project["optional-dependencies"][extra]
    return names if torch == "newest" else [*names, f"torch=={torch}"]


def resolve(version: str, requirements: list[str], *options: str) -> dict[str, str]:
    """What pip would install on a Python: {name: version}; nothing is installed."""
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    pip += ["install", "--dry-run"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        target = ["--python-version", version, "--only-binary", ":all:", "--target", folder]
        done = subprocess.run([*pip, "--report", report, *target, *options, *requirements])
        if done.returncode:
            sys.exit(f"pip found no versions for Python {version}; it says why above.")
        found = json.loads(report.read_text("utf-8"))["install"]
    # No local versions (+cpu): which build of torch it is depends on the machine.
    return {one["metadata"]["name"]: one["metadata"]["version"].split("+")[0] for one in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch", default=TORCH, help="a version, or newest")
    options = parser.parse_args()
    print(f"Resolving for Python {OLDEST} (a few minutes)", flush=True)
    found = resolve(OLDEST, wanted(options.torch))
    lines = [f"{name}=={version}" for name, version in found.items()]
    lines.sort(key=lambda line: re.sub(r"[-_.]+", "-", line).lower())
    for version in OTHERS:
        print(f"Comparing with Python {version}", flush=True)
        resolve(version, lines, "--no-deps")
    text = HEADER + "\n".join(lines) + "\n"
    store(ROOT / "requirements.txt", text)


if __name__ == "__main__":
    main()
