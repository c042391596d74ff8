"""The website as a reader meets it: its pages on disk, and in a browser with no network.

Run after `make book`. Without a built site or without Chromium the tests are skipped on a reader's
machine and fail in CI.
"""

import base64
import functools
import http.server
import os
import re
import shutil
import threading
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from tools import publish

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
REPOSITORY = CONFIG["repository"]["url"]
PAGES = [TOC["root"]] + [page["file"] for part in TOC["parts"] for page in part["chapters"]]
CHAPTERS = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]

# What others' software, not the book, does wrong: axe rule, and words of the element's HTML.
EXCEPTIONS = {
    # docutils gives a list of citations the role "list", and its items "doc-biblioentry".
    ("aria-required-children", 'class="citation-list"'),
}


def unavailable(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def pages() -> dict[str, BeautifulSoup]:
    """Every page of the site, parsed, by its path in the site."""
    if not (SITE / "index.html").exists():
        unavailable("no site in _build/html; run: make book")
    found = {
        path.relative_to(SITE).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(SITE.rglob("*.html"))
        if "_static" not in path.parts
    }
    return found


# --- on disk -----------------------------------------------------------------------------------


def test_the_site_has_the_pages_of_the_table_of_contents(pages):
    assert {f"{page}.html" for page in PAGES} <= pages.keys()
    assert CHAPTERS, "the table of contents names no notebook"


def test_every_page_has_a_title_and_a_language(pages):
    bad = [
        name
        for name, page in pages.items()
        if not (page.title and page.title.get_text(strip=True)) or not page.html.get("lang")
    ]
    assert not bad


def test_every_internal_link_and_asset_resolves(pages):
    anchors = {
        name: {tag[key] for key in ("id", "name") for tag in page.find_all(attrs={key: True})}
        for name, page in pages.items()
    }
    broken = []
    for name, page in pages.items():
        for tag in page.find_all(["a", "link", "script", "img"]):
            address = tag.get("href") or tag.get("src")
            if not address or address == "#":
                continue
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(parts.path)
            target = (SITE / name).parent / path if path else SITE / name
            target = Path(os.path.normpath(target))
            key = target.relative_to(SITE).as_posix()
            if not target.is_file() or (
                parts.fragment and key in anchors and unquote(parts.fragment) not in anchors[key]
            ):
                broken.append(f"{name}: {address}")
    assert not broken


def test_every_image_has_an_alternative_text_that_says_something(pages):
    bad = []
    for name, page in pages.items():
        for image in page.find_all("img"):
            text = image.get("alt")
            # The logo stands beside the title and is empty on purpose.
            if text == "" and "logo__image" in image.get("class", []):
                continue
            if not text or "/" in text or re.search(r"\.(png|svg|jpe?g)$", text.strip()):
                bad.append(f"{name}: {image.get('src')} has alt={text!r}")
    assert not bad


def test_every_equation_of_a_chapter_has_a_mark_that_leads_to_its_check(pages):
    from tests.equations import load

    checks, seen = load(), set()
    for chapter in CHAPTERS:
        for block in pages[f"{chapter}.html"].select("article div.math"):
            label = block.get("id", "").removeprefix("equation-")
            assert label, f"{chapter}: a display equation without a label: {block.get_text()[:60]}"
            seen.add(label)
            mark = block.parent.select_one("a.check-mark")
            assert mark, f"{chapter}: equation ({label}) has no mark"
            assert mark["aria-label"] == mark["title"] == f"How equation {label} is checked"
            assert mark["href"] == f"equations.html#check-{label}"
            entry = pages["book/equations.html"].find(id=f"check-{label}")
            assert entry, f"{chapter}: the check of ({label}) is not in the appendix"
            assert checks[label].source.strip() in entry.select_one("pre").get_text()
    assert seen == checks.keys()


def test_the_checks_stand_in_the_order_of_the_book(pages):
    appendix = pages["book/equations.html"]
    found = [link.get_text(strip=True).strip("()") for link in appendix.select(".check-where a")]
    numbers = [tuple(map(int, one.split("."))) for one in found if re.fullmatch(r"[\d.]+", one)]
    assert len(numbers) == len(appendix.select("section.check"))
    assert numbers == sorted(numbers)
    for section in appendix.select("section[id^='checks-']"):
        chapter = pages[f"book/{section['id'].removeprefix('checks-')}.html"]
        title = section.h2.get_text().rstrip("#")
        assert chapter.article.h1.get_text().rstrip("#").endswith(f". {title}")


def test_no_description_in_the_reference_is_read_as_a_list_with_letters(pages):
    assert not pages["book/api.html"].select("dl ol")


def test_no_words_of_a_description_are_read_as_the_name_of_a_parameter(pages):
    fields = pages["book/api.html"].select("dl.field-list dd")
    names = [name.text for field in fields for name in field.select("p > strong:first-child")]
    assert len(names) > 300
    assert [name for name in names if not re.fullmatch(r"\*{0,2}\w+", name)] == []


def test_the_first_page_says_what_it_is_to_others(pages):
    head = pages["index.html"].head
    assert head.title.get_text(strip=True) == CONFIG["title"]
    about = head.select_one("meta[name='description']")["content"]
    assert about == head.select_one("meta[property='og:description']")["content"]
    assert head.select_one("meta[property='og:title']")["content"] == CONFIG["title"]


def test_the_first_page_shows_a_picture_of_the_last_chapter(pages):
    cells = nbformat.read(ROOT / "book/comparing-the-models.ipynb", as_version=4).cells
    [cell] = [cell for cell in cells if "front-page" in cell.metadata.get("tags", [])]
    [picture] = pages["index.html"].select("article img")
    assert picture["alt"] == cell.metadata.mystnb.image.alt
    [stored] = [output.data["image/png"] for output in cell.outputs if "data" in output]
    assert (SITE / picture["src"]).read_bytes() == base64.b64decode(stored)


def test_the_reference_lists_every_module_of_the_package(pages):
    listed = {tag["id"] for tag in pages["book/api.html"].select("[id^='module-companion.']")}
    modules = {
        f"module-companion.{path.stem}"
        for path in (ROOT / "companion").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"
    }
    # Below a folder only what its own page does not show: modules that are called by their name.
    assert modules == {name for name in listed if name.count(".") == 1}
    assert all(name.rpartition(".")[0] in modules for name in listed - modules)


def test_pages_offer_colab_binder_edit_and_issue(pages):
    owner = REPOSITORY.removeprefix("https://github.com/")
    for page in PAGES:
        links = {a.get("href", "") for a in pages[f"{page}.html"].find_all("a")}
        suffix = "ipynb" if page in CHAPTERS else "md"
        assert f"{REPOSITORY}/edit/main/{page}.{suffix}" in links, page
        assert any(link.startswith(f"{REPOSITORY}/issues/new") for link in links), page
        if page in CHAPTERS:
            colab = publish.read(ROOT).in_colab(Path(page).name)
            assert colab.endswith(f"/blob/colab/{page}.ipynb")
            assert [link for link in links if "colab.research" in link] == [colab], page
            binder = f"https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{page}.ipynb"
            assert binder in links, page


def test_colab_gets_the_same_chapters_in_plain_markdown():
    if not (SITE / "index.html").exists():
        unavailable("no site in _build/html; run: make book")
    for page in CHAPTERS:
        ours = nbformat.read(ROOT / f"{page}.ipynb", as_version=4)
        theirs = nbformat.read(SITE.parent / "plain" / f"{page}.ipynb", as_version=4)
        nbformat.validate(theirs)
        assert theirs.metadata.accelerator == "GPU"
        codes = [
            [(cell.source, len(cell.outputs)) for cell in notebook.cells if "outputs" in cell]
            for notebook in (ours, theirs)
        ]
        assert codes[0] == codes[1]
        words = "\n".join(cell.source for cell in theirs.cells if cell.cell_type == "markdown")
        left = re.findall(r"\{[a-z:-]+\}`.*?`|^:{3}.*|^\$\$ \(.*|\]\([^h)].*?\)", words, re.M)
        assert not left, f"{page}: {left}"


def test_the_first_page_says_how_to_cite_the_last_release(pages):
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    [entry] = [
        text
        for block in pages["index.html"].select("article pre")
        if (text := block.get_text()).startswith("@misc{")
    ]
    assert f"{{{cited['title']}}}" in entry
    assert f"Version {cited['version']}}}" in entry
    assert f"year   = {{{cited['date-released'].year}}}" in entry
    assert f"url    = {{{REPOSITORY}}}" in entry
    assert entry.count("{") == entry.count("}")


def test_the_repository_has_one_address():
    name = REPOSITORY.rsplit("/", 1)[1]
    texts = [ROOT / file for file in ("README.md", "index.md", "CONTRIBUTING.md", "CITATION.cff")]
    texts += [ROOT / "pyproject.toml", *ROOT.glob("book/*.*"), *ROOT.glob("companion/**/*.py")]
    other = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in filter(Path.is_file, texts)
        for found in re.finditer(rf"github(?:\.com)?/[\w.-]+/{name}\b", path.read_text("utf-8"))
        if found[0].split("/", 1)[1] != REPOSITORY.removeprefix("https://github.com/")
    ]
    assert not other, f"_config.yml says {REPOSITORY}, but: {other}"


# --- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(pages):
    """The site, served on localhost."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        unavailable("no Chromium found; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()


class Visit:
    """A browser tab that remembers what went wrong in it."""

    def __init__(self, browser, address, width=1300, scheme="light"):
        self.address, self.problems = address, []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        self.page.on("request", self._request)
        self.page.on("response", self._response)

    def _console(self, message):
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _request(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")

    def _response(self, response):
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def open(self, path):
        self.page.goto(f"{self.address}/{path}", wait_until="load")
        self.page.evaluate(
            "document.querySelector('.math') && window.MathJax && MathJax.startup.promise"
        )
        return self.page

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.context.close()


# Run in the page: what of its mathematics a reader would see unset.
UNSET = r"""() => {
  const problems = [];
  for (const math of document.querySelectorAll('.math'))
    if (!math.querySelector('mjx-container'))
      problems.push('not typeset: ' + math.textContent.slice(0, 80));
  for (const error of document.querySelectorAll('mjx-merror, [data-mjx-error]'))
    problems.push('error: ' + (error.dataset.mjxError || error.textContent));
  const text = document.querySelector('article').cloneNode(true);
  text.querySelectorAll('pre, code, script, style, mjx-container').forEach(e => e.remove());
  const raw = text.textContent.match(/.{0,30}(\$\$|\\\(|\\\[|\\begin\{|\\frac).{0,30}/);
  if (raw) problems.push('raw TeX: ' + raw[0]);
  return problems;
}"""

# Run in the page: the text that can hardly be seen on white paper.
PALE = r"""() => {
  const light = element => {
    const [r, g, b] = getComputedStyle(element).color.match(/[\d.]+/g).map(Number);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 140;
  };
  const written = element => [...element.childNodes].some(
    node => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
  return [...document.querySelectorAll('article *')]
    .filter(e => e.checkVisibility() && written(e) && light(e))
    .map(e => e.outerHTML.slice(0, 80));
}"""

# Run in the page: code, equations and tables that do not fit in their width, all unfolded.
TOO_WIDE = r"""() => {
  document.querySelectorAll('details').forEach(e => { e.open = true; });
  document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
  const wide = kind => [...document.querySelectorAll(kind)]
    .filter(e => e.scrollWidth > e.clientWidth + 1);
  const longest = e => e.textContent.split('\n').reduce((a, b) => a.length > b.length ? a : b);
  const math = wide('div.math mjx-container').map(e => e.closest('div.math').id);
  const tables = wide('.cell_output table, .pst-scrollable-table-container');
  return [...wide('[class*=highlight-][class*=python] pre').map(longest),
    ...math, ...tables.map(e => e.textContent.trim().slice(0, 60))];
}"""

VIEWS = pytest.mark.parametrize("scheme", ["light", "dark"])


@VIEWS
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_well(browser, address, page, width, scheme):
    with Visit(browser, address, width, scheme) as visit:
        tab = visit.open(f"{page}.html")
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        assert tab.evaluate(UNSET) == []
        if page in CHAPTERS:
            assert tab.locator(".math mjx-container").count() > 1
        overflow = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"the page scrolls sideways by {overflow} px"
        if width == 1280 and page != "book/api":
            assert tab.evaluate(TOO_WIDE) == []
        assert visit.problems == []


@pytest.mark.parametrize("width", [1300, 390])
def test_a_mark_is_beside_its_equation_and_opens_its_check(browser, address, width):
    with Visit(browser, address, width) as visit:
        tab = visit.open(f"{CHAPTERS[0]}.html")
        for row in tab.locator(".checked-equation").all():
            math = row.locator("div.math").bounding_box()
            mark = row.locator("a.check-mark").bounding_box()
            assert math["x"] + math["width"] <= mark["x"] + 1
            assert mark["x"] + mark["width"] <= width
        mark = tab.locator("a.check-mark").first
        anchor = mark.get_attribute("href").split("#")[1]
        mark.click()
        tab.wait_for_url(f"**/equations.html#{anchor}")
        assert tab.locator(f"#{anchor} pre").is_visible()


def test_search_finds_a_chapter(browser, address):
    with Visit(browser, address) as visit:
        tab = visit.open("search.html?q=autoregressive")
        tab.wait_for_selector("#search-results li a", timeout=10_000)
        found = [a.get_attribute("href") for a in tab.locator("#search-results li a").all()]
        assert any("book/autoregressive-models.html" in link for link in found)
        assert visit.problems == []


def test_a_page_printed_from_the_dark_is_dark_on_white(browser, address):
    with Visit(browser, address, scheme="dark") as visit:
        tab = visit.open(f"{CHAPTERS[0]}.html")
        tab.emulate_media(media="print", color_scheme="dark")
        pale = tab.evaluate(PALE)
        assert not pale, pale[:5]


def test_a_page_that_is_not_there_leads_to_the_first(browser, address):
    for path in ("404.html", "book/404.html"):
        with Visit(browser, address) as visit:
            visit.page.route(
                "**/book/404.html", lambda route: route.fulfill(path=SITE / "404.html")
            )
            tab = visit.open(path)
            tab.get_by_role("link").click()
            tab.wait_for_url(f"{address}/")
            assert tab.title() == CONFIG["title"]


@VIEWS
@pytest.mark.parametrize("page", [*PAGES, "search"])
def test_a_page_is_accessible(browser, address, page, scheme):
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    with Visit(browser, address, scheme=scheme) as visit:
        tab = visit.open(f"{page}.html?q=entropy" if page == "search" else f"{page}.html")
        if page == "search":
            tab.wait_for_selector("#search-results .highlighted", timeout=10_000)
        tab.evaluate(axe)
        result = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
        violations = [
            f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['html'][:120]}"
            for rule in result["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
            if not any(rule["id"] == name and words in node["html"] for name, words in EXCEPTIONS)
        ]
        assert not violations, "\n".join(violations)
