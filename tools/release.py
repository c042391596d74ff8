"""Make a release: the version in every file that states it, or the next one begun.

    python tools/release.py 0.2.0         a release, dated today
    python tools/release.py 0.3.0.dev0    afterwards: what comes next
    python tools/release.py --check v0.2.0    is this tag what the files say?
    python tools/release.py --notes v0.2.0    its section of the changelog

pyproject.toml states the version. CITATION.cff names the last release, since that is what a reader
can cite; CHANGELOG.md dates it. The files are written all or none, and never committed.
"""

import argparse
import datetime
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(\.dev0)?")
UNRELEASED = "## Unreleased"
HEADING = re.compile(r"^## (\S+) - (\d{4}-\d\d-\d\d)$", re.MULTILINE)


def order(version: str) -> tuple:
    """By what versions are compared: 0.2.0.dev0 comes before 0.2.0."""
    found = VERSION.fullmatch(version)
    if not found:
        sys.exit(f"{version!r} is no version: X.Y.Z, or X.Y.Z.dev0 for what comes next")
    return *map(int, found.groups()[:3]), found[4] is None


def version_of(root: Path) -> str:
    """What pyproject.toml states."""
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def section(changelog: str, heading: str) -> str:
    """What stands under a heading of the changelog; empty if there is no such heading."""
    parts = re.split(r"^(## .*)$", changelog, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    words = next((found[one] for one in found if one.split(" - ")[0] == heading), "")
    return words.strip()


def problems(root: Path) -> list[str]:
    """What the files that state a version do not agree on."""
    version, found = version_of(root), []
    citation = (root / "CITATION.cff").read_text("utf-8")
    cited = tuple(
        re.search(rf"^{key}: (\S+)$", citation, re.MULTILINE)[1]
        for key in ("version", "date-released")
    )
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    released = HEADING.findall(changelog)
    if cited != released[0]:
        found.append(f"CITATION.cff names {cited}, the changelog's newest is {released[0]}")
    if released != sorted(released, key=lambda one: order(one[0]), reverse=True):
        found.append("the releases of the changelog are not in their order")
    if version.endswith(".dev0"):
        if order(version) <= order(cited[0]):
            found.append(f"pyproject.toml is at {version}, but {cited[0]} has been released")
        if UNRELEASED not in changelog:
            found.append(f"the changelog has no heading {UNRELEASED!r}")
    elif version != cited[0]:
        found.append(f"pyproject.toml is at {version}, CITATION.cff at {cited[0]}")
    return found


def replaced(text: str, pattern: str, new: str, where: str) -> str:
    """The text with its one match replaced."""
    text, count = re.subn(pattern, lambda _: new, text, flags=re.MULTILINE)
    if count != 1:
        sys.exit(f"{where} has {count} lines like {pattern}, not one")
    return text


def texts(root: Path, version: str, today: str) -> dict[Path, str]:
    """The files as they will be; SystemExit for a version that cannot follow."""
    now = version_of(root)
    if order(version) <= order(now):
        sys.exit(f"{version} is not newer than {now}")
    files = {name: root / name for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")}
    was = {name: path.read_text("utf-8") for name, path in files.items()}
    new = dict(was)
    new["pyproject.toml"] = replaced(
        was["pyproject.toml"], '^version = "[^"]*"', f'version = "{version}"', "pyproject.toml"
    )
    if version.endswith(".dev0"):
        if not now.endswith(".dev0"):
            first = HEADING.search(was["CHANGELOG.md"]).start()
            log = was["CHANGELOG.md"]
            new["CHANGELOG.md"] = f"{log[:first]}{UNRELEASED}\n\n{log[first:]}"
    else:
        if not re.search(r"^- ", section(was["CHANGELOG.md"], UNRELEASED), re.MULTILINE):
            sys.exit("CHANGELOG.md says nothing under 'Unreleased': what is new for readers?")
        heading = f"## {version} - {today}"
        new["CHANGELOG.md"] = replaced(
            was["CHANGELOG.md"], f"^{UNRELEASED}$", heading, "CHANGELOG.md"
        )
        cited = replaced(
            was["CITATION.cff"], "^version: .*$", f"version: {version}", "CITATION.cff"
        )
        new["CITATION.cff"] = replaced(
            cited, "^date-released: .*$", f"date-released: {today}", "CITATION.cff"
        )
    return {files[name]: text for name, text in new.items() if text != was[name]}


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def release(root: Path, version: str, today: str) -> None:
    """Write a version into all files, and into the first cells of the chapters."""
    if git(root, "status", "--porcelain"):
        sys.exit("There are changes that are not committed: commit them, or put them aside.")
    if found := problems(root):
        sys.exit("The files disagree: " + "; ".join(found))
    if not version.endswith(".dev0") and git(root, "tag", "--list", f"v{version}"):
        sys.exit(f"There is a tag v{version} already.")
    new = texts(root, version, today)
    try:
        for path, text in new.items():
            path.write_text(text, "utf-8")
        if found := problems(root):
            sys.exit("The files would disagree: " + "; ".join(found))
        if (root / "tools" / "publish.py").exists():
            subprocess.run([sys.executable, "tools/publish.py"], cwd=root, check=True)
    except BaseException as error:
        # Nothing of the reader's own is lost: there was nothing that was not committed.
        git(root, "restore", ".")
        if isinstance(error, subprocess.CalledProcessError):
            sys.exit("tools/publish.py failed, as it says above. Nothing was changed.")
        raise


def after(root: Path, version: str) -> str:
    """What is left to do by hand."""
    if version.endswith(".dev0"):
        return f"Next:\n  git commit -am 'On the way to {version.removesuffix('.dev0')}'"
    branch = git(root, "branch", "--show-current") or "main"
    major, minor, _, _ = order(version)
    return "\n".join(
        (
            "Next, after make test:",
            f"  git commit -am 'Release {version}'",
            f"  git tag -a v{version} -m 'Release {version}'",
            f"  git push origin {branch} v{version}",
            f"  make release VERSION={major}.{minor + 1}.0.dev0",
        )
    )


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("version", help="X.Y.Z, or X.Y.Z.dev0")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only say whether the files agree")
    what.add_argument("--notes", action="store_true", help="only print its part of the changelog")
    options = parser.parse_args(arguments)
    version = options.version.removeprefix("v")
    order(version)
    if options.check:
        found = problems(root)
        if version != version_of(root):
            found.append(f"the tag is of {version}, pyproject.toml at {version_of(root)}")
        if found:
            sys.exit("; ".join(found))
        print(f"All files are at {version}.")
    elif options.notes:
        found = section((root / "CHANGELOG.md").read_text("utf-8"), f"## {version}")
        print(found or sys.exit(f"CHANGELOG.md has no section {version}"))
    else:
        release(root, version, datetime.date.today().isoformat())
        print(f"All files are at {version}.\n{after(root, version)}")


if __name__ == "__main__":
    main()
