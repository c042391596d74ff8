"""What the pages need from the repository: its address, how to cite it, docstrings in house style.

The package's docstrings are written to be read in an editor: a section may start on the line of
its heading, shapes stand bare, ``(*batch, *event)``, and equations are named, ``Eq. (chain-rule)``.
Here they become what Sphinx expects: headings on lines of their own, shapes as code, names as
links to the equation in its chapter. A size alone, ``features: D.``, stays a letter.
"""

import re
import sys
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

SECTION = re.compile(
    r"^(\s*)(Args|Returns|Yields|Raises|Source|Example|Examples|Note):(\s+)(\S.*)$"
)
ITEM = re.compile(r"^\s*[*\w]+(, [*\w]+)*:\s")
STARTS = re.compile(rf"{ITEM.pattern}|\s*\w+Error ")
SHAPE = re.compile(r"``.*?``|(\((?=[^()`]*\*\w)[^()`]*\))")  # not where it is code already
ERROR = re.compile(r"^(\s*)(\w+Error) (?=if |when |for |on )")
LETTER = re.compile(r"^(\s*\w+:\s+)(?=[A-Z]\.)")  # else a list, numbered by letters
EQUATION = re.compile(r"\bEq\. \(([a-z][a-z0-9]*(?:-[a-z0-9]+)+)\)")


class RepositoryCommands(SphinxDirective):
    """Shell commands in which ``{repository}`` stands for the address in ``_config.yml``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        url = self.config.html_theme_options["repository_url"]
        text = "\n".join(self.content).replace("{repository}", url)
        return [nodes.literal_block(text, text, language="sh")]


class CiteThisBook(SphinxDirective):
    """A BibTeX entry of the last release, made from ``CITATION.cff``."""

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir, "CITATION.cff")
        self.env.note_dependency(str(path))
        cited = yaml.safe_load(path.read_text("utf-8"))
        url = self.config.html_theme_options["repository_url"]
        text = bibtex(cited, url)
        return [nodes.literal_block(text, text, language="bibtex")]


def bibtex(cited: dict, url: str) -> str:
    """The entry for what ``CITATION.cff`` says.

    Double braces keep the name of a group, and capitals, as they are.
    """
    fields = {
        "title": f"{{{cited['title']}}}",
        "author": f"{{{' and '.join(author['name'] for author in cited['authors'])}}}",
        "year": str(cited["date-released"])[:4],
        "note": f"Version {cited['version']}",
        "url": url,
    }
    lines = [f"  {name:<6} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{url.rsplit('/', 1)[1]},", *lines, "}"])


class Colab(SphinxRole):
    """``{colab}`words <book/chapter>` ``: a link that opens a chapter in Colab."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        words, path = re.fullmatch(r"(.+?)\s*<(.+)>", self.text, re.DOTALL).groups()
        return [nodes.reference("", words, refuri=in_colab(self.env.app, path))], []


def in_colab(app: Sphinx, page: str) -> str:
    """The address that opens a chapter in Colab, in plain Markdown, which is what Colab reads."""
    from tools import publish

    return publish.read(Path(app.srcdir)).in_colab(page.removeprefix("book/"))


def launch(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Let the theme's button lead there, too."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "colab.research.google.com" in button.get("url", ""):
                button["url"] = in_colab(app, page)


def title(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Do not say the book's title twice in that of its first page."""
    if page == app.config.root_doc:
        context["docstitle"] = ""


def docstring(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Rewrite ``lines`` in place, before napoleon reads them."""
    out, math_indent, section = [], None, None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if section is not None and (not line.strip() or indent <= section[0]):
            section = None
        if math_indent is not None and line.strip() and indent <= math_indent:
            math_indent = None
        if line.lstrip().startswith((".. math::", ">>> ", ".. code")):
            math_indent = indent if not line.lstrip().startswith(">>>") else math_indent
            out.append(line)
            continue
        if math_indent is None:
            if found := SECTION.match(line):
                before, head, space, rest = found.groups()
                if head == "Args" and not ITEM.match(rest):  # as of another function
                    out += ["", f"{before}**Parameters**: {rest}", ""]
                    continue
                out.append(f"{before}{head}:")
                start = len(before) + len(head) + 1 + len(space)
                line = " " * start + rest
                section = indent, start + 4 * (head in ("Args", "Raises"))
            elif section is not None and not (section[1] > indent and STARTS.match(line)):
                line = " " * section[1] + line.lstrip()  # goes on with what stands above
            line = ERROR.sub(r"\1\2: ", line)
            line = LETTER.sub(r"\1\\", line)
            line = SHAPE.sub(lambda m: f"``{m[1]}``" if m[1] else m[0], line)
            line = EQUATION.sub(r"Eq. :eq:`\1`", line)
        out.append(line)
    lines[:] = out


def setup(app: Sphinx) -> dict:
    # The package and the checks of this checkout, installed or not.
    sys.path.insert(0, str(app.srcdir))
    app.add_role("colab", Colab())
    app.add_directive("repository-commands", RepositoryCommands)
    app.add_directive("cite-this-book", CiteThisBook)
    app.connect("autodoc-process-docstring", docstring, priority=100)
    app.connect("html-page-context", launch, priority=900)  # after the theme
    app.connect("html-page-context", title)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
