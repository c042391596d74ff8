"""tools/plain.py: what Colab shows in place of roles and directives is what the website printed."""

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import plain, publish
from tools.plain import PlainError

PAGE = """
<article>
  <div class="math" id="equation-chain-rule"><span class="eqno">(2.3)<a>#</a></span> p </div>
  <span class="bibtex-citation">[<a href="bibliography.html#id2">Frey, 1998</a>,
    <a href="bibliography.html#id3">Neal <em>et al.</em>, 1992</a>]</span>
  <div class="exercise" id="ex-one"><p class="admonition-title">Exercise 2.1 (Counting)</p></div>
  <a href="#tbl-scores">Table 2.1</a>
</article>
"""
OTHER = (
    '<article><div class="math" id="equation-elbo"><span class="eqno">(3.1)</span></div></article>'
)
WORKS = """
<article>
  <div class="citation" id="id2"><p>Brendan Frey. <em>Models</em>. 1998.</p></div>
  <div class="citation" id="id3"><p>Radford Neal. Networks. 1992.</p></div>
</article>
"""
CITED = "As was known {cite:p}`frey1998graphical,neal1992connectionist`."


def number(name, text):
    data = {plain.GLUE: repr(text)}
    return new_output("display_data", data=data, metadata={"scrapbook": {"name": name}})


@pytest.fixture
def written():
    """The plain form of a chapter with these Markdown cells, as a list of its cells."""

    def write(*sources, cited=CITED):
        pages = {"here": PAGE, "there": OTHER, "bibliography": WORKS}
        pages = {name: BeautifulSoup(html, "html.parser") for name, html in pages.items()}
        code = new_code_cell("nll = 97.2", outputs=[number("nll", "97.2")])
        cells = [new_markdown_cell(source) for source in (*sources, cited) if source]
        return plain.chapter("here", pages, new_notebook(cells=[code, *cells])).cells

    return write


def test_a_number_is_the_one_of_the_outputs(written):
    assert written("It is {glue:text}`nll` nats.")[1].source == "It is 97.2 nats."


def test_an_equation_is_numbered_as_on_the_website(written):
    block = written("so\n\n$$\np(x) = 1\n$$ (chain-rule)\n\nBy {eq}`chain-rule` and {eq}`elbo`,")
    assert block[1].source == "so\n\n$$\np(x) = 1\n\\tag{2.3}\n$$\n\nBy (2.3) and (3.1),"


def test_a_citation_is_printed_and_listed(written):
    *_, cell, references = written()
    assert cell.source == "As was known [Frey, 1998, Neal et al., 1992]."
    assert references.source == (
        "## References\n\n- Brendan Frey. Models. 1998.\n- Radford Neal. Networks. 1992."
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            ":::{admonition} In short\n:class: tip\n\n- $x$\n\n- y\n:::",
            "> **In short**\n>\n> - $x$\n>\n> - y",
        ),
        (":::{warning}\nNo {glue:text}`nll`.\n:::", "> **Warning**\n>\n> No 97.2."),
        (
            ":::{table} Scores {eq}`elbo`.\n:name: t\n\n| a |\n|---|\n:::",
            "**Table.** Scores (3.1).\n\n| a |\n|---|",
        ),
        (
            ":::{exercise} Counting\n:label: ex-one\n\nCount.\n:::",
            "### Exercise 2.1 (Counting)\n\nCount.",
        ),
        (
            ":::{solution-start} ex-one\n:class: dropdown\n:::\n\nOne.",
            "#### Solution to Exercise 2.1 (Counting)\n\nOne.",
        ),
        ("{term}`mode-seeking` and {numref}`tbl-scores`", "mode-seeking and Table 2.1"),
        ("(a-place)=\n## Here", "## Here"),
        ("[above](#a-place), [far](https://example.org)", "above, [far](https://example.org)"),
    ],
)
def test_boxes_and_words(written, source, expected):
    assert written(source)[1].source == expected


def test_a_link_to_a_chapter_leads_to_colab(written):
    link = publish.read(plain.ROOT).in_colab("there")
    assert written("[before](there.ipynb)")[1].source == f"[before]({link})"


def test_code_is_left_as_it_is(written):
    source = "```python\n{eq}`elbo`\n:::{warning}\n$$ (x)\n```"
    assert written(source)[1].source == source


def test_the_code_of_a_solution_is_folded(written):
    pages = {"here": PAGE, "bibliography": WORKS}
    pages = {name: BeautifulSoup(html, "html.parser") for name, html in pages.items()}
    cells = [
        new_markdown_cell(CITED),
        new_code_cell("attempt"),
        new_markdown_cell(":::{solution-start} ex-one\n:::"),
        new_code_cell("solution"),
        new_markdown_cell(":::{solution-end}\n:::"),
        new_code_cell("next"),
    ]
    made = plain.chapter("here", pages, new_notebook(cells=cells)).cells
    folded = {cell.source for cell in made if cell.metadata.get("cellView") == "form"}
    assert folded == {"solution"}
    assert "" not in [cell.source for cell in made]


def test_tables_that_a_cell_puts_out_are_plain_too(written):
    data = {"text/markdown": "| {cite:t}`frey1998graphical` |", "text/plain": "x"}
    pages = {"here": PAGE, "bibliography": WORKS}
    pages = {name: BeautifulSoup(html, "html.parser") for name, html in pages.items()}
    cell = new_code_cell("table()", outputs=[new_output("display_data", data=data)])
    made = plain.chapter("here", pages, new_notebook(cells=[cell])).cells[0]
    assert made.outputs[0].data["text/markdown"] == "| [Frey, 1998, Neal et al., 1992] |"
    assert cell.outputs[0].data["text/markdown"] == data["text/markdown"]  # a copy was changed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{glue:text}`gone`", "KeyError 'gone'"),
        ("{eq}`gone`", "KeyError 'gone'"),
        ("{download}`file`", "KeyError 'download'"),
        (":::{mermaid}\nx\n:::", "KeyError 'mermaid'"),
        (CITED, "KeyError .*which the page does not cite"),
    ],
)
def test_what_it_does_not_know_is_refused_by_cell(written, source, message):
    with pytest.raises(PlainError, match=f"cell [a-z0-9]+: {message}"):
        written(source)


def test_a_page_that_cites_more_is_of_another_text(written):
    with pytest.raises(PlainError, match="cites 1 times more often"):
        written("x", cited="")


def test_colab_is_asked_for_a_gpu():
    page = BeautifulSoup("<article></article>", "html.parser")
    pages = {"here": page, "bibliography": page}
    made = plain.chapter("here", pages, new_notebook())
    assert made.metadata["accelerator"] == "GPU"
    nbformat.validate(made)
