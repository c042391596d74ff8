"""Contract 3 on the book; what the lint itself accepts and refuses."""

import nbformat
import pytest

from tests.book import Page, pages
from tests.prose import prose_problems


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.path.name)
def test_every_number_is_computed_or_cited(page):
    problems = prose_problems(page)
    assert not problems, "\n" + "\n".join(problems)


@pytest.fixture
def lint(tmp_path):
    def numbers(markdown):
        path = tmp_path / "page.md"
        path.write_text(markdown, encoding="utf-8")
        return [
            p.split("bare number ")[1].split(": compute")[0] for p in prose_problems(Page(path))
        ]

    return numbers


@pytest.mark.parametrize(
    "markdown",
    [
        "Two of 9 digits, 0 or 1, in 2-D; a 3rd. See the 5×5 kernels, halves (1/2), 0–9.",
        "There are {glue:text}`images` images, {glue:text}`share` % of them white.",
        "About {glue:text}`x` million, or {glue:text}`y`-dimensional, {glue:text}`z`‑bit.",
        "{cite:t}`uria2016` report 88.33 nats on 10,000 images.",
        "They reach 88.33 nats {cite:p}`uria2016`. We reach {glue:text}`nll`.",
        "In float64, `torch.float32`, PixelCNN++, CIFAR-10 and MNIST. `x = 784`",
        "Addresses: <https://a.org/784>, https://a.org/12.5 and [a link](https://a.org/31).",
        r"Let $x_1, \dots, x_D$ and $\frac12 + \tfrac34 x^{2} \in \{0,1\}^D$, $x_{1,2}$, $2^D$.",
        "## 2.1 The chain rule",
        "1. first\n2. second\n10. tenth\n",
        "```python\nx = 0.809\n```",
        "$$\nx = 784\n$$ (label)",
        "```{figure} a-28.png\n:width: 600px\n:alt: A row of digits.\n\nDigits.\n```",
        "```{code-block} python\nx = 28\n```",
        "% 784 in a comment\n\n(target-12)=\n",
        "{ref}`ex-12`, {eq}`chain-rule-28` and {doc}`chapter-10`.",
        "| model | nats |\n|---|---|\n| MADE {cite:p}`germain2015` | 88.04 |",
        "---\ntitle: 28\n---\n\nText.",
        ":::{div} big-12\n:class: a-12\nText.\n:::",
    ],
)
def test_accepted(lint, markdown):
    assert lint(markdown) == []


@pytest.mark.parametrize(
    ("markdown", "numbers"),
    [
        ("It reaches 0.809 nats.", ["0.809"]),
        ("It reaches .5 nats.", [".5"]),
        ("An image has 784 pixels.", ["784"]),
        ("An image has **784** pixels.", ["784"]),
        ("An image has 28×28 pixels, 784-dimensional.", ["28", "28", "784"]),
        ("There are 50,000 images and 1e5 steps, 5k of each.", ["50,000", "1e5", "5k"]),
        ("There are 50\u202f000 images.", ["50\u202f000"]),
        ("It keeps 9 % of a hundred thousand.", ["%", "hundred", "thousand"]),
        ("Five percent; 5 per cent.", ["percent", "per cent"]),
        ("All thirty patterns.", ["thirty"]),
        ("It scores {glue:text}`a` nats, that is 92.1.", ["92.1"]),
        ("{cite:t}`uria2016` say 88.3. We measure 92.1 nats.", ["92.1"]),
        ("They say so (e.g. {cite:p}`uria2016`). It is 92.1.", ["92.1"]),
        ("In 2016 came NADE (K=50).", ["2016", "50"]),
        ("An $x$ of $784$ pixels, $28 \\times 28$, $2^{784}$.", ["784", "28", "28", "784"]),
        ("A rate of $0.5$, $10^{-3}$, $50{,}000$, $5\\%$.", ["0.5", "10", "50000", "\\%"]),
        ("{math}`2^{784}`", ["784"]),
        ("Hidden as code, `0.809`.", ["0.809"]),
        ("## The 784 pixels", ["784"]),
        ("- a list of 12\n  - and 13\n", ["12", "13"]),
        ("> quoted 12", ["12"]),
        ("<b>12</b>", ["12"]),
        ("<div>12</div>", ["12"]),
        ("![A grid of 64 digits](a.png)", ["64"]),
        ("A [link to 12](https://a.org).", ["12"]),
        ("{ref}`the 12th <target>`", ["12"]),
        ("| a | 12 |\n|---|---|\n| b | 13 |", ["12", "13"]),
        ("```{figure} a.png\n:alt: A grid of 64 digits\n\nThe 65 digits.\n```", ["64", "65"]),
        ("```{note} Note 12\n13\n```", ["13"]),
        ("```{exercise} The 12th\n:label: ex-a\n\nCount 13.\n```", ["12", "13"]),
        ("::::{grid} 1 1 2 12\n:::{grid-item-card} Of 14\nSome 15.\n:::\n::::", ["14", "15"]),
        ("A note.[^1]\n\n[^1]: Of 12.", ["12"]),
    ],
)
def test_refused(lint, markdown, numbers):
    assert sorted(lint(markdown)) == sorted(numbers)


def test_alt_texts_and_captions_of_cells_are_prose(tmp_path):
    image = {"image": {"alt": "A grid of 64 digits."}, "figure": {"caption": "65 digits."}}
    cell = nbformat.v4.new_code_cell("x", metadata={"mystnb": image}, id="grid")
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    first, second = prose_problems(Page(path))
    assert first.startswith("chapter.ipynb, cell 1 (grid): “A grid of 64 digits.”: bare number 64:")
    assert "bare number 65" in second
