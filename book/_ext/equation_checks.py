"""Ties every display equation of a chapter to the check that evaluates it.

Beside each labelled equation stands a small mark that leads to its entry in the appendix. The
``{equation-checks}`` directive writes that appendix from ``tests.equations.load()``: per chapter,
every equation, rendered, with the source of its check; ``{equation-check} label`` shows one of
them. An equation without a check, or a check
without an equation, is a warning, and the book is built with warnings as errors.
"""

from collections.abc import Iterator
from inspect import getsourcefile
from pathlib import Path

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


def labelled(env: BuildEnvironment) -> Iterator[tuple[str, str]]:
    """(chapter, label) of every labelled equation of every chapter, in the order of the book."""
    for label, (docname, _) in env.get_domain("math").equations.items():
        if is_chapter(env, docname):
            yield docname, label


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
        chapters: dict[str, list] = {}
        for equation in checks(self.env).values():
            chapters.setdefault(equation.chapter, []).append(equation)
        return [self.chapter(name, equations) for name, equations in chapters.items()]

    def chapter(self, name: str, equations: list) -> nodes.section:
        title = nodes.title("", name.replace("-", " ").capitalize())
        section = nodes.section("", title, ids=[f"checks-{name}"])
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


def compare(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of an equation without its check, and of a check without its equation."""
    if APPENDIX not in env.found_docs:
        return
    known, seen = checks(env), set()
    for docname, label in labelled(env):
        seen.add(label)
        if label not in known:
            logger.warning(
                f"equation ({label}) has no check; write one in tests/equations/",
                location=docname,
            )
        elif f"book/{known[label].chapter}" != docname:
            logger.warning(
                f"equation ({label}) is checked as part of {known[label].chapter}",
                location=docname,
            )
    for label in known.keys() - seen:
        logger.warning(f"{known[label].path}: the check of ({label}) has no equation in a chapter")


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
        title = "How this equation is checked"
        html = f'<a class="check-mark" href="{target}" title="{title}" aria-label="{title}">✓</a>'
        row = nodes.container(classes=["checked-equation"])
        block.replace_self(row)
        row += [block, nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> dict:
    app.setup_extension("reference_docs")  # makes this checkout importable
    app.add_directive("equation-check", EquationCheck)
    app.add_directive("equation-checks", EquationChecks)
    app.connect("env-check-consistency", compare)
    app.connect("doctree-resolved", mark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
