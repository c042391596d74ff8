"""Read the book: its pages, their cells, and what the Markdown in them says."""

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

ROOT = Path(__file__).resolve().parents[1]
GLUE = "application/papermill.record/"

_EXTENSIONS = "amsmath attrs_block attrs_inline colon_fence deflist dollarmath substitution"
_PARSER = create_md_parser(
    MdParserConfig(enable_extensions=set(_EXTENSIONS.split())), RendererHTML
).disable("text_join")  # keeps escapes apart, so that \[ can be told from [

# Directives whose body is not Markdown for readers, and those whose argument is a title.
_VERBATIM = re.compile(
    "code|code-block|code-cell|literalinclude|raw|eval-rst|toctree|contents|tableofcontents"
    "|bibliography|mermaid|include|equation-checks?|button-(ref|link)"
)
_TITLED = re.compile(
    "admonition|exercise(-start)?|dropdown|card|grid-item-card|tab-item|topic|sidebar|list-table"
    "|table|csv-table|rubric|(prf|proof):.*"
)
_TEXT_ROLES = re.compile("abbr|emphasis|guilabel|kbd|strong|sub(script)?|sup(erscript)?")


@dataclass(frozen=True)
class Piece:
    """A part of a line of prose: text, math, code, glue, cite or (a cross-reference) other."""

    kind: str
    text: str


@dataclass
class Block:
    """A paragraph (kind "prose"), heading, title of a directive, table row or caption."""

    kind: str
    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class Directive:
    name: str
    argument: str
    options: dict[str, str]


@dataclass(frozen=True)
class DisplayEquation:
    label: str
    latex: str


@dataclass
class Document:
    """What one piece of MyST Markdown holds, nested directives included, in reading order."""

    blocks: list[Block] = field(default_factory=list)
    equations: list[DisplayEquation] = field(default_factory=list)
    directives: list[Directive] = field(default_factory=list)
    roles: list[tuple[str, str]] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)  # (alt, address)
    stray: list[str] = field(default_factory=list)  # mathematics that MyST does not recognise

    @property
    def headings(self):
        """Headings, and titles of boxes."""
        return [b.text.strip() for b in self.blocks if b.kind in ("heading", "title")]

    @property
    def glued(self):
        """Names that the prose prints with ``{glue:…}``, role or directive."""
        roles = [text for name, text in self.roles if name.startswith("glue")]
        return roles + [d.argument for d in self.directives if d.name.startswith("glue")]

    @property
    def cited(self):
        keys = [text.split(",") for name, text in self.roles if name.startswith("cite")]
        return [key.strip() for group in keys for key in group]


@lru_cache(maxsize=4096)
def read_markdown(source: str) -> Document:
    document = Document()
    _walk(_PARSER.parse(source), document)
    return document


def _walk(tokens, document, kind="prose"):
    row, previous = None, None
    for token in tokens:
        if token.type == "tr_open":  # a row of a table is read, and cited, as one sentence
            row = Block("row")
            document.blocks.append(row)
        elif token.type == "tr_close":
            row = None
        elif token.type == "inline":
            pieces = list(_pieces(token.children, document))
            if row is not None:
                row.pieces += [*pieces, Piece("text", " ")]
            else:
                heading = previous == "heading_open"
                document.blocks.append(Block("heading" if heading else kind, pieces))
        elif token.type in ("math_block", "math_block_label", "amsmath"):
            document.equations.append(DisplayEquation(token.info.strip(), token.content))
        elif token.type in ("fence", "colon_fence"):
            found = re.fullmatch(r"\{([^}]+)\}\s*(.*)", token.info.strip(), re.DOTALL)
            if found:
                _read_directive(*found.groups(), token.content, document)
        elif token.type == "html_block":
            _html(token.content, document)
        previous = token.type


def _read_directive(name, argument, content, document):
    lines = content.splitlines()
    options = {}
    while lines and (found := re.match(r":([\w-]+):\s*(.*)", lines[0])):
        options[found[1]] = found[2].strip()
        lines.pop(0)
    body = "\n".join(lines)
    document.directives.append(Directive(name, argument, options))
    if name == "math":
        latex = f"{argument}\n{body}"
        document.equations.append(DisplayEquation(options.get("label", ""), latex))
        return
    if _TITLED.fullmatch(name):
        _walk(_PARSER.parse(argument), document, "title")
    if name in ("figure", "image"):
        document.images.append((options.get("alt", ""), argument))
    for option in ("alt", "caption"):
        if option in options:
            document.blocks.append(Block("caption", [Piece("text", options[option])]))
    if not _VERBATIM.fullmatch(name):
        _walk(_PARSER.parse(body), document)


def _pieces(children, document):
    link = None
    for token in children or ():
        if token.type == "link_open":
            link = token.info
        elif token.type == "link_close":
            link = None
        elif token.type == "text":
            if "$" in token.content:  # a sign of money would be escaped
                document.stray.append("$ …")
            yield Piece("other" if link == "auto" else "text", token.content)
        elif token.type == "text_special":
            if token.markup in (r"\[", r"\("):
                document.stray.append(rf"{token.markup} …")
            yield Piece("text", token.content)
        elif token.type in ("softbreak", "hardbreak"):
            yield Piece("text", " ")
        elif token.type in ("math_inline", "math_single"):
            yield Piece("math", token.content)
        elif token.type == "code_inline":
            number = re.fullmatch(r"[\d.,%\s×-]+", token.content)  # a number is no code
            yield Piece("text" if number else "code", token.content)
        elif token.type == "myst_role":
            name, text = token.meta["name"], token.content
            document.roles.append((name, text))
            titled = re.fullmatch(r"(.+)<[^<>]+>", text, re.DOTALL)
            if name.startswith("glue"):
                yield Piece("glue", text)
            elif name.startswith("cite"):
                yield Piece("cite", text)
            elif name == "math":
                yield Piece("math", text)
            elif _TEXT_ROLES.fullmatch(name) or titled:
                yield Piece("text", titled[1] if titled else text)
            else:
                yield Piece("other", text)
        elif token.type == "image":
            document.images.append((token.content, token.attrs.get("src", "")))
            document.blocks.append(Block("caption", [Piece("text", token.content)]))
        elif token.type == "html_inline":
            _html(token.content, document)


def _html(html, document):
    soup = BeautifulSoup(html, "html.parser")
    for image in soup.find_all("img"):
        document.images.append((image.get("alt", ""), image.get("src", "")))
    document.blocks.append(Block("prose", [Piece("text", soup.get_text(" "))]))


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook, or (number 0) the whole of a Markdown page."""

    page: str
    number: int
    node: nbformat.NotebookNode

    def __str__(self):
        if not self.number:
            return self.page
        return f"{self.page}, cell {self.number} ({self.node.get('id', 'no id')})"

    @property
    def source(self):
        return self.node.source

    @property
    def is_code(self):
        return self.node.cell_type == "code"

    @property
    def outputs(self):
        return self.node.get("outputs", [])

    @property
    def tags(self):
        return self.node.metadata.get("tags", [])

    @property
    def document(self):
        return read_markdown("" if self.node.cell_type != "markdown" else self.source)

    @property
    def code(self):
        """The source without IPython's magics, for ``ast``."""
        lines = self.source.splitlines()
        return "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in lines)

    @property
    def stdout(self):
        streams = [o.text for o in self.outputs if o.output_type == "stream" and o.name == "stdout"]
        return "".join(streams)

    @property
    def alt(self):
        return self.node.metadata.get("mystnb", {}).get("image", {}).get("alt", "")

    @property
    def caption(self):
        return self.node.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")

    @property
    def glue(self):
        """{name: text} of what the stored outputs hand to the prose."""
        values = {}
        for output in self.outputs:
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                values[name] = output.data.get(GLUE + "text/plain", "")
        return values


@dataclass(frozen=True)
class Page:
    """A chapter (a notebook) or a Markdown page."""

    path: Path

    @property
    def name(self):
        return self.path.stem

    @cached_property
    def notebook(self):
        if self.path.suffix == ".ipynb":
            return nbformat.read(self.path, as_version=4)
        text = self.path.read_text(encoding="utf-8")
        cell = nbformat.v4.new_markdown_cell(
            re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
        )
        return nbformat.v4.new_notebook(cells=[cell])

    @property
    def cells(self):
        first = 1 if self.path.suffix == ".ipynb" else 0
        nodes = enumerate(self.notebook.cells, first)
        return [Cell(self.path.name, number, node) for number, node in nodes]

    @property
    def code_cells(self):
        return [cell for cell in self.cells if cell.is_code]

    @property
    def documents(self):
        return [cell.document for cell in self.cells]

    @property
    def headings(self):
        return [heading for document in self.documents for heading in document.headings]


def chapters() -> list[Page]:
    """The executed notebooks."""
    return [Page(path) for path in sorted((ROOT / "book").glob("*.ipynb"))]


def pages() -> list[Page]:
    """All that is printed: the landing page, the chapters, the appendices."""
    texts = [ROOT / "index.md", *sorted((ROOT / "book").glob("*.md"))]
    return [Page(path) for path in texts if path.exists()] + chapters()
