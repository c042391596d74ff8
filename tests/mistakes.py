"""A real example of each contract catching a mistake: the appendix "How this book checks itself".

An example is a chapter in miniature, a list of notebook cells, with a mistake and without it. What
its contract says is computed by running the contract, when the page is built and in
``test_mistakes.py``; no message is written down.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from nbformat import NotebookNode, writes
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests import contracts
from tests.book import ROOT, Page
from tests.equations import Equation, side, verify
from tests.prose import prose_problems

CHAPTER = "chapter"  # the one that the equations below belong to
Cells = list[NotebookNode]


@dataclass(frozen=True)
class Mistake:
    """A mistake, its contract (1 to 4), and the cells with it and without it."""

    name: str
    contract: int
    wrong: Cells
    mended: Cells

    def says(self, cells: Cells) -> list[str]:
        """The messages of the contract about ``wrong`` or ``mended``: none if all is well."""
        return CONTRACTS[self.contract](deepcopy(cells))


# --- the four contracts, each as a function from cells to messages ------------------------------


def code(cells):
    with chapter(cells) as page:
        return contracts.code_problems(page)


def equations(cells):
    """The Markdown is the page; the code stands in tests/equations/, with a registry of its own."""
    checks = {}

    def equation(label, latex):
        return lambda check: checks.setdefault(label, Equation(label, latex, check))

    for cell in cells:
        if cell.cell_type == "code":
            exec(cell.source, {"__name__": __name__, "equation": equation, **EQUATION_NAMES})
    with chapter([cell for cell in cells if cell.cell_type == "markdown"]) as page:
        problems = list(contracts.equation_problems([page], checks))
    for check in checks.values():
        try:
            verify(check)
        except AssertionError as error:
            problems.append(str(error))
    return problems


def numbers(cells):
    for cell in cells:
        if cell.cell_type == "code":
            try:
                cell.outputs = run(cell.source)
            except AssertionError as error:  # of record()
                return [f"AssertionError: {error}"]
    with chapter(cells) as page:
        return prose_problems(page) + list(contracts.glue_problems([page]))


def outputs(cells):
    with chapter(cells) as page:
        return list(contracts.execution_problems(page)) + nbval(page.path)


CONTRACTS = {1: code, 2: equations, 3: numbers, 4: outputs}
EQUATION_NAMES = {"side": side, "torch": torch}


@contextmanager
def chapter(cells) -> Iterator[Page]:
    """The cells as a notebook on disk, their code numbered as if it had been run."""
    ran = [cell for cell in cells if cell.cell_type == "code"]
    for count, cell in enumerate(ran, 1):
        cell.execution_count = count
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{CHAPTER}.ipynb"
        path.write_text(writes(new_notebook(cells=cells)), encoding="utf-8")
        yield Page(path)


def run(source) -> list[NotebookNode]:
    """The outputs of a cell that is run here, in an empty namespace."""
    displayed, printed = [], io.StringIO()

    def display(data, raw, metadata=None):
        displayed.append(new_output("display_data", data, metadata=metadata or {}))

    checked = patch.dict(os.environ, {"COMPANION_SCALE": "cpu"})
    with checked, patch("IPython.display.display", display), redirect_stdout(printed):
        exec(source, {})
    return displayed + ([stdout(printed.getvalue())] if printed.getvalue() else [])


def nbval(path) -> list[str]:
    """What the real nbval finds wrong with a notebook, as `make test` calls it."""
    options = "-q -p no:cacheprovider --nbval --nbval-current-env --nbval-sanitize-with"
    command = [sys.executable, "-m", "pytest", *options.split(), ROOT / "tests" / "nbval.cfg"]
    done = subprocess.run(
        [*command, "--rootdir", path.parent, path.name],
        cwd=path.parent,
        env=os.environ | {"PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    text = re.sub(r"\x1b\[\d+m", "", done.stdout)
    failures = re.findall(r"^_+ (\S+::Cell \d+) _+$.*?^Traceback:$(.*?)^[_=]{9}", text, re.M | re.S)
    if done.returncode != bool(failures):
        raise RuntimeError(f"nbval did not run:\n{done.stdout}{done.stderr}")
    return [f"{cell}: {_lines(what)}" for cell, what in failures]


def _lines(text):
    """Without the empty lines and the common indent."""
    return textwrap.dedent(re.sub(r"\n\s*(?=\n)|\s+\Z", "", text)).strip()


def stdout(text):
    return new_output("stream", name="stdout", text=text)


# --- the mistakes -------------------------------------------------------------------------------


def prose(name, source):
    return new_markdown_cell(source, id=name)


def cell(name, source, outputs=()):
    return new_code_cell(source, id=name, outputs=list(outputs))


def executed(name, source):
    try:
        return cell(name, source, run(source))
    except AssertionError:  # for the contract to report
        return cell(name, source)


def edited(original, old, new):
    """A cell whose stored outputs were changed afterwards, wherever they hold ``old``."""
    changed = deepcopy(original)
    for output in changed.outputs:
        holder = output if output.output_type == "stream" else output.data
        for key, text in holder.items():
            holder[key] = text.replace(old, new)
    return changed


OWN_FUNCTION = """\
from companion.notebook import record


def bits_per_dimension(nats, dimensions):
    return nats / dimensions


record("bits", bits_per_dimension(439.1, 784), digits=3)"""
IMPORTED = """\
from companion.evaluation import bits_per_dimension
from companion.notebook import record

record("bits", bits_per_dimension(439.1, 784), digits=3)"""

SHOWN = executed(
    "definition",
    """\
from companion.evaluation import bits_per_dimension
from companion.notebook import show

show(bits_per_dimension)""",
)

RING = r"\mu_k = r\, (\cos \tfrac{2 \pi k}{K}, \sin \tfrac{2 \pi k}{K})"
RING_CHECK = f"""\
@equation("ring", r"{RING}")
def ring(rng):
    r, K = torch.rand(1, generator=rng), 3
    angle = 2 * torch.pi * torch.arange(K) / K
    # As the program places them: r times e to the power of i times the angle.
    yield side(torch.view_as_real(torch.polar(r.expand(K), angle)))
    # As the equation says.
    formula = r * torch.stack([angle.cos(), angle.sin()], -1)
    yield side(formula, wrong={{"clockwise": formula * torch.tensor([1, -1])}})"""


def ring(latex):
    return prose("ring", f"The modes lie on a ring:\n\n$$\n{latex}\n$$ (ring)")


def exchanged(text):
    """Sine for cosine, and cosine for sine."""
    names = {"sin": "cos", "cos": "sin"}
    return re.sub("sin|cos", lambda found: names[found[0]], text)


PRINTED = executed(
    "bits",
    """\
from companion.evaluation import bits_per_dimension

bits = bits_per_dimension(439.1, dimensions=784)
print(f"{bits:.3f} bits per dimension")""",
)
RECORDED = executed(
    "bits",
    """\
from companion.evaluation import bits_per_dimension
from companion.notebook import record

record("pixels", 28 * 28)
record("bits", bits_per_dimension(439.1, dimensions=784), digits=3)""",
)
EXPECTED = """\
from companion.evaluation import bits_per_dimension
from companion.notebook import record

bits = bits_per_dimension(439.1, dimensions=784)
record("bits", bits, expect=0.808, within=0.0005)"""

MISTAKES = {
    mistake.name: mistake
    for mistake in [
        Mistake(
            "second-definition",
            contract=1,
            wrong=[executed("bits", OWN_FUNCTION)],
            mended=[executed("bits", IMPORTED)],
        ),
        Mistake(
            "old-source",
            contract=1,
            wrong=[edited(SHOWN, "(dimensions * math.log(2))", "dimensions")],
            mended=[SHOWN],
        ),
        Mistake(
            "sine-for-cosine",
            contract=2,
            wrong=[ring(exchanged(RING)), cell("check", exchanged(RING_CHECK))],
            mended=[ring(RING), cell("check", RING_CHECK)],
        ),
        Mistake(
            "edited-equation",
            contract=2,
            wrong=[ring(RING.replace(r"2 \pi", r"\pi")), cell("check", RING_CHECK)],
            mended=[ring(RING), cell("check", RING_CHECK)],
        ),
        Mistake(
            "typed-numbers",
            contract=3,
            wrong=[
                RECORDED,
                prose("result", "Each of the 768 pixels costs 0.809 bits."),
            ],
            mended=[
                RECORDED,
                prose(
                    "result",
                    "Each of the {glue:text}`pixels` pixels costs {glue:text}`bits` bits.",
                ),
            ],
        ),
        Mistake(
            "drifted-number",
            contract=3,
            wrong=[cell("bits", EXPECTED.replace("0.808", "0.809"))],
            mended=[executed("bits", EXPECTED)],
        ),
        Mistake(
            "edited-output",
            contract=4,
            wrong=[edited(PRINTED, "0.808", "0.809")],
            mended=[PRINTED],
        ),
        Mistake(
            "stripped-output",
            contract=4,
            wrong=[cell("bits", PRINTED.source)],
            mended=[PRINTED],
        ),
    ]
}
