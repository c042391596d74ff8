"""Each contract is broken on purpose, in a small notebook that is otherwise sound."""

import copy
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from companion import exercises, notebook
from tests import contracts
from tests.book import GLUE, ROOT, Page
from tests.equations import Equation
from tests.prose import prose_problems
from tools.execute import KERNEL, LANGUAGE, normalised

CHAPTER = "sound"
LATEX = r"(a + b)^2 = a^2 + 2 a b + b^2"
EQUATIONS = {"square": Equation("square", LATEX, lambda rng: [])}
CHECKS = {"ex-pixels": "check_pixels"}
KEYS = {"lecun1998"}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
ALT = "Two curves that meet at the middle of the axis."


def stdout(text):
    return new_output("stream", name="stdout", text=text)


def glue(name, text):
    metadata = {"scrapbook": {"name": name, "mime_prefix": GLUE}}
    return new_output("display_data", {GLUE + "text/plain": repr(text)}, metadata=metadata)


def shown(*objects):
    code = notebook.source(*objects)
    data = {"text/markdown": f"```python\n{code}\n```", "text/plain": code}
    return new_output("display_data", data)


def picture():
    return new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})


def sound():
    """A chapter in miniature that keeps every contract."""
    cells = [
        new_markdown_cell("# Squares\n\nWhat is the square of a sum?", id="squares"),
        new_markdown_cell("## What you will be able to do\n\nTo square a sum.", id="goals"),
        new_code_cell(
            "from companion import exercises\nfrom companion.notebook import record, show",
            id="imports",
        ),
        new_markdown_cell(f"$$\n{LATEX}\n$$ (square)", id="square"),
        new_code_cell("show(exercises.exercise)", id="source", outputs=[shown(exercises.exercise)]),
        new_code_cell(
            'record("nll", 0.8093, expect=0.809, within=0.001)',
            id="measure",
            outputs=[glue("nll", "0.809"), stdout("nll = 0.809 (checked to within 0.001)\n")],
        ),
        new_markdown_cell(
            "It reaches {glue:text}`nll` nats. Others reach 0.9 nats {cite:p}`lecun1998`.",
            id="result",
        ),
        new_code_cell(
            "plot()", id="curves", outputs=[picture()], metadata={"mystnb": {"image": {"alt": ALT}}}
        ),
        *(new_code_cell(f"x = {n}", id=f"step-{n}") for n in range(4)),
        new_markdown_cell(
            "## Exercises\n\n```{exercise} Pixels ★\n:label: ex-pixels\n\nHow many?\n```",
            id="exercise",
        ),
        new_code_cell(
            "check_pixels(...)",
            id="attempt",
            outputs=[stdout("◻ ex-pixels: not attempted yet\n")],
        ),
        new_markdown_cell("```{solution-start} ex-pixels\n:class: dropdown\n```", id="solution"),
        new_code_cell("check_pixels(9)", id="answer", outputs=[stdout("✓ ex-pixels: correct\n")]),
        new_markdown_cell("```{solution-end}\n```", id="solution-end"),
        new_markdown_cell("## Summary\n\nSquares.\n\n## Further reading\n\nNone.", id="summary"),
    ]
    metadata = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    book = new_notebook(cells=cells, metadata=metadata)
    book.nbformat_minor = 5
    count = 0
    for cell in book.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    return book


def problems(book, tmp_path):
    """All that the contracts find wrong with a notebook."""
    path = tmp_path / "sound.ipynb"
    path.write_text(nbformat.writes(book).rstrip("\n") + "\n", encoding="utf-8")
    page = Page(path)
    return [
        *contracts.code_problems(page),
        *contracts.equation_problems([page], EQUATIONS),
        *prose_problems(page),
        *contracts.execution_problems(page),
        *contracts.rerun_problems(page),
        *contracts.exemption_problems(page),
        *contracts.form_problems(page),
        *contracts.part_problems(page),
        *contracts.figure_problems(page),
        *contracts.exercise_problems(page, CHECKS),
        *contracts.glue_problems([page]),
        *contracts.citation_problems([page], KEYS),
    ]


def test_sound_chapter_passes(tmp_path):
    assert problems(sound(), tmp_path) == []
    assert normalised(copy.deepcopy(sound())) == (tmp_path / "sound.ipynb").read_text("utf-8")


def test_source_must_fit_on_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(contracts, "WIDEST", 40)
    found = problems(sound(), tmp_path)
    wide = "cell 5 (source): show(exercises.exercise): more than 40 columns: "
    assert found
    assert all(wide in problem for problem in found)


def replaced(name, old, new):
    """A corruption: edit the source of a cell."""

    def corrupt(book):
        cell = next(c for c in book.cells if c.id == name)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return corrupt


def changed(name, **attributes):
    """A corruption: set attributes of a cell."""

    def corrupt(book):
        next(c for c in book.cells if c.id == name).update(nbformat.from_dict(attributes))

    return corrupt


def text(new):
    """A corruption: other prose in place of the summary."""
    return replaced("summary", "Squares.", new)


def removed(*names):
    """A corruption: leave cells out."""

    def corrupt(book):
        book.cells = [c for c in book.cells if c.id not in names]
        ran = [c for c in book.cells if c.cell_type == "code"]
        for count, cell in enumerate(ran, 1):
            cell.execution_count = count

    return corrupt


def tagged(*names):
    """A corruption: exempt cells from nbval."""

    def corrupt(book):
        for cell in book.cells:
            if cell.id in names:
                cell.metadata = {"tags": ["nbval-ignore-output"]}

    return corrupt


CORRUPTIONS = {
    # contract 1
    "package function defined again": (
        replaced("step-0", "x = 0", "def record(x):\n    return x"),
        ["cell 9 (step-0): defines record again, which companion/notebook.py has"],
    ),
    "package function copied under another name": (
        replaced(
            "step-0",
            "x = 0",
            "def peep(*things, docs=True):\n"
            "    if not things:\n"
            '        raise TypeError("show() needs at least one function, method, property or '
            'class")\n'
            "    from IPython.display import display\n\n"
            "    text = source(*things, docstring=docs)\n"
            '    both = {"text/markdown": f"```python\\n{text}\\n```", "text/plain": text}\n'
            "    display(both, raw=True)",
        ),
        ["cell 9 (step-0): peep is a copy of show in companion/notebook.py"],
    ),
    "package never imported": (
        replaced("imports", "companion", "elsewhere"),
        [
            "never imports companion",
            "cell 5 (source): show(exercises.exercise): name 'exercises' is not defined: import",
        ],
    ),
    "test images thrown with another split's seed": (
        replaced("step-0", "x = 0", 'data.binarize(mnist.test.images, seed=data.SEEDS["train"])'),
        ["cell 9 (step-0): test images are thrown with SEEDS['train']"],
    ),
    "stale source": (
        changed("source", outputs=[shown(exercises.Exercise)]),
        ["cell 5 (source): the stored source of exercises.exercise is not the package's"],
    ),
    "source not stored": (
        changed("source", outputs=[stdout("def exercise(label):\n")]),
        ["cell 5 (source): 1 calls of show(), 0 sources stored"],
    ),
    # contract 2
    "equation without label": (
        replaced("square", " (square)", ""),
        ["has no label", "no display equation has the label 'square'"],
    ),
    "equation in an align environment": (
        text(r"\begin{align} a &= b \end{align}"),
        [r"the equation '\\begin{align} a &= b \\end{align}' has no label"],
    ),
    "equation in a directive without label": (text("```{math}\na = b\n```"), ["has no label"]),
    "equation in brackets": (text(r"See \[a = b\]"), [r"\[ …: write display equations as $$"]),
    "equation inside a paragraph": (
        text("See $$a = b$$ there"),
        ["$ …: write display equations as $$ … $$ (label)"],
    ),
    "equation labelled by a number": (
        text("$$\na = b\n$$ (2.1)"),
        ["equation label '2.1': use lower-case words"],
    ),
    "equation twice": (
        text(f"$$\n{LATEX}\n$$ (square)"),
        ["(summary): the label 'square' is taken in sound.ipynb, cell 4 (square)"],
    ),
    "equation without check": (
        text("$$\na = b\n$$ (cube)"),
        ["(summary): no check for the equation 'cube'"],
    ),
    "check without equation": (
        removed("square"),
        ["tests/test_contracts.py: no display equation has the label 'square'"],
    ),
    "sign of an equation flipped": (
        replaced("square", "+ 2 a b", "- 2 a b"),
        [
            "cell 4 (square): the equation 'square' is not the one that is checked:\n"
            "  page:  (a + b)^2 = a^2 - 2 a b + b^2\n  check: (a + b)^2 = a^2 + 2 a b + b^2"
        ],
    ),
    # contract 3
    "bare decimal": (text("It is 0.81."), ["“It is 0.81.”: bare number 0.81: compute it"]),
    "bare count": (text("It has 784 pixels."), ["“It has 784 pixels.”: bare number 784"]),
    "number beside glue": (
        text("It reaches {glue:text}`nll`, or 0.808."),
        ["“It reaches nll, or 0.808.”: bare number 0.808"],
    ),
    "quote without citation": (
        replaced("result", " {cite:p}`lecun1998`", ""),
        ["“Others reach 0.9 nats.”: bare number 0.9"],
    ),
    "citation of nothing": (
        text("It is {cite:p}`lecun1989`."),
        ["(summary): 'lecun1989' is not in book/references.bib"],
    ),
    "undefined glue": (
        text("It reaches {glue:text}`nats`."),
        ["(summary): 'nats' is glued by no cell of sound: record() it"],
    ),
    "unused glue": (
        changed("step-0", outputs=[glue("spare", "1")]),
        ["(step-0): 'spare' is glued, and neither used in the prose nor printed"],
    ),
    "glue defined twice": (
        changed("step-0", outputs=[glue("nll", "0.8"), stdout("nll = 0.8\n")]),
        ["(step-0): 'nll' is glued in sound.ipynb, cell 6 (measure) already"],
    ),
    # contract 4
    "cell not executed": (
        changed("step-3", execution_count=None),
        ["cell 12 (step-3): not executed: python tools/execute.py sound"],
    ),
    "cells executed out of order": (
        changed("step-3", execution_count=3),
        ["cell 12 (step-3): execution count 3 instead of 8"],
    ),
    "name given anew further down": (
        replaced("step-1", "x = 1", "y = x"),
        [
            f"cell 10 (step-1): takes x from a cell above, and sound.ipynb, cell {9 + n} (step-{n})"
            for n in (2, 3)
        ],
    ),
    "name taken within a function": (
        replaced("step-2", "x = 2", "def y():\n    return [x for _ in range(2)]"),
        ["cell 11 (step-2): takes x from a cell above, and sound.ipynb, cell 12 (step-3) gives it"],
    ),
    "name taken and given anew": (
        replaced("step-3", "x = 3", "x = x + 3"),
        ["cell 12 (step-3): takes x from a cell above, and sound.ipynb, cell 12 (step-3) gives it"],
    ),
    "empty cell": (changed("step-3", source=""), ["cell 12 (step-3): empty"]),
    "outputs stripped": (
        changed("measure", outputs=[]),
        ["cell 6 (measure): its output is stripped", "'nll' is glued by no cell"],
    ),
    "error stored": (
        changed("step-0", outputs=[new_output("error", ename="E", evalue="no", traceback=[])]),
        ["cell 9 (step-0): stored error E: no", "(step-0) holds E: no"],
    ),
    "standard error stored": (
        changed("step-0", outputs=[new_output("stream", name="stderr", text="careful")]),
        [
            "cell 9 (step-0): writes to standard error: careful",
            "(step-0) writes to standard error: careful",
        ],
    ),
    "too many cells exempt": (
        tagged("step-0", "step-1"),
        ["2 of 10 code cells are exempt from nbval, more than 10%: step-0, step-1"],
    ),
    "exempt by comments": (
        lambda book: [replaced(f"step-{n}", "x", "# NBVAL_SKIP\nx")(book) for n in (0, 1)],
        ["2 of 10 code cells are exempt"],
    ),
    "chapter exempt": (
        lambda book: book.metadata.update(tags=["nbval-skip"]),
        ["notebook metadata 'tags': a whole chapter cannot be exempt", "not normalised"],
    ),
    "error exempt": (
        changed("step-0", metadata={"tags": ["raises-exception"]}),
        ["(step-0): catch the error and print it"],
    ),
    "timings kept": (
        changed("step-0", metadata={"execution": {"iopub.status.busy": "2026"}}),
        ["sound.ipynb: not normalised: python tools/execute.py --normalise sound"],
    ),
    "random cell id": (changed("step-0", id="0a1b2c3d"), ["sound.ipynb: not normalised"]),
    "large notebook": (
        changed("step-0", outputs=[stdout("." * 1_500_000)]),
        ["more than 1,500,000: make figures smaller"],
    ),
    # what a chapter owes its readers
    "picture without alt text": (
        changed("curves", metadata={}),
        ["cell 8 (curves): a picture without alt text"],
    ),
    "path as alt text": (
        changed("curves", metadata={"mystnb": {"image": {"alt": "../_images/curves-of-loss.png"}}}),
        ["cell 8 (curves): the alt text is a path"],
    ),
    "alt text that says nothing": (
        changed("curves", metadata={"mystnb": {"image": {"alt": "A plot."}}}),
        ["cell 8 (curves): the alt text 'A plot.' does not say what the picture shows"],
    ),
    "alt text used twice": (
        text(f"![{ALT}](curves.png)"),
        ["(summary): the same alt text as sound.ipynb, cell 8 (curves)"],
    ),
    "two pictures in a cell": (
        changed("curves", outputs=[picture(), picture()]),
        ["cell 8 (curves): 2 pictures with one alt text"],
    ),
    "section missing": (
        replaced("summary", "Further reading", "More"),
        ["sound.ipynb: no section “further reading”"],
    ),
    "no opening question": (replaced("squares", "?", "."), ["no question before the first code"]),
    "exercise without solution": (
        removed("solution", "answer", "solution-end"),
        ["cell 13 (exercise): the exercise 'ex-pixels' has no solution"],
    ),
    "exercise of unknown difficulty": (
        replaced("exercise", "Pixels ★", "Pixels"),
        ["cell 13 (exercise): end the title of 'ex-pixels' in one to three ★ or 'a project'"],
    ),
    "exercise without check": (
        replaced("exercise", "ex-pixels", "ex-colours"),
        [
            "no check for 'ex-colours' in companion/exercises/",
            "a solution to 'ex-pixels', which is no exercise above",
            "the exercise 'ex-colours' has no solution",
        ],
    ),
    "exercise without attempt": (
        removed("attempt"),
        ["no cell before the solution to 'ex-pixels' calls check_pixels"],
    ),
    "attempt that gives the answer away": (
        changed("attempt", outputs=[stdout("✓ ex-pixels: correct\n")]),
        ["cell 14 (attempt): the attempt at 'ex-pixels' must be stored as not attempted"],
    ),
    "solution not folded": (
        replaced("solution", ":class: dropdown\n", ""),
        ["cell 15 (solution): the solution to 'ex-pixels' is not folded"],
    ),
    "solution not checked": (
        replaced("answer", "check_pixels(9)", "print(9)"),
        ["cell 15 (solution): the solution to 'ex-pixels' does not call check_pixels"],
    ),
    "solution that fails": (
        changed("answer", outputs=[stdout("✗ ex-pixels: too few\n")]),
        ["cell 16 (answer): the solution to 'ex-pixels' does not pass its check"],
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_is_found(name, tmp_path):
    corrupt, expected = CORRUPTIONS[name]
    book = sound()
    corrupt(book)
    found = problems(book, tmp_path)
    assert len(found) == len(expected), found
    for message in expected:
        assert any(message in problem for problem in found), found


def test_nbval_refuses_altered_outputs(tmp_path):
    """The real nbval, on sound notebooks and on some whose stored output was edited."""
    imports = "from companion import exercises\nfrom companion.notebook import record, show\n"
    stored = {
        "print": ("print(0.809)", [stdout("0.809\n")]),
        "print-altered": ("print(0.809)", [stdout("0.808\n")]),
        "glue": ('record("n", "0.809")', [glue("n", "0.809"), stdout("n = 0.809\n")]),
        "glue-altered": ('record("n", "0.809")', [glue("n", "0.808"), stdout("n = 0.809\n")]),
        "source": ("show(exercises.exercise)", [shown(exercises.exercise)]),
        "source-altered": ("show(exercises.exercise)", [shown(exercises.Exercise)]),
        "time": ('print("took 1.2 s")', [stdout("took 9.8 s\n")]),
        "exempt-altered": ("print(0.809)\n# NBVAL_IGNORE_OUTPUT", [stdout("0.808\n")]),
    }
    cells = [
        new_code_cell(imports + source, id=name, outputs=outputs, execution_count=1)
        for name, (source, outputs) in stored.items()
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "book.ipynb")
    options = "-rA -p no:cacheprovider --nbval --nbval-current-env --nbval-sanitize-with"
    command = [sys.executable, "-m", "pytest", *options.split(), ROOT / "tests" / "nbval.cfg"]
    run = subprocess.run(
        [*command, "--rootdir", tmp_path, "book.ipynb"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    outcome = {
        name: re.search(rf"^(PASSED|FAILED) book.ipynb::Cell {n}\b", run.stdout, re.M)[1]
        for n, name in enumerate(stored)
    }
    expected = {name: "PASSED" for name in stored}
    expected |= dict.fromkeys(["print-altered", "glue-altered", "source-altered"], "FAILED")
    assert outcome == expected, run.stdout + run.stderr
