"""Write chapters in plain Markdown, for where MyST is not read, as in Colab.

    python tools/plain.py          after make book; into _build/plain

On the website MyST puts numbers, citations and boxes where a chapter has roles and directives;
Colab would show `{glue:text}` and `:::{exercise}` as they are written. Here they are replaced by
what the website printed in their place, and links to chapters lead to Colab. Code and outputs stay
the same. A workflow pushes the result to the branch `colab`, to which the pages' buttons lead.
"""

import argparse
import ast
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import publish  # after the path: this file is also called by its name

ROOT = Path(__file__).resolve().parents[1]
SITE, OUT = ROOT / "_build" / "html", ROOT / "_build" / "plain"
GLUE = "application/papermill.record/text/plain"
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]+)`")
OPENING = re.compile(r"(:{3,})\{([a-z-]+)\}\s*(.*)")
OPTION = re.compile(r":[\w-]+:.*")
LABELLED = re.compile(r"(.*\$\$) \(([a-z0-9-]+)\)")
TARGET = re.compile(r"\([a-z0-9-]+\)=")
LINK = re.compile(r"\[([^]]*)\]\(([\w-]+\.ipynb|#[\w-]+)\)")
CODE = re.compile(r"\s*(`{3,}|~{3,})")


class PlainError(Exception):
    """A chapter that cannot be put into plain Markdown; the message says where and why."""


class Printed:
    """What the website printed in place of a chapter's roles.

    Args:
        name:     of the chapter.
        pages:    all pages of the website, by their names.
        notebook: the chapter, whose outputs hold the numbers of its prose.
    """

    def __init__(self, name: str, pages: dict[str, BeautifulSoup], notebook):
        self.book = publish.read(ROOT)
        self.article = pages[name].select_one("article")
        self.equations = {
            block["id"].removeprefix("equation-"): text(block.select_one(".eqno")).rstrip("#")
            for page in pages.values()
            for block in page.select("article div.math[id]")
            if block.select_one(".eqno")
        }
        self.citations = iter(self.article.select("span.bibtex-citation"))
        self.works = {
            work["id"]: text(work.p) for work in pages["bibliography"].select("div.citation")
        }
        self.cited: dict[str, None] = {}
        self.glued = {
            name: ast.literal_eval(output.data[GLUE])
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if (name := output.get("metadata", {}).get("scrapbook", {}).get("name"))
        }
        self.exercises = {
            box["id"]: text(box.select_one(".admonition-title"))
            for box in self.article.select("div.exercise")
        }

    def link(self, words: str, target: str) -> str:
        """What stands in place of a link to a chapter, or to a place in one."""
        if target.startswith("#"):
            return words
        return f"[{words}]({self.book.in_colab(target.removesuffix('.ipynb'))})"

    def role(self, name: str, target: str) -> str:
        """What stands in place of a role."""
        if name == "glue:text":
            return self.glued[target]
        if name == "eq":
            return self.equations[target]
        if name in ("cite:p", "cite:t"):
            citation = next(self.citations, None)
            if citation is None:
                raise KeyError(f"{target}, which the page does not cite")
            links = citation.select("a[href*='#']")
            self.cited |= {self.works[link["href"].rpartition("#")[2]]: None for link in links}
            return text(citation)
        if name in ("term", "doc", "ref", "abbr"):
            return target.partition("<")[0].strip()
        if name == "numref":
            return text(self.article.select_one(f"a[href$='#{target}']"))
        raise KeyError(name)


def text(element: Tag) -> str:
    """The words of an element, on one line."""
    return " ".join(element.get_text().split())


def plain(source: str, printed: Printed) -> str:
    """MyST Markdown as plain Markdown."""
    return "\n".join(_plain(iter(source.split("\n")), printed)).strip("\n")


def _plain(lines: Iterator[str], printed: Printed) -> Iterator[str]:
    for line in lines:
        if fence := CODE.match(line):
            yield line
            yield from _until(lines, lambda each, end=fence[1]: each.strip() == end)
        elif found := OPENING.fullmatch(line):
            body = [*_until(lines, lambda each, end=found[1]: each == end)][:-1]
            yield from _directive(found[2], found[3], body, printed)
        elif found := LABELLED.fullmatch(line):  # $$ (label)
            yield from (rf"\tag{{{printed.equations[found[2]].strip('()')}}}", found[1])
        elif not TARGET.fullmatch(line):
            yield _inline(line, printed)


def _inline(line: str, printed: Printed) -> str:
    line = ROLE.sub(lambda role: printed.role(role[1], role[2]), line)
    return LINK.sub(lambda link: printed.link(link[1], link[2]), line)


def _until(lines: Iterator[str], ends: Callable[[str], bool]) -> Iterator[str]:
    """The lines up to one that ends a block, and that one."""
    for line in lines:
        yield line
        if ends(line):
            return


def _directive(name: str, title: str, body: list[str], printed: Printed) -> Iterator[str]:
    options = []
    while body and OPTION.fullmatch(body[0]):
        options.append(body.pop(0))
    inner = [*_plain(iter(body), printed)]
    while inner and not inner[0]:
        inner.pop(0)
    title = _inline(title, printed)
    if name == "exercise":
        [label] = [option.split()[1] for option in options if option.startswith(":label:")]
        yield from (f"### {printed.exercises[label]}", "", *inner)
    elif name == "solution-start":
        yield f"#### Solution to {printed.exercises[title]}"
    elif name == "solution-end":
        yield from ()
    elif name == "table":
        yield from (f"**Table.** {title}", "", *inner)
    elif name in ("admonition", "warning", "note", "tip"):
        quoted = (f"> {line}".rstrip() for line in inner)
        yield from (f"> **{title or name.capitalize()}**", ">", *quoted)
    else:
        raise KeyError(name)


def chapter(name: str, pages: dict[str, BeautifulSoup], notebook):
    """A chapter in plain Markdown.

    Args:   as in `Printed`.
    Raises: PlainError for what MyST knows and this does not, and if the page is of another text.
    """
    printed = Printed(name, pages, notebook)
    result = nbformat.from_dict(notebook)
    solved = False
    for cell in result.cells:
        try:
            if cell.cell_type == "markdown":
                solved = "{solution-start}" in cell.source or (
                    solved and "{solution-end}" not in cell.source
                )
                cell.source = plain(cell.source, printed)
            elif solved:
                cell.metadata["cellView"] = "form"  # Colab folds the code
            for output in cell.get("outputs", []):
                if "text/markdown" in output.get("data", {}):
                    output.data["text/markdown"] = plain(output.data["text/markdown"], printed)
        except (KeyError, ValueError) as error:
            raise PlainError(f"cell {cell.id}: {type(error).__name__} {error}") from None
    if left := [*printed.citations]:
        raise PlainError(f"the page cites {len(left)} times more often than the notebook")
    result.cells = [cell for cell in result.cells if cell.source]
    works = "\n".join(f"- {work}" for work in sorted(printed.cited))
    # Colab then begins on a GPU of its own accord.
    result.metadata |= {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}
    result.cells.append(nbformat.v4.new_markdown_cell(f"## References\n\n{works}", id="references"))
    return result


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args(arguments)
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "book").mkdir(parents=True)
    pages = {
        path.stem: BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted((SITE / "book").glob("*.html"))
    }
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        try:
            made = chapter(path.stem, pages, nbformat.read(path, as_version=4))
        except PlainError as error:
            print(f"{path.name} has no plain form: {error}", file=sys.stderr)
            return 1
        nbformat.write(made, OUT / "book" / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
