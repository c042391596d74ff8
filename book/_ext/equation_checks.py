"""Ties every display equation of a chapter to the check that evaluates it.

Beside each labelled equation stands a small mark that leads to its entry in the appendix. The
``{equation-checks}`` directive writes that appendix from ``tests.equations.load()``: per chapter,
every equation, in the order of the book, rendered, with the source of its check;
``{equation-check} label`` shows one of them. That every equation has a check, and every check an
equation, is for ``tests/contracts.py`` to say.
"""

from inspect import getsourcefile
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

APPENDIX = "book/equations"


def checks(env: BuildEnvironment) -> dict:
    """The registry: label -> Equation with label, latex, chapter, function, source."""
    from tests.equations import load

    return load()


def is_chapter(env: BuildEnvironment, docname: str) -> bool:
    """A chapter is a notebook in ``book/``."""
    path = Path(env.doc2path(docname))
    return path.suffix == ".ipynb" and path.parent == Path(env.srcdir) / "book"


def chapters(env: BuildEnvironment) -> list:
    """The chapters as ``tests.book`` reads them, in the order of the table of contents."""
    from tests.book import Page

    toc = yaml.safe_load(Path(env.srcdir, "_toc.yml").read_text("utf-8"))
    names = [page["file"] for part in toc["parts"] for page in part["chapters"]]
    return [Page(Path(env.doc2path(name))) for name in names if is_chapter(env, name)]


class EquationCheck(SphinxDirective):
    """One equation, rendered, a link to its place in the chapter, and the source of its check."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        equation = checks(self.env).get(self.arguments[0])
        if equation is None:
            raise self.error(f"there is no check of an equation ({self.arguments[0]})")
        return self.entry(equation)

    def entry(self, equation) -> list[nodes.Node]:
        self.env.note_dependency(getsourcefile(equation.function))
        where = nodes.paragraph("", "Equation ", classes=["check-where"])
        where += self.xref("math", "eq", equation.label)
        where += nodes.Text(" of ")
        where += self.xref("std", "doc", f"/book/{equation.chapter}")
        math = nodes.math_block("", equation.latex, nowrap=False, number=None, label=None)
        math["docname"] = self.env.docname
        code = nodes.literal_block(equation.source, equation.source, language="python")
        return [where, math, code]

    def xref(self, domain: str, kind: str, target: str) -> pending_xref:
        text = nodes.literal if kind == "eq" else nodes.inline
        return pending_xref(
            "",
            text("", target),
            refdomain=domain,
            reftype=kind,
            reftarget=target,
            refdoc=self.env.docname,
            refexplicit=False,
            refwarn=True,
        )


class EquationChecks(EquationCheck):
    """All of them: a section per chapter, in it a section per equation."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        known = checks(self.env)
        sections = []
        for page in chapters(self.env):
            self.env.note_dependency(str(page.path))
            labels = [shown.label for document in page.documents for shown in document.equations]
            if equations := [known[label] for label in labels if label in known]:
                sections.append(self.chapter(page, equations))
        return sections

    def chapter(self, page, equations: list) -> nodes.section:
        title = nodes.title("", page.headings[0])
        section = nodes.section("", title, ids=[f"checks-{page.name}"])
        words = nodes.paragraph("", f"{len(equations)} equations, evaluated by ")
        words += nodes.literal("", equations[0].path)
        words += nodes.Text(".")
        section += words
        for equation in equations:
            title = nodes.title("", "", nodes.literal("", equation.label))
            anchor = nodes.make_id(f"check-{equation.label}")
            section += nodes.section(
                "", title, *self.entry(equation), ids=[anchor], classes=["check"]
            )
        return section


def mark(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put beside each labelled equation of a chapter a mark that leads to its check."""
    if app.builder.format != "html" or not is_chapter(app.env, docname):
        return
    appendix = app.builder.get_relative_uri(docname, APPENDIX)
    for block in list(doctree.findall(nodes.math_block)):
        if not block.get("label"):
            logger.warning("display equation without a label", location=block)
            continue
        target = f"{appendix}#{nodes.make_id('check-' + block['label'])}"
        title = f"How equation {block['label']} is checked"
        html = f'<a class="check-mark" href="{target}" title="{title}" aria-label="{title}">✓</a>'
        row = nodes.container(classes=["checked-equation"])
        block.replace_self(row)
        row += [block, nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> dict:
    app.setup_extension("reference_docs")  # makes this checkout importable
    app.add_directive("equation-check", EquationCheck)
    app.add_directive("equation-checks", EquationChecks)
    app.connect("doctree-resolved", mark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
