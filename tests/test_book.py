"""Contracts 1, 2 and 4 on the book as it is committed, and what every chapter owes its readers."""

import re

import pytest

from tests import contracts
from tests.book import ROOT, chapters, pages
from tests.equations import load

CHAPTERS = chapters()
PAGES = pages()


def test_there_are_chapters():
    assert CHAPTERS, "no notebook in book/"


@pytest.mark.parametrize(
    "rule",
    [
        contracts.code_problems,
        contracts.execution_problems,
        contracts.rerun_problems,
        contracts.exemption_problems,
        contracts.form_problems,
        contracts.part_problems,
        contracts.figure_problems,
    ],
    ids=lambda rule: rule.__name__.removesuffix("_problems"),
)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda page: page.name)
def test_chapter(chapter, rule):
    assert_none(rule(chapter))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda page: page.name)
def test_exercises_are_checked_and_solved(chapter):
    assert_none(contracts.exercise_problems(chapter, contracts.exercise_checks()))


def test_every_equation_is_labelled_and_checked():
    assert_none(contracts.equation_problems(PAGES, load()))


def test_glued_numbers_exist():
    assert_none(contracts.glue_problems(PAGES))


def test_citations_exist():
    assert_none(contracts.citation_problems(PAGES, contracts.bibliography()))


def test_every_exercise_of_the_package_is_in_a_chapter():
    printed = {
        directive.options.get("label")
        for page in CHAPTERS
        for document in page.documents
        for directive in document.directives
        if directive.name in ("exercise", "exercise-start")
    }
    assert set(contracts.exercise_checks()) == printed


def test_no_chapter_is_kept_from_nbval():
    assert not list((ROOT / "book").rglob("conftest.py")), "could exempt a whole chapter"
    workflows = (ROOT / ".github").rglob("*.yml")
    for path in [ROOT / "Makefile", ROOT / ".ci" / "run", *workflows]:
        text = path.read_text(encoding="utf-8")
        assert "--nbval-lax" not in text, path
        assert not re.search(r"--(ignore|deselect|ignore-glob)[= ]\S*(book|ipynb)", text), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"--nbval [^&|;]*book/\*\.ipynb", makefile.replace("\\\n", " "))


def assert_none(problems):
    problems = list(problems)
    assert not problems, "\n" + "\n".join(problems)
