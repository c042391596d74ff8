"""The figures: drawn without a screen, and what they draw."""

import matplotlib.pyplot as plt
import pytest
import torch

from companion import figures


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
