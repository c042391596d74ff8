"""The notation names what is in the code, and the glossary is complete and in order."""

import ast
import pydoc
import re
import unicodedata
from functools import cache
from itertools import takewhile
from textwrap import indent

import pytest

from tests import book
from tests.book import ROOT, Page

NAMED = "name in the code"
NONE = "—"


def tokens(page):
    return book._PARSER.parse(page.cells[0].source)


def assert_none(problems):
    problems = list(problems)
    assert not problems, "\n".join(problems)


# --- notation ----------------------------------------------------------------------------------


def tables(page):
    """Every table as rows of cells, a cell being the tokens of its text."""
    for token in tokens(page):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level == 4:  # table, head or body, row, cell
            rows[-1].append(token.children)
        elif token.type == "table_close":
            yield rows


def text(cell):
    return "".join(token.content for token in cell).strip()


def names(cell):
    """Names in code, and the targets of roles such as ``{py:obj}``."""
    for token in cell:
        if token.type == "code_inline":
            yield token.content
        elif token.type == "myst_role" and token.meta["name"].startswith("py:"):
            yield token.content.removeprefix("~")


@cache
def vocabulary():
    """What companion defines: functions, classes, parameters, variables and attributes."""
    found = set()
    for path in (ROOT / "companion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.arg(arg=name):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
    return found


def exists(name):
    return pydoc.locate(name) is not None if "." in name else name in vocabulary()


def notation_problems(page):
    seen, found = set(), False
    for head, *rows in tables(page):
        columns = [*map(text, head)]
        if columns != ["symbol", "meaning", NAMED]:
            yield f"a table has the columns {columns}, not symbol, meaning, {NAMED}"
            continue
        found = True
        for row in rows:
            symbol, meaning, code = row
            if not (text(symbol) and text(meaning) and text(code)):
                yield f"the row {[text(cell) for cell in row]} has an empty column"
                continue
            for one in [t.content for t in symbol if t.type == "math_inline"] or [text(symbol)]:
                if one in seen:
                    yield f"{one} stands twice"
                seen.add(one)
            listed = list(names(code))
            words = "".join(token.content for token in code if token.type == "text")
            if words.replace(",", "").strip() != ("" if listed else NONE):
                yield f"{text(symbol)}: “{text(code)}” is neither names, with commas, nor {NONE}"
            for name in listed:
                if not exists(name):
                    yield f"{text(symbol)}: companion has no {name}"
    if not found:
        yield "there is no table of symbols"


def test_the_notation_names_what_is_in_the_code():
    assert_none(notation_problems(Page(ROOT / "book" / "notation.md")))


SOUND = """
| symbol | meaning | name in the code |
|---|---|---|
| $x$, $y$ | data and labels | `x`, `labels` |
| $a$ | logits | `companion.autoregressive.Autoregressive.logits` |
| $\\mathrm{NLL}$ | score | {py:func}`~companion.evaluation.nll` |
| $p_\\theta$ | the model | — |

| symbol | meaning | name in the code |
|---|---|---|
| $z$ | code | `z` |
"""


def notation(tmp_path, source):
    path = tmp_path / "notation.md"
    path.write_text(source, encoding="utf-8")
    return list(notation_problems(Page(path)))


def test_a_sound_notation_passes(tmp_path):
    assert notation(tmp_path, SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("`labels`", "`lables`", "no lables"),
        ("Autoregressive.logits", "Autoregressive.logit", "Autoregressive.logit"),
        ("~companion.evaluation.nll", "~companion.evaluation.nnl", "no companion.evaluation.nnl"),
        ("~companion.evaluation.nll", "~companion.evalution.nll", "no companion.evalution.nll"),
        ("$y$", "$p_\\theta$", "stands twice"),
        ("$z$", "$x$", "stands twice"),
        ("| — |", "| |", "empty column"),
        ("| — |", "|", "empty column"),
        ("| — |", "| to do |", "neither names"),
        ("`x`, `labels`", "`x` or `labels`", "neither names"),
        (
            "| meaning | name in the code |\n|---|---|---|\n| $x$",
            "| is | code |\n|---|---|---|\n| $x$",
            "a table has the columns",
        ),
        (SOUND, "No table.", "no table"),
    ],
)
def test_a_slip_in_the_notation_is_found(tmp_path, old, new, problem):
    assert old in SOUND
    problems = notation(tmp_path, SOUND.replace(old, new))
    assert len(problems) == 1, problems
    assert problem in problems[0]


def test_a_name_that_is_only_read_is_not_one_that_companion_has():
    assert {"log_prob", "Autoregressive", "batch_size", "logits", "mask"} <= vocabulary()
    assert "functional" not in vocabulary()  # torch's, which companion imports and reads


# --- glossary ----------------------------------------------------------------------------------

KOREAN = re.compile(r"  \[[^\[\]]*[가-힣][^\[\]]*\]\{\.language-ko\}\. \S")


def entries(page):
    """(terms, definition) of every entry; lines that are not indented are terms."""
    (body,) = (token.content for token in tokens(page) if token.info == "{glossary}")
    for part in re.split(r"\n\s*\n(?=\S)", body.strip("\n")):
        lines = part.splitlines()
        terms = list(takewhile(lambda line: not line.startswith(" "), lines))
        yield terms, "\n".join(lines[len(terms) :])


def alphabetical(term):
    """Word by word, without regard to case, accents and apostrophes."""
    plain = unicodedata.normalize("NFKD", term.casefold())
    return re.findall(r"\w+", re.sub(r"['’\u0300-\u036f]", "", plain))


def glossary_problems(page):
    seen, before = set(), ""
    for terms, definition in entries(page):
        if not KOREAN.match(definition):
            yield f"{terms[0]}: begin with the Korean, “[…]{{.language-ko}}. ”, indented by two"
        if re.search(r"^ {4}", definition, re.MULTILINE):
            yield f"{terms[0]}: more than two spaces make code of a definition"
        if alphabetical(terms[0]) < alphabetical(before):
            yield f"{terms[0]} comes after {before}"
        before = terms[0]
        for term in terms:
            if term.casefold() in seen:
                yield f"{term} stands twice"
            seen.add(term.casefold())


def test_the_glossary_is_complete_and_in_order():
    page = Page(ROOT / "book" / "glossary.md")
    assert_none(glossary_problems(page))
    assert len(list(entries(page))) > 60


GLOSSARY = """\
evidence lower bound
ELBO
  [증거 하한]{.language-ko}. A bound.

f-divergence
  [f-발산]{.language-ko}. A difference.

Fréchet distance
  [프레셰 거리]{.language-ko}. A distance.

Jensen–Shannon divergence
  [옌센–섀넌 발산]{.language-ko}. A mean.

Jensen's inequality
  [옌센 부등식]{.language-ko}. A bound.
"""


def glossary(tmp_path, body):
    path = tmp_path / "glossary.md"
    path.write_text(f"# Glossary\n\n```{{glossary}}\n{body}```\n", encoding="utf-8")
    return list(glossary_problems(Page(path)))


def test_a_sound_glossary_passes(tmp_path):
    assert glossary(tmp_path, GLOSSARY) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("프레셰 거리", "Fréchet", "begin with the Korean"),
        ("[프레셰 거리]{.language-ko}. ", "", "begin with the Korean"),
        ("{.language-ko}. A difference.", "{.language-ko}.", "begin with the Korean"),
        ("  [f-발산]{.language-ko}. A difference.\n", "", "begin with the Korean"),
        ("A bound.\n\nf", "A bound.\n\n    Of code.\n\nf", "make code"),
        ("Fréchet distance", "Energy distance", "comes after"),
        ("Fréchet distance", "F-divergence", "stands twice"),
        ("Fréchet distance", "Fréchet distance\nelbo", "stands twice"),
    ],
)
def test_a_slip_in_the_glossary_is_found(tmp_path, old, new, problem):
    assert old in GLOSSARY
    problems = glossary(tmp_path, GLOSSARY.replace(old, new))
    assert len(problems) == 1, problems
    assert problem in problems[0]


def test_a_number_in_a_definition_is_read_as_prose(tmp_path):
    """Sphinx alone knows what a glossary is: here its body is Markdown, and is read as such."""
    from tests.prose import prose_problems

    path = tmp_path / "glossary.md"
    body = indent("[비트]{.language-ko}. There are 96.58 of them.", "  ")
    path.write_text(f"```{{glossary}}\nbit\n{body}\n```\n", encoding="utf-8")
    assert len(prose_problems(Page(path))) == 1
