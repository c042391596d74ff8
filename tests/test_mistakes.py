"""Every example of the appendix is caught, for the reason it is there, and its mended form passes.

``{caught-mistake}`` itself is seen at work by ``test_site.py``, which reads the built page.
"""

import re
import tempfile

import pytest

from tests import mistakes
from tests.book import ROOT, Page
from tests.equations import EQUATIONS
from tests.mistakes import CONTRACTS, MISTAKES

# How each message begins or goes on; there is one for each message, in this order.
MESSAGES = {
    "second-definition": [
        "cell 1 (bits): defines bits_per_dimension again, which companion/evaluation.py has"
    ],
    "old-source": [
        "cell 1 (definition): the stored source of bits_per_dimension is not the package's"
    ],
    "sine-for-cosine": [
        r"ring: side 1, '\\mu_k', = side 2, 'r\\, (\\sin \\tfrac{2 \\pi k}{K}, "
        r"\\cos \\tfrac{2 \\pi k}{K})' does not hold:"
    ],
    "edited-equation": [
        "cell 1 (ring): the equation 'ring' is not the one that is checked:\n"
        r"  page:  \mu_k = r\, (\cos \tfrac{\pi k}{K}, \sin \tfrac{\pi k}{K})"
    ],
    "typed-numbers": ["bare number 768: compute it", "bare number 0.809: compute it"],
    "drifted-number": [
        "AssertionError: bits = 0.80802 is not within 0.0005 of the expected 0.809: find out"
    ],
    "edited-output": [r"'0.809 bits per dimension\n' == '0.808 bits per dimension\n'"],
    "stripped-output": [
        "cell 1 (bits): its output is stripped",
        "Cell 0: Unexpected output fields from running code: {'stdout'}",
    ],
}


def test_every_mistake_has_its_messages():
    assert MESSAGES.keys() == MISTAKES.keys()


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=lambda mistake: mistake.name)
def test_mistake_is_refused_and_mended_form_passes(mistake):
    found = mistake.says(mistake.wrong)
    expected = MESSAGES[mistake.name]
    assert len(found) == len(expected), found
    for message, words in zip(found, expected, strict=True):
        assert words in message
        machine = [str(ROOT), tempfile.gettempdir(), "\x1b"]
        assert not any(part in message for part in machine), message
        assert not re.search(r"(?<!\w)/\w+/|\b0x[0-9a-f]+|\b\d+(\.\d+)? ?s\b", message), message
    assert mistake.says(mistake.mended) == []


def test_every_contract_has_an_example():
    assert {mistake.contract for mistake in MISTAKES.values()} == CONTRACTS.keys() == {1, 2, 3, 4}


def test_examples_leave_the_equations_of_the_book_alone():
    assert "ring" not in EQUATIONS
    for mistake in MISTAKES.values():
        if mistake.contract == 2:
            mistake.says(mistake.wrong)
    assert "ring" not in EQUATIONS


def test_nbval_that_cannot_run_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="nbval did not run"):
        mistakes.nbval(tmp_path / "missing.ipynb")


def test_the_page_shows_every_mistake_once_below_its_contract():
    page = (ROOT / "book" / "checking.md").read_text(encoding="utf-8")
    shown = {}
    for number, section in enumerate(re.split(r"^## Contract ", page, flags=re.M)[1:], 1):
        section = re.split(r"^## ", section, flags=re.M)[0]
        shown[number] = re.findall(r"^```\{caught-mistake\} (\S+)$", section, re.M)
    expected = {
        number: [m.name for m in MISTAKES.values() if m.contract == number] for number in CONTRACTS
    }
    assert shown == expected
    directives = [
        d for doc in Page(ROOT / "book" / "checking.md").documents for d in doc.directives
    ]
    names = [d.argument for d in directives if d.name == "caught-mistake"]
    assert sorted(names) == sorted(MISTAKES)
