"""tools/publish.py: one address and one version, in the chapters' first cells as well."""

import ast
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from tests.book import ROOT, chapters
from tools import publish

BOOK = publish.read(ROOT)
CHAPTERS = chapters()


@pytest.fixture
def fork(tmp_path):
    """A book of one chapter, with the files that say where it is published."""
    for name in ("_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book").mkdir()
    cells = [new_code_cell("an old cell", id=publish.ID), new_code_cell("é = 1", id="rest")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "book" / "chapter.ipynb")
    return tmp_path


def first_cell(fork):
    return nbformat.read(fork / "book" / "chapter.ipynb", as_version=4).cells[0].source


def run(source, tmp_path, *, pip):
    """Run a cell where there is no package, with a stand-in for pip."""
    (tmp_path / "pip.py").write_text(f"import sys\n{pip}", "utf-8")
    bare = f"import sys\nsys.path = [p for p in sys.path if 'site-packages' not in p]\n{source}"
    command = [sys.executable, "-I", "-S", "-c", bare]
    if pip:
        bare = bare.replace('"-m", "pip"', f'"{tmp_path / "pip.py"}"')
        command[-1] = bare
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


# --- the book -----------------------------------------------------------------------------------


def test_what_is_committed_is_what_the_tool_writes():
    assert publish.changes(ROOT, BOOK) == {}
    assert publish.main(["--check"]) == 0


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda page: page.name)
def test_a_chapter_begins_with_the_set_up(chapter):
    first, *_ = chapter.code_cells
    assert first.node.id == publish.ID
    assert first.source == BOOK.cell
    assert first.stdout == "Ready, on the CPU. That is enough.\n"


def test_the_address_stands_in_one_place():
    """Besides the cells: whatever else needs it reads `_config.yml`."""
    git = ["git", "grep", "-lI", "-e", BOOK.url.removeprefix(publish.HOST)]
    found = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    cells = {f"book/{chapter.path.name}" for chapter in CHAPTERS}
    assert {*found.split()} == {"_config.yml", *cells}


# --- another address ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        "reader/my-book.v2",
        "https://github.com/reader/my-book.v2",
        "https://github.com/reader/my-book.v2/",
        "https://github.com/reader/my-book.v2.git",
    ],
)
def test_a_fork_gets_its_own_address_everywhere(fork, given, capsys):
    url = "https://github.com/reader/my-book.v2"
    assert publish.main(["--as", given], fork) == 0
    assert publish.read(fork) == BOOK._replace(url=url)
    assert f'REPOSITORY = "{url}"' in first_cell(fork)
    assert "_config.yml, chapter.ipynb" in capsys.readouterr().out
    kept = (fork / "_config.yml").read_text("utf-8").replace(url, BOOK.url)
    assert kept == (ROOT / "_config.yml").read_text("utf-8")


def test_once_is_as_good_as_twice(fork, capsys):
    publish.main(["--as", "reader/book"], fork)
    before = (fork / "book" / "chapter.ipynb").read_bytes()
    assert publish.main([], fork) == 0
    assert "as it was" in capsys.readouterr().out
    assert (fork / "book" / "chapter.ipynb").read_bytes() == before


def test_it_says_what_is_outdated_and_leaves_it(fork, capsys):
    assert publish.main(["--check"], fork) == 1
    assert "chapter.ipynb" in capsys.readouterr().out
    assert first_cell(fork) == "an old cell"


@pytest.mark.parametrize("given", ["", "book", "a/b/c", "OWNER/book", "a b/c", "http://x.org/a/b"])
def test_what_is_no_repository_is_refused(fork, given, capsys):
    before = (fork / "_config.yml").read_bytes()
    assert publish.main(["--as", given], fork) == 1
    assert "write owner/name" in capsys.readouterr().err
    assert (fork / "_config.yml").read_bytes() == before
    assert first_cell(fork) == "an old cell"


def test_a_chapter_without_the_cell_is_named_and_nothing_is_written(fork, capsys):
    path = fork / "book" / "other.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("x", id="x")]), path)
    assert publish.main(["--as", "reader/book"], fork) == 1
    assert "other.ipynb must have one cell with the id 'set-up'" in capsys.readouterr().err
    assert publish.read(fork) == BOOK
    assert first_cell(fork) == "an old cell"


def test_a_configuration_without_an_address_is_refused(fork, capsys):
    (fork / "_config.yml").write_text("repository:\n", "utf-8")
    assert publish.main([], fork) == 1
    assert "_config.yml must have the lines" in capsys.readouterr().err


def test_a_notebook_is_written_as_nbformat_writes_it(fork):
    publish.main(["--as", "reader/book"], fork)
    path = fork / "book" / "chapter.ipynb"
    text = nbformat.writes(nbformat.read(path, as_version=4)).rstrip("\n") + "\n"
    assert path.read_text("utf-8") == text


def test_it_needs_nothing_but_python(fork):
    (fork / "tools").mkdir()
    shutil.copy(publish.__file__, fork / "tools")
    command = [sys.executable, "-I", "-S", "tools/publish.py", "--as", "reader/book"]
    subprocess.run(command, check=True, cwd=fork)
    assert "reader/book" in first_cell(fork)


# --- what the cell does -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "references"),
    [("0.2.0", ["v0.2.0", "main"]), ("0.3.0.dev0", ["main"]), ("1.0.0rc1", ["v1.0.0rc1", "main"])],
)
def test_a_release_installs_its_tag_and_what_is_between_releases_the_branch(version, references):
    cell = BOOK._replace(version=version).cell
    assert f"REFERENCES = {json.dumps(references)}" in cell
    assert f'VERSION = "{version}"' in cell
    ast.parse(cell)


def test_without_an_address_it_explains_and_installs_nothing(tmp_path):
    cell = BOOK._replace(url="https://github.com/OWNER/book").cell
    done = run(cell, tmp_path, pip="print('installed')")
    assert "does not say where it is published. Clone it and run `make book`" in done.stderr
    assert "installed" not in done.stdout


def test_the_branch_is_taken_where_there_is_no_tag(tmp_path):
    cell = BOOK._replace(url="https://github.com/reader/book", version="0.2.0").cell
    asked = tmp_path / "asked"
    write = f"open(r'{asked}', 'a').write(' '.join(sys.argv[1:]) + '\\n')"
    done = run(cell, tmp_path, pip=f"{write}; sys.exit('main' not in sys.argv[-1])")
    command = "install --quiet --no-deps git+https://github.com/reader/book"
    assert asked.read_text().splitlines() == [f"{command}@v0.2.0", f"{command}@main"]
    assert "No module named 'companion'" in done.stderr  # the stand-in installed nothing


def test_a_failure_is_told_with_the_installers_own_words(tmp_path):
    cell = BOOK._replace(url="https://github.com/reader/book").cell
    done = run(cell, tmp_path, pip="sys.exit('Could not resolve host')")
    assert "Could not resolve host" in done.stderr
    assert "could not be installed from https://github.com/reader/book: see above" in done.stderr
    assert "No module named" not in done.stderr


# --- the workflow -------------------------------------------------------------------------------


WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))


def commands(job, step):
    """What a step of the workflow runs."""
    [found] = [each["run"] for each in WORKFLOW["jobs"][job]["steps"] if each.get("id") == step]
    return found


@pytest.fixture
def pushed(fork, tmp_path_factory):
    """Git in the small book, which its owner has pushed."""
    (fork / "tools").mkdir()
    shutil.copy(publish.__file__, fork / "tools")
    there = tmp_path_factory.mktemp("there") / "fork.git"

    def git(*arguments):
        author = ["-c", "user.name=A reader", "-c", "user.email=reader@example.org"]
        command = ["git", *author, *arguments]
        return subprocess.run(command, cwd=fork, check=True, capture_output=True, text=True).stdout

    git("init", "--initial-branch", "main")
    git("add", ".")
    git("commit", "--message", "The book")
    git("clone", "--bare", ".", str(there))
    git("remote", "add", "origin", str(there))
    git("push", "--set-upstream", "origin", "main")
    return git


@pytest.mark.parametrize("pushes", [1, 2])
def test_the_workflow_publishes_a_fork_at_its_first_push(fork, pushed, pushes):
    output = fork.parent / "output"
    environment = os.environ | {"GITHUB_REPOSITORY": "reader/book", "GITHUB_OUTPUT": str(output)}
    for _ in range(pushes):
        output.write_text("")
        bash = ["bash", "-e", "-c", commands("address", "publish")]
        subprocess.run(bash, cwd=fork, check=True, env=environment)
    assert pushed("log", "--format=%s", "origin/main").split("\n")[:-1] == [
        "Publish as reader/book",
        "The book",
    ]
    assert output.read_text() == f"commit={pushed('rev-parse', 'origin/main')}"
    assert "reader/book" in pushed("show", "origin/main:_config.yml")
    assert "reader/book" in pushed("show", "origin/main:book/chapter.ipynb")


@pytest.mark.parametrize("pushes", [1, 2])
def test_the_workflow_pushes_the_chapters_for_colab(fork, pushed, pushes):
    for push in range(pushes):
        (fork / "plain" / "book").mkdir(parents=True)
        (fork / "plain" / "book" / "chapter.ipynb").write_text(f"plain {push}")
        bash = ["bash", "-e", "-c", commands("plain", "push")]
        subprocess.run(bash, cwd=fork, check=True)
        # The next run begins with a fresh checkout.
        shutil.rmtree(fork / "plain")
        pushed("checkout", "--force", "main")
        pushed("branch", "-D", publish.PLAIN)
    branch = f"origin/{publish.PLAIN}"
    assert pushed("ls-tree", "-r", "--name-only", branch) == "book/chapter.ipynb\n"
    assert pushed("show", f"{branch}:book/chapter.ipynb") == f"plain {pushes - 1}"
    assert pushed("rev-list", "--count", branch) == "1\n"  # old outputs do not pile up


def test_what_is_tested_and_published_is_what_has_the_address():
    for name in ("test", "python"):
        job = WORKFLOW["jobs"][name]
        [checkout] = [step for step in job["steps"] if "checkout" in step.get("uses", "")]
        assert job["needs"] == "address"
        assert checkout["with"]["ref"] == "${{ needs.address.outputs.commit || github.sha }}"


def test_a_file_is_stored_in_one_step_whether_it_was_there_or_not(tmp_path):
    path = tmp_path / "requirements.txt"
    publish.store(path, "torch==2.0\n")
    path.chmod(0o640)
    publish.store(path, "torch==2.1\n")
    assert path.read_text("utf-8") == "torch==2.1\n"
    assert path.stat().st_mode & 0o777 == 0o640, "as it was"
    assert list(tmp_path.iterdir()) == [path]
