"""A release: one version in all files, written all or none, and only where it makes sense."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import companion

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")
TODAY = "2031-02-03"


def tool(name):
    """A program of tools/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = tool("release")


def git(folder, *arguments):
    identity = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]


def citation(folder):
    return yaml.safe_load((folder / "CITATION.cff").read_text())


@pytest.fixture
def checkout(tmp_path):
    """A repository of its own, on the way from 0.1.0 to 0.2.0."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    text = (tmp_path / "pyproject.toml").read_text()
    text = re.sub(r'^version = "[^"]*"', 'version = "0.2.0.dev0"', text, flags=re.MULTILINE)
    (tmp_path / "pyproject.toml").write_text(text)
    text = (tmp_path / "CITATION.cff").read_text()
    text = re.sub(r"^version: .*$", "version: 0.1.0", text, flags=re.MULTILINE)
    text = re.sub(r"^date-released: .*$", "date-released: 2026-11-22", text, flags=re.MULTILINE)
    (tmp_path / "CITATION.cff").write_text(text)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n### Added\n\n- A chapter.\n\n"
        "## 0.1.0 - 2026-11-22\n\n- All.\n"
    )
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "as it is")


def refused(checkout, words, version="0.2.0"):
    """A release must be refused for a reason, with nothing changed."""
    before = {path: path.read_bytes() for path in checkout.iterdir() if path.is_file()}
    with pytest.raises(SystemExit, match=words):
        release.release(checkout, version, TODAY)
    assert before == {path: path.read_bytes() for path in checkout.iterdir() if path.is_file()}


def test_all_that_states_a_version_agrees():
    assert release.problems(ROOT) == []
    assert companion.__version__ == project(ROOT)


def test_the_version_stands_in_no_other_file():
    pattern = re.compile(rf"(?<![\d.]){re.escape(project(ROOT))}(?![\d.])")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no repository here")
    names = [name for name in listed.stdout.split("\0") if name.endswith((".py", ".md", ".yml"))]
    allowed = ("CHANGELOG.md", "CONTRIBUTING.md", "tools/", "tests/")  # examples, not statements
    stated = [
        name
        for name in names
        if not name.startswith(allowed) and pattern.search((ROOT / name).read_text("utf-8"))
    ]
    assert not stated, f"pyproject.toml alone states the version, but: {stated}"


def test_a_checkout_knows_its_version_and_an_old_installation_does_not_mislead_it(tmp_path):
    shutil.copytree(ROOT / "companion", tmp_path / "companion", ignore=lambda *_: ["_data"])
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "companion"\nversion = "7.8.9"\n')
    stale = tmp_path / "companion-1.0.0.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: companion\nVersion: 1.0.0\n")

    def found():
        command = [sys.executable, "-c", "import companion; print(companion.__version__)"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert found() == "7.8.9"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "7.8.9"\n')
    assert found() == "1.0.0", "the project beside an installed package may be any other"
    (tmp_path / "pyproject.toml").unlink()
    assert found() == "1.0.0"


def test_a_release_writes_all_files_and_the_next_one_is_begun(checkout):
    release.release(checkout, "0.2.0", TODAY)
    assert project(checkout) == "0.2.0"
    assert citation(checkout)["version"] == "0.2.0"
    assert str(citation(checkout)["date-released"]) == TODAY
    log = (checkout / "CHANGELOG.md").read_text()
    assert f"## 0.2.0 - {TODAY}\n\n### Added\n\n- A chapter.\n\n## 0.1.0 - " in log
    assert "Unreleased" not in log
    assert release.section(log, "## 0.2.0") == "### Added\n\n- A chapter."
    assert release.problems(checkout) == []

    commit(checkout)
    release.release(checkout, "0.3.0.dev0", TODAY)
    assert project(checkout) == "0.3.0.dev0"
    assert citation(checkout)["version"] == "0.2.0", "what is cited is what was released"
    assert f"\n## Unreleased\n\n## 0.2.0 - {TODAY}" in (checkout / "CHANGELOG.md").read_text()
    assert release.problems(checkout) == []


def test_a_release_needs_something_new(checkout):
    log = (checkout / "CHANGELOG.md").read_text().replace("- A chapter.\n", "")
    (checkout / "CHANGELOG.md").write_text(log)
    commit(checkout)
    refused(checkout, "says nothing under 'Unreleased'")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0.dev0", "0.1.9", "0.0.9"])
def test_a_release_is_newer_than_what_is_here(checkout, version):
    refused(checkout, "is not newer", version)


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0rc1", "next"])
def test_a_version_has_three_numbers(checkout, version):
    refused(checkout, "is no version", version)


def test_what_is_not_committed_is_not_released(checkout):
    (checkout / "new.py").write_text("")
    refused(checkout, "not committed")


def test_a_tag_is_given_once(checkout):
    git(checkout, "tag", "v0.2.0")
    refused(checkout, "There is a tag v0.2.0")


def test_chapters_that_cannot_be_renewed_undo_the_release(checkout):
    (checkout / "tools").mkdir()
    (checkout / "tools" / "publish.py").write_text(
        "from pathlib import Path\nPath('CITATION.cff').write_text('half')\nraise SystemExit(1)\n"
    )
    commit(checkout)
    refused(checkout, "Nothing was changed")


def test_chapters_are_renewed_with_the_new_version(checkout):
    (checkout / "tools").mkdir()
    (checkout / "tools" / "publish.py").write_text(
        "from pathlib import Path\n"
        "Path('cell').write_text(str('\"0.2.0\"' in Path('pyproject.toml').read_text()))\n"
    )
    commit(checkout)
    release.release(checkout, "0.2.0", TODAY)
    assert (checkout / "cell").read_text() == "True"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("CITATION.cff", "version: 0.1.0", "version: 0.0.9"),
        ("CITATION.cff", "date-released: 2026-11-22", "date-released: 2026-11-23"),
        ("CHANGELOG.md", "## 0.1.0 - 2026-11-22", "## 0.1.1 - 2026-11-22"),
        ("CHANGELOG.md", "## Unreleased", "## Later"),
        ("pyproject.toml", "0.2.0.dev0", "0.1.0.dev0"),
        ("pyproject.toml", "0.2.0.dev0", "0.2.0"),
    ],
)
def test_files_that_disagree_are_found(checkout, file, old, new):
    text = (checkout / file).read_text()
    assert old in text
    (checkout / file).write_text(text.replace(old, new, 1))
    assert release.problems(checkout) != []


def test_a_tag_is_compared_with_the_files(checkout, capsys):
    release.release(checkout, "0.2.0", TODAY)
    release.main(["--check", "v0.2.0"], checkout)
    with pytest.raises(SystemExit, match=r"the tag is of 0\.2\.1"):
        release.main(["--check", "v0.2.1"], checkout)
    capsys.readouterr()
    release.main(["--notes", "v0.2.0"], checkout)
    assert capsys.readouterr().out == "### Added\n\n- A chapter.\n"
    with pytest.raises(SystemExit, match="no section"):
        release.main(["--notes", "v0.2.1"], checkout)


def test_what_is_left_to_do_names_the_tag(checkout):
    words = release.after(checkout, "0.2.0")
    assert "git tag -a v0.2.0" in words
    assert "make release VERSION=0.3.0.dev0" in words
