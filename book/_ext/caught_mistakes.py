"""Shows a mistake and what its contract says about it: ``{caught-mistake} name``.

The cells come from ``tests.mistakes``. The contract is run while the page is built, so that the
message on the page is the one that an author would get; a mistake that is no longer caught stops
the build. That the mended cells pass is for ``test_mistakes.py`` to say.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CaughtMistake(SphinxDirective):
    """The cells with a mistake, the messages of the contract, and the cells that pass."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from tests import mistakes

        for module in (mistakes, mistakes.contracts):
            self.env.note_dependency(module.__file__)
        mistake = mistakes.MISTAKES.get(self.arguments[0])
        if mistake is None:
            raise self.error(f"there is no mistake of the name {self.arguments[0]}")
        messages = mistake.says(mistake.wrong)
        if not messages:
            raise self.error(f"the mistake {mistake.name} is not caught")
        changed = [cell for cell in mistake.mended if cell not in mistake.wrong]
        says = block("\n\n".join(messages), "text")
        says["classes"] = ["check-says"]
        return [
            nodes.rubric("", "The mistake"),
            *(shown(cell, beside=mistake.mended) for cell in mistake.wrong),
            nodes.rubric("", "The check says"),
            says,
            nodes.rubric("", "This passes"),
            *(shown(cell, beside=mistake.wrong) for cell in changed),
        ]


def shown(cell, beside) -> nodes.Node:
    """A cell with its outputs, as in a chapter; Markdown as written. Marks what differs."""
    known = {""}.union(*(text.splitlines() for other in beside for text, _ in texts(other)))
    blocks = [block(text, language, known) for text, language in texts(cell)]
    if cell.cell_type == "markdown":
        return blocks[0]
    whole = nodes.container(classes=["cell"])
    for part, kind in zip(blocks, ["cell_input"] + ["cell_output"] * len(blocks), strict=False):
        whole += nodes.container("", part, classes=[kind])
    return whole


def texts(cell) -> list[tuple[str, str]]:
    """(text, language) of a cell's source and of each output that a reader sees."""
    if cell.cell_type == "markdown":
        return [(cell.source, "markdown")]
    found = [(cell.source, "python")]
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.text, "text"))
        elif "text/plain" in output.data:  # of show(); what record() hands on is not for the eye
            found.append((output.data["text/plain"], "python"))
    return found


def block(text: str, language: str, known: set[str] | None = None) -> nodes.literal_block:
    """A block of code in which the lines that are not ``known`` are marked."""
    lines = enumerate(text.splitlines(), 1)
    new = [number for number, line in lines if known is not None and line not in known]
    marks = {"hl_lines": new}
    return nodes.literal_block(text, text, language=language, highlight_args=marks)


def setup(app: Sphinx) -> dict:
    app.setup_extension("reference_docs")  # makes this checkout importable
    app.add_directive("caught-mistake", CaughtMistake)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
