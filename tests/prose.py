"""Contract 3: a number in the prose is computed (glued) or quoted (cited), never typed.

Permitted without either: whole numbers of one digit and the words up to twelve, which belong to the
structure of a sentence or a formula; digits inside a name (``float64``, ``2-D``); :data:`NAMES`.
"""

import re

from tests.book import Block, Page, Piece

NAMES = ("CIFAR-10", "CC BY 4.0", "CC BY-SA 3.0")

_TEENS = "thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_LARGE = "hundred|thousand|million|billion|trillion"
_SCALE = re.compile(rf"%|‰|\b(?:per ?cent|(?:{_LARGE})s?)\b", re.IGNORECASE)
_WORD = re.compile(rf"\b(?:{_TEENS}|{_TENS})\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,'\u2009\u202f\u00a0]\d+)*")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|cf|vs|al|Eq|Eqs|Fig|Figs|Sec|Ch|No|pp?)\.$")
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9\ue000-\uf8ff])")
_PIECE = re.compile("[\ue000-\uf8ff]")  # stands for a piece that is not text


def prose_problems(page: Page) -> list[str]:
    """What contract 3 finds wrong with a page."""
    problems = []
    for cell in page.cells:
        blocks = list(cell.document.blocks)
        blocks += [Block("caption", [Piece("text", t)]) for t in (cell.alt, cell.caption) if t]
        for block in blocks:
            for sentence, number in _bare_numbers(block):
                problems.append(
                    f"{cell}: “{sentence}”: bare number {number}: compute it, record() it and "
                    "print it with {glue:text}`…`, or cite its source in the same sentence"
                )
    return problems


def _bare_numbers(block):
    text, pieces = "", {}
    for piece in block.pieces:
        if piece.kind == "text":
            text += piece.text
        else:
            mark = chr(0xE000 + len(pieces))
            pieces[mark] = piece
            text += mark
    if block.kind == "heading":
        text = re.sub(r"^\s*\d+(\.\d+)*\.?\s+", "", text)
    for sentence in _sentences(text):
        inside = [pieces[mark] for mark in _PIECE.findall(sentence)]
        if any(piece.kind == "cite" for piece in inside):
            continue
        found = list(_in_text(sentence, pieces))
        for piece in inside:
            if piece.kind == "math":
                found += _in_math(piece.text)
        shown = _PIECE.sub(lambda mark, pieces=pieces: pieces[mark[0]].text, sentence)
        for number in found:
            yield _shorten(shown), number


def _sentences(text):
    start = 0
    for end in _END.finditer(text):
        if not _ABBREVIATION.search(text[start : end.start()]):
            yield text[start : end.start()].strip()
            start = end.end()
    yield text[start:].strip()


def _in_text(sentence, pieces):
    def glued_before(position):
        before = sentence[:position].rstrip(" \u2009\u202f\u00a0-")
        return before and before[-1] in pieces and pieces[before[-1]].kind == "glue"

    for name in NAMES:
        sentence = sentence.replace(name, "_" * len(name))
    for found in _SCALE.finditer(sentence):
        if not glued_before(found.start()):
            yield found[0]
    for found in _WORD.finditer(sentence):
        yield found[0]
    for found in _NUMBER.finditer(sentence):
        before, after = sentence[: found.start()], sentence[found.end() :]
        if re.search(r"\S*://\S*$", before) or re.search(r"[A-Za-z_]$", before):
            continue  # an address, or a name such as float64
        point = re.search(r"(?:^|[\s(=±−-])\.$", before)
        if point or not found[0].isdigit() or int(found[0]) > 9:
            yield ("." if point else "") + found[0]
        elif suffix := re.match(r"[kKMG]B?\b|e[+-]?\d", after):
            yield found[0] + suffix[0]


def _in_math(latex):
    r"""Numbers of more than one digit, with thousands joined: ``50{,}000`` and ``50\,000``."""
    latex = re.sub(r"(\\[dtc]?frac)\s*(\d)\s*(\d)", r"\1 {\2}{\3}", latex)
    latex = re.sub(r"(?<=\d)(?:\{,\}|\\,|,)(?=\d{3}(?!\d))", "", latex)
    latex = re.sub(r"\{([.,])\}", r"\1", latex)
    for found in re.finditer(r"\d*\.\d+|\d{2,}", latex):
        yield found[0]
    if r"\%" in latex:
        yield r"\%"


def _shorten(text, width=100):
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
