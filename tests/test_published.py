"""Published scores: the numbers themselves, where each is from, and how to look one up."""

from pathlib import Path

import pytest

from companion import published
from companion.published import FASHION, IWAE, REDRAWN, SCORES, STATIC, Published, score

REFERENCES = Path(__file__).parent.parent / "book" / "references.bib"

# As printed in the sources, apart from the module, so that a slip in either is found.
NUMBERS = {
    ("FVSBN", REDRAWN): 96.58,
    ("NADE, 500 units", REDRAWN): 85.65,
    ("MADE, 8,000 units", REDRAWN): 84.87,
    ("PixelCNN", REDRAWN): 81.45,
    ("gated PixelCNN", REDRAWN): 81.50,
    ("ImageGPT", REDRAWN): 79.17,
    ("PixelSNAIL", REDRAWN): 78.61,
    ("NADE", STATIC): 88.33,
    ("MADE, two layers, 32 masks", STATIC): 86.64,
    ("PixelCNN", STATIC): 81.30,
    ("PixelRNN, diagonal BiLSTM", STATIC): 79.20,
    ("VAE, 1 layer", IWAE): 86.76,
    ("VAE-5, 1 layer", IWAE): 86.47,
    ("VAE-50, 1 layer", IWAE): 86.35,
    ("IWAE-5, 1 layer", IWAE): 85.54,
    ("IWAE-50, 1 layer", IWAE): 84.78,
    ("VAE, 2 layers", IWAE): 85.33,
    ("VAE-5, 2 layers", IWAE): 85.01,
    ("VAE-50, 2 layers", IWAE): 84.78,
    ("IWAE-5, 2 layers", IWAE): 83.89,
    ("IWAE-50, 2 layers", IWAE): 82.90,
    ("VAE, 40 codes, 300 units", FASHION): 228.70,
}


def test_the_numbers():
    assert {(each.model, each.protocol): each.nll for each in SCORES} == NUMBERS


def test_no_model_has_two_scores_under_one_protocol():
    assert len({(each.model, each.protocol) for each in SCORES}) == len(SCORES)


@pytest.mark.parametrize("each", SCORES, ids=lambda each: f"{each.model}: {each.source}")
def test_every_score_has_a_source(each):
    assert f"{{{each.source}," in REFERENCES.read_text(encoding="utf-8")


def test_a_protocol_says_which_images_are_thrown_and_when():
    assert len({STATIC, REDRAWN, IWAE, FASHION}) == 4
    assert "fixed" in STATIC
    for protocol in (REDRAWN, IWAE, FASHION):
        assert "thrown anew at each visit" in protocol
    assert "60,000" in REDRAWN
    assert "5,000 draws" in IWAE


@pytest.mark.parametrize(("model", "protocol"), NUMBERS)
def test_a_score_is_looked_up_by_model_and_protocol(model, protocol):
    found = score(model, protocol)
    assert isinstance(found, Published)
    assert (found.model, found.protocol) == (model, protocol)
    assert found in SCORES


@pytest.mark.parametrize(
    ("model", "protocol"), [("FVSBN", STATIC), ("fvsbn", REDRAWN), ("FVSBN", "another")]
)
def test_what_was_not_published_is_refused(model, protocol):
    with pytest.raises(KeyError, match=f"no score of '{model}' under this protocol: {protocol}"):
        published.score(model, protocol)
