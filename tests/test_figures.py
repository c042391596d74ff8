"""The figures: drawn without a screen, and what they draw."""

import base64
import json
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib.colors import same_color
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from PIL import Image

from companion import figures
from companion.families import FAMILIES, QUESTIONS
from tests import contracts, test_site

browser = test_site.browser  # the fixture: Chromium, or a skip where there is none


@pytest.fixture(autouse=True)
def canvas(monkeypatch):
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)  # keeps the figure for the test to look at
    with plt.rc_context():
        figures.use_style()
        yield
    plt.close("all")


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 16)])
def test_image_rows_draw_each_image_once_under_its_label(shape):
    images = torch.arange(48).reshape(shape)
    figures.image_rows({"long": images, "short": images[:2]})
    axes = plt.gcf().axes
    drawn = [axis.images[0].get_array() for axis in axes if axis.images]
    assert [array.shape for array in drawn] == [(4, 4)] * 5
    assert (torch.tensor(drawn[1]) == torch.arange(16, 32).reshape(4, 4)).all()
    assert [text.get_text() for axis in axes for text in axis.texts] == ["long", "short"]
    assert not axes[-1].axison  # no empty frame where a row is shorter


@pytest.mark.parametrize(
    ("images", "black"),
    [
        (torch.full((1, 4), 0.1), 1),  # faint is drawn faint, whatever the largest value is
        (torch.tensor([[-0.3, 0.0, 1.1, 2.0]]), 1),
        (torch.zeros(1, 4, dtype=torch.uint8), 1),
        (torch.ones(1, 4, dtype=torch.long), 1),
        (torch.full((1, 4), 100, dtype=torch.uint8), 255),
    ],
)
def test_images_share_one_scale(images, black):
    figures.image_rows({"row": images})
    assert plt.gcf().axes[0].images[0].get_clim() == (0, black)


def test_a_matrix_counts_from_one():
    _, axis = plt.subplots()
    figures.matrix(axis, torch.eye(2, 3), "mask", xlabel="pixel")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "3"]
    assert axis.images[0].get_clim() == (0, 1)  # all zeros is white, not grey


def test_fields_of_view_colour_what_is_seen():
    seen = torch.zeros(9, dtype=torch.bool)
    seen[:2] = True
    figures.use_style()
    figures.fields_of_view({"one": seen, "all": torch.arange(9) < 4}, pixel=4, side=3)
    one, whole = plt.gcf().axes
    assert (one.get_title(), whole.get_title()) == ("one", "all")
    assert one.images[0].get_array().tolist() == [[1, 1, 2], [2, 0, 3], [3, 3, 3]]
    assert whole.images[0].get_array().tolist() == [[1, 1, 1], [1, 0, 3], [3, 3, 3]]
    names = [text.get_text() for text in plt.gcf().legends[0].get_texts()]
    assert names == ["guessed", "seen", "earlier, not seen", "later"]


def test_colours_are_distinct():
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(cycle)) == len(cycle) == 6


def test_roc_curves_differ_without_colour_and_chance_is_the_diagonal():
    rates = torch.linspace(0, 1, 5)
    figures.roc({name: (rates, rates ** (1 / power)) for power, name in enumerate("abcd", 1)})
    axis = plt.gca()
    *curves, chance = axis.lines
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [*"abcd", "chance"]
    assert curves[1].get_xdata() == pytest.approx(rates.numpy())  # false positives to the right
    assert curves[1].get_ydata() == pytest.approx(rates.sqrt().numpy())
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert chance.get_linestyle() == "--"
    assert len({str(line._dash_pattern) for line in axis.lines}) == 5
    plt.gcf().canvas.draw()
    box = axis.get_window_extent()
    assert box.width == pytest.approx(box.height)


def test_the_family_map_draws_every_answer_at_its_place():
    figures.family_map()
    axis = plt.gca()
    shapes = {"yes": ("o", "full"), "partly": ("o", "left"), "no": ("x", "full")}
    answers = [(column, a) for family in FAMILIES for column, a in enumerate(family.answers)]
    assert len(axis.lines) == len(answers)
    for mark, (column, answer) in zip(axis.lines, answers, strict=True):
        assert mark.get_xdata()[0] == column
        assert (mark.get_marker(), mark.get_fillstyle()) == shapes[answer.mark]
    heights = [line.get_ydata()[0] for line in axis.lines[:: len(QUESTIONS)]]
    names = {text.get_text(): text.get_position()[1] for text in axis.texts}
    assert [names[family.name] for family in FAMILIES] == heights == sorted(heights)
    assert {question.replace(" ", "\n", 1) for question in QUESTIONS} <= names.keys()
    assert [f"chapter {n}" in names for n in range(1, 7)] == [True] * 5 + [False]
    assert all(same_color(line.get_color(), "#595959") for line in axis.lines[5 * 4 :])


@pytest.mark.parametrize("draw", [figures.family_map, figures.variational_autoencoder])
def test_the_words_of_a_chart_are_readable_and_apart(draw):
    draw()
    figure, axis = plt.gcf(), plt.gca()
    figure.canvas.draw()
    [legend] = figure.legends or [axis.get_legend()]
    words = [text for text in axis.texts + legend.get_texts() if text.get_text()]
    assert min(text.get_fontsize() for text in words) >= 9
    boxes = [text.get_window_extent().padded(-1) for text in words]
    assert not [
        (a.get_text(), b.get_text())
        for i, a in enumerate(words)
        for j, b in enumerate(words[:i])
        if boxes[i].overlaps(boxes[j])
    ]
    inside = figure.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)


@pytest.fixture
def schematic():
    """The arrows of the variational autoencoder, and its other shapes by their names."""
    figures.variational_autoencoder()
    plt.gcf().canvas.draw()
    patches = plt.gca().patches
    arrows = [patch for patch in patches if isinstance(patch, FancyArrowPatch)]
    return arrows, {patch.get_gid(): patch for patch in patches if patch not in arrows}


def outline(arrow):
    """Its path on the screen, without the places that stand for "close this"."""
    path = arrow.get_transform().transform_path(arrow.get_path())
    drawn = path.codes != Path.CLOSEPOLY
    return Path(path.vertices[drawn], path.codes[drawn])


def test_gradients_flow_back_from_both_terms_and_never_into_the_noise(schematic):
    solid, dashed = set(), set()
    for arrow in schematic[0]:
        back = same_color(arrow.get_edgecolor(), figures.VERMILION)
        assert back == (arrow.get_linestyle() not in ("-", "solid"))  # told apart without colour
        ends = arrow.patchA.get_gid(), arrow.patchB.get_gid()
        (dashed if back else solid).add(ends)
    given = {("x", "encoder"), ("epsilon", "z"), ("x", "reconstruction")}
    row = ["encoder", "q", "z", "decoder", "p", "reconstruction"]
    assert solid == given | {*pairwise(row)} | {("q", "price")}
    assert dashed == {(end, start) for start, end in solid - given}
    assert not {"x", "epsilon"} & {end for _, end in dashed}


def test_the_words_of_the_variational_autoencoder_are_in_their_boxes(schematic):
    arrows, boxes = schematic
    homes = {name: box.get_window_extent() for name, box in boxes.items()}
    for text in plt.gca().texts:
        word = text.get_window_extent()
        around = [h for h in homes.values() if h.count_contains(word.corners()) == 4]
        assert around, f"{text.get_text()} leaves its box"
        for arrow in arrows:
            assert not outline(arrow).intersects_bbox(word.padded(2), filled=False)
    paper = plt.gca().get_window_extent()
    assert all(paper.count_contains(home.corners()) == 4 for home in homes.values())
    for inner in ("mu", "sigma"):
        assert homes["q"].count_contains(homes[inner].corners()) == 4
    said = " ".join(text.get_text() for text in plt.gca().texts)
    for word in ("picture", "encoder", "decoder", "probabilities", "price", "reconstruction"):
        assert said.count(word) == 1
    assert r"$\mu + \sigma \odot \epsilon$" in said
    assert r"$\epsilon \sim \mathcal{N}(0, I)$" in said


def test_the_arrows_of_the_variational_autoencoder_lead_from_border_to_border(schematic):
    arrows, boxes = schematic
    for arrow in arrows:
        path = outline(arrow)
        for box in boxes.values():
            assert not any(box.contains_point(point) for point in path.vertices)
        for end in (arrow.patchA, arrow.patchB):
            assert end.get_window_extent().padded(6).overlaps(path.get_extents())
        others = [outline(other) for other in arrows if other is not arrow]
        assert not any(path.intersects_path(other, filled=False) for other in others)
    row = [boxes[name].get_window_extent() for name in ("x", "encoder", "q", "z", "decoder", "p")]
    gaps = [right.x0 - left.x1 for left, right in pairwise(row)]
    assert gaps == pytest.approx([gaps[0]] * 5, abs=0.5)  # pixels


# --- slider ------------------------------------------------------------------------------------

VALUES = [-1.5, 0, 0.25, 2]


def line(value):
    """Draws as a chapter would, in a figure of its own."""
    _, axes = plt.subplots(1, 2)
    axes[0].plot([0, value])
    axes[1].fill_between([0, 1], [0, value], color=figures.SKY)
    return f'A line from nought to "{value}", & below it <a wedge>'


@pytest.fixture
def shown(monkeypatch):
    """The bundles that have been displayed."""
    import IPython.display

    bundles = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def pictures(html):
    """What the <img>s of a page hold."""
    found = []
    for image in BeautifulSoup(html, "html.parser").find_all("img"):
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        found.append(Image.open(BytesIO(data)))
    return found


def test_a_slider_shows_the_chosen_picture_and_no_other(shown):
    figures.slider(VALUES, line, name="the <slope>", start=0.25)
    [bundle] = shown
    page = BeautifulSoup(bundle["text/html"], "html.parser")
    frames = [image.parent for image in page.select("img")]
    assert ["hidden" in frame.attrs for frame in frames] == [True, True, False, True]
    assert [frame.img["alt"] for frame in frames] == [line(value) for value in VALUES]
    handle = page.label.input
    assert (handle["type"], handle["max"], handle["value"]) == ("range", "3", "2")
    assert json.loads(handle["data-texts"]) == ["−1.5", "0", "0.25", "2"]
    assert page.label.get_text() == "the <slope>"
    assert page.output.get_text() == handle["aria-valuetext"] == "0.25"
    assert not page.select("script, [id]")  # nothing to load, and nothing to be there twice
    assert bundle["text/plain"] == "slider: the <slope>, 4 positions"


def test_a_slider_is_the_same_each_time_and_leaves_no_figure(shown):
    other = plt.figure()
    for _ in range(2):
        figures.slider(VALUES, line, name="slope")
    assert shown[0] == shown[1]
    assert plt.get_fignums() == [other.number]
    assert not other.axes


def test_the_pictures_of_a_slider_are_small_and_on_white(shown):
    figures.slider(torch.linspace(-3, 3, 25), line, name="slope", start=0)
    html = shown[0]["text/html"]
    assert len(html) < 250_000
    for picture in pictures(html):
        assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (576, 288))
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_a_slider_keeps_the_colours_of_the_palette(shown):
    figures.slider([1, 2], line, name="slope")
    picture = pictures(shown[0]["text/html"])[0]
    found = {color for _, color in picture.convert("RGB").getcolors()}
    for wanted in (figures.BLUE, figures.SKY, figures.BLACK):
        rgb = bytes.fromhex(wanted[1:])
        assert min(max(abs(a - b) for a, b in zip(rgb, c, strict=True)) for c in found) <= 8


def test_a_start_is_found_as_it_is_printed(shown):
    figures.slider([n * 0.1 for n in range(5)], line, name="slope", start=0.3)  # 3 * 0.1 > 0.3
    figures.slider(["on-off", "off"], lambda v: line(1), name="light", form="{}")
    outputs = [BeautifulSoup(b["text/html"], "html.parser").output for b in shown]
    assert [output.get_text() for output in outputs] == ["0.3", "on−off"]


@pytest.mark.parametrize(
    ("values", "draw", "start", "message"),
    [
        ([], line, None, "'slope': no values"),
        (VALUES, line, 1, "start 1 is not among −1.5, 0, 0.25, 2"),
        (VALUES, lambda v: line(v)[:29], None, "'slope' at −1.5: draw must say what is seen"),
        (VALUES, lambda v: plt.plot([v]) and None, None, "draw must say what is seen, not None"),
        (VALUES, lambda v: (line(v), plt.close())[0], None, "draw left no picture"),
        (VALUES, lambda v: (line(v), plt.gcf().set_figwidth(5 + v))[0], None, "several sizes"),
    ],
    ids=["no values", "start", "short", "none", "nothing drawn", "sizes"],
)
def test_a_slider_refuses(shown, values, draw, start, message):
    with pytest.raises(ValueError, match=message):
        figures.slider(values, draw, name="slope", start=start)
    assert not shown


# Style sheets of notebooks and of the website set how pictures are displayed and how large: that
# must neither bring back hidden ones nor shrink a sheet of which a part is seen.
PAGE = """<!doctype html><html lang="en"><head><title>Slider</title><style>
* {{box-sizing: border-box}} figure {{padding: 8px}}
img {{display: block; max-width: 100%; height: auto}}
</style></head><body><main><h1>Slider</h1>{}</main></body></html>"""


@pytest.mark.parametrize("width", [1300, 390])
def test_a_slider_moves_without_a_kernel(shown, browser, width):
    figures.slider([7, 8], line, name="another")
    figures.slider(VALUES, line, name="slope", start=0)
    html = PAGE.format("".join(bundle["text/html"] for bundle in shown))
    with test_site.Visit(browser, "data:", width) as visit:
        tab = visit.page
        tab.set_content(html)
        other, figure = tab.locator("figure").all()
        handle = figure.get_by_role("slider", name="slope", exact=True)

        def visible():
            [picture] = figure.locator("img:visible").all()
            return picture.get_attribute("alt")

        def reads(value, text):
            assert visible() == line(value)
            assert figure.locator("output").text_content() == text
            assert handle.get_attribute("aria-valuetext") == text

        reads(0, "0")
        handle.focus()
        for key, value, text in [
            ("ArrowRight", 0.25, "0.25"),
            ("ArrowRight", 2, "2"),
            ("ArrowRight", 2, "2"),
            ("Home", -1.5, "−1.5"),
            ("End", 2, "2"),
            ("ArrowLeft", 0.25, "0.25"),
        ]:
            tab.keyboard.press(key)
            reads(value, text)
        assert other.locator("img:visible").get_attribute("alt") == line(7)
        assert other.locator("output").text_content() == "7"

        assert figure.locator("img:visible").bounding_box()["width"] == min(576, width - 16)
        reads_well(visit)


def reads_well(visit):
    tab = visit.page
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    tab.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    assert tab.evaluate("axe.run().then(result => result.violations)") == []
    assert visit.problems == []


# --- explorer ----------------------------------------------------------------------------------

LABEL = 'Grey squares, darker to the "right" & <below>, each with a black corner'


def grid(rows=3, columns=4, side=5):
    """Each picture in a grey of its own, level columns * row + column + 1 of 15; its top right
    pixel is black."""
    levels = torch.arange(1, rows * columns + 1).reshape(rows, columns, 1, 1)
    images = (levels / 15).repeat(1, 1, side, side)
    images[..., 0, -1] = 1
    return images


def test_an_explorer_is_one_sheet_of_greys_with_the_pictures_in_place(shown):
    figures.explorer(grid(), label=LABEL)
    [sheet] = pictures(shown[0]["text/html"])
    assert (sheet.format, sheet.mode, sheet.size) == ("PNG", "P", (20, 15))
    drawn = torch.tensor(np.array(sheet.convert("L"))).reshape(3, 5, 4, 5)
    assert torch.equal(drawn.transpose(1, 2), 255 - (255 * grid()).round().int())


def test_an_explorer_names_its_sliders_and_says_what_it_shows(shown):
    z = torch.linspace(-1.5, 1.5, 4)
    figures.explorer(grid(), label=LABEL, names=("a<b", "c"), values=([-1, -1e-9, 1], z))
    [bundle] = shown
    page = BeautifulSoup(bundle["text/html"], "html.parser")
    assert [tag.get_text() for tag in page.select("label")] == ["a<b", "c"]
    assert [tag["max"] for tag in page.select("input")] == ["2", "3"]
    assert [json.loads(tag["data-texts"]) for tag in page.select("input")] == [
        ["−1.00", "0.00", "1.00"],
        ["−1.50", "−0.50", "0.50", "1.50"],
    ]
    assert [tag.get_text() for tag in page.select("output")] == ["0.00", "0.50"]  # the middle
    assert [tag["aria-valuetext"] for tag in page.select("input")] == ["0.00", "0.50"]
    assert page.img["alt"] == LABEL
    assert not page.select("script, [id]")
    assert bundle["text/plain"] == "explorer: a<b and c, 3 × 4 pictures"
    figures.explorer(grid(), label=LABEL, names=("a<b", "c"), values=([-1, -1e-9, 1], z))
    assert shown[1] == bundle


def test_figures_without_a_kernel_keep_the_contract_on_alt_texts(shown):
    figures.explorer(grid(), label=LABEL)
    figures.slider(VALUES, line, name="slope")

    def problems(*bundles):
        cell = SimpleNamespace(
            outputs=[{"data": bundle} for bundle in bundles], document=SimpleNamespace(images=[])
        )
        return list(contracts.figure_problems(SimpleNamespace(cells=[cell])))

    assert problems(*shown) == []
    assert len(problems({"text/html": shown[0]["text/html"].replace("alt=", "title=")})) == 1


def test_an_explorer_starts_where_it_is_told(shown):
    figures.explorer(grid(), label=LABEL, start=(3, 1))  # counted from one
    z = [n * 0.1 for n in range(4)]
    figures.explorer(grid(), label=LABEL, values=("abc", range(4)), start=("a", 0), form="{}")
    figures.explorer(grid(), label=LABEL, values=(z[:3], z), start=(0, 0.3))
    outputs = [
        BeautifulSoup(bundle["text/html"], "html.parser").select("output") for bundle in shown
    ]
    assert [[tag.get_text() for tag in pair] for pair in outputs] == [
        ["3", "1"],
        ["a", "0"],
        ["0.00", "0.30"],
    ]


def test_a_large_explorer_stays_small(shown):
    """Strokes with soft edges, as a decoder draws them, 15 × 15 of 28 × 28."""
    z = torch.linspace(-2, 2, 15)
    y, x = torch.meshgrid(2 * [torch.linspace(-1, 1, 28)], indexing="ij")
    a, b = z[:, None, None, None], z[:, None, None]
    ring = (x**2 + (1 + 0.2 * a) * y**2).sqrt() - 0.5
    images = torch.exp(-((8 * (ring + 0.1 * b * torch.sin(4 * x + 2 * a * y))) ** 2))
    figures.explorer(images, label=LABEL)
    assert pictures(shown[0]["text/html"])[0].size == (420, 420)
    assert len(shown[0]["text/html"]) < 75_000
    noise = torch.rand(15, 15, 28, 28, generator=torch.Generator().manual_seed(0))
    figures.explorer(noise, label=LABEL)  # the worst: four bits to a pixel
    assert len(shown[1]["text/html"]) < 125_000


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (
            grid()[0],
            {},
            r"'z1' × 'z2': images of shape \(4, 5, 5\), not \(rows, columns, side, side",
        ),
        (grid()[..., :4], {}, r"images of shape \(3, 4, 5, 4\)"),
        (grid()[:0], {}, r"images of shape \(0, 4, 5, 5\)"),
        (grid() + 0.1, {}, r"images from 0.166667 to 1.1, not within \[0, 1\]"),
        (grid() - 0.1, {}, r"images from -0.0333333 to 0.9, not within"),
        (grid() * torch.nan, {}, "images from nan to nan, not within"),
        (grid(), {"values": (range(4), range(3))}, "4 and 3 values for 3 rows and 4 columns"),
        (grid(), {"start": (4, 1)}, "'z1' × 'z2', z1: start 4 is not among 1, 2, 3$"),
        (grid(), {"start": (1, 0)}, "z2: start 0 is not among 1, 2, 3, 4$"),
        (grid(), {"label": "digits"}, "label must say what is seen, not 'digits'"),
    ],
    ids=["rank", "square", "empty", "above", "below", "nan", "values", "row", "column", "label"],
)
def test_an_explorer_refuses(shown, images, settings, message):
    with pytest.raises(ValueError, match=message):
        figures.explorer(images, **{"label": LABEL} | settings)
    assert not shown


@pytest.mark.parametrize("width", [1300, 390])
def test_an_explorer_moves_without_a_kernel(shown, browser, width):
    figures.explorer(grid(), label=LABEL, names=("u", "v"))
    figures.explorer(grid(), label=LABEL, values=([-1, 0, 1], [-3, -1, 1, 3]), start=(0, -3))
    html = PAGE.format("".join(bundle["text/html"] for bundle in shown))
    with test_site.Visit(browser, "data:", width) as visit:
        tab = visit.page
        tab.set_content(html)
        other, figure = tab.locator("figure").all()

        def sees(figure, row, column):
            """The picture at this place fills the window to its edges."""
            box = figure.locator("img").locator("..").bounding_box()
            inside = {k: box[k] + (1 if k in "xy" else -2) for k in box}  # without the frame
            seen = Image.open(BytesIO(tab.screenshot(clip=inside))).convert("L")
            assert seen.size == (195, 195)  # 39 screen pixels to each of 5
            grey = 255 - 17 * (4 * row + column + 1)
            assert sorted(seen.getcolors()) == sorted([(39 * 39, 0), (195 * 195 - 39 * 39, grey)])
            assert seen.crop((156, 0, 195, 39)).getcolors() == [(39 * 39, 0)]

        sees(figure, 1, 0)
        sees(other, 1, 2)
        for name, key, row, column, texts in [
            ("z1", "ArrowRight", 2, 0, ["1.00", "−3.00"]),
            ("z2", "ArrowRight", 2, 1, ["1.00", "−1.00"]),
            ("z2", "End", 2, 3, ["1.00", "3.00"]),
            ("z1", "Home", 0, 3, ["−1.00", "3.00"]),
            ("z2", "ArrowLeft", 0, 2, ["−1.00", "1.00"]),
        ]:
            handle = figure.get_by_role("slider", name=name, exact=True)
            handle.focus()
            tab.keyboard.press(key)
            sees(figure, row, column)
            assert figure.locator("output").all_text_contents() == texts
            assert handle.get_attribute("aria-valuetext") == texts[name == "z2"]
        sees(other, 1, 2)
        assert other.locator("output").all_text_contents() == ["2", "3"]
        reads_well(visit)
