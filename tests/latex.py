r"""Read the sides and relations of a display equation from its LaTeX."""

import re
from dataclasses import dataclass

RELATIONS = {
    "=": ["=", ":=", "=:", r"\coloneqq", r"\triangleq", r"\equiv"],
    "≈": [r"\approx", r"\simeq", r"\sim"],
    "∝": [r"\propto"],
    "≠": [r"\ne", r"\neq", r"\not="],
    "<": ["<", r"\lt"],
    ">": [">", r"\gt"],
    "≤": [r"\le", r"\leq", r"\leqslant"],
    "≥": [r"\ge", r"\geq", r"\geqslant"],
}
_MEANING = {token: relation for relation, tokens in RELATIONS.items() for token in tokens}

_TOKEN = re.compile(r"\\not\s*=|:\s*=|=\s*:|\\[A-Za-z]+\*?|\\.|\s+|.", re.DOTALL)
_ALIGNED = {"aligned", "align", "align*", "alignedat", "split", "gathered", "gather", "gather*"}
_SPACES = {r"\,", r"\;", r"\:", r"\!", r"\ ", r"\quad", r"\qquad", "~", r"\displaystyle"}
_OPEN, _CLOSE = {"{", "(", "[", r"\{", r"\lbrace"}, {"}", ")", "]", r"\}", r"\rbrace"}
_ARROWS = {
    r"\iff",
    r"\implies",
    r"\Rightarrow",
    r"\Leftrightarrow",
    r"\Longrightarrow",
    r"\Longleftrightarrow",
}
_STACKED = {r"\overset", r"\underset", r"\stackrel"}
_CONTINUES = {"+", "-", r"\pm", r"\cdot", r"\times"}


@dataclass(frozen=True)
class Chain:
    """Sides joined by relations, ``a = b \\le c``: ``len(sides) == len(relations) + 1``."""

    sides: tuple[str, ...]
    relations: tuple[str, ...]


def split(latex: str) -> list[Chain]:
    r"""Read the sides and relations of a display equation.

    Relations inside parentheses, braces, ``\left … \right`` and environments such as ``cases``
    belong to a side. In an aligned environment a row that begins with a relation, an operator or
    an empty column goes on with the row above it; another row begins a new chain, and so does
    ``\iff``. What follows ``\quad`` is a condition and no side.

    Raises:
        ValueError: if there is no relation, a side is empty, brackets do not match, or what stands
            after ``\quad`` looks like a second equation.
    """
    chains: list[tuple[list[str], list[str]]] = []
    for row, starts in _rows(_tokens(latex)):
        statements, conditions = _statements(row)
        for condition in conditions:
            _check_condition(condition, latex)
        for number, pieces in enumerate(statements):
            first = "".join(pieces[0]).strip()
            if chains and number == 0 and not starts:  # goes on with the row above
                chains[-1][0][-1] += first
            else:
                chains.append(([first], []))
            for relation, side in zip(pieces[1::2], pieces[2::2], strict=True):
                chains[-1][1].append(relation)
                chains[-1][0].append("".join(side))
    result = [Chain(tuple(map(_clean, sides)), tuple(relations)) for sides, relations in chains]
    for chain in result:
        if not chain.relations:
            raise ValueError(
                f"no relation in {chain.sides[0]!r}: a display equation states something that can "
                "be checked; write anything else inline"
            )
        if not all(chain.sides):
            raise ValueError(f"an empty side in {' '.join(latex.split())!r}")
    return result


def normalise(latex: str) -> str:
    """LaTeX without white space, for comparing the book's with the check's."""
    return "".join(latex.split())


def _tokens(latex):
    """(token, depth) for each token; the parts of aligned environments are not deeper."""
    tokens = _TOKEN.findall(latex)
    depth, stack, position = 0, [], 0

    def group():
        """Skip ``{…}`` at the position and return its text."""
        nonlocal position
        while position < len(tokens) and tokens[position].isspace():
            position += 1
        begin, level = position, 0
        while position < len(tokens):
            level += (tokens[position] == "{") - (tokens[position] == "}")
            position += 1
            if level == 0:
                break
        return "".join(tokens[begin:position])

    result = []
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token in (r"\begin", r"\end"):
            name = group()[1:-1]
            if token == r"\begin":
                stack.append(name)
                if name == "alignedat":
                    group()
            elif not stack or stack.pop() != name:
                raise ValueError(rf"\end{{{name}}} does not match in {latex!r}")
            if name in _ALIGNED:
                continue
            token, step = f"{token}{{{name}}}", 1 if token == r"\begin" else -1
        elif token in (r"\left", r"\right", r"\middle"):
            step = {r"\left": 1, r"\right": -1, r"\middle": 0}[token]
            while tokens[position].isspace():
                position += 1
            token += tokens[position]
            position += 1
        elif token in "_^" and position < len(tokens) and tokens[position] != "{":
            token += tokens[position]  # a_< or x^*: no relation
            position += 1
            step = 0
        elif token in _STACKED and depth == 0:
            first, second = group(), group()
            base = second[1:-1].strip()
            token, step = (base if base in _MEANING else token + first + second), 0
        else:
            step = (token in _OPEN) - (token in _CLOSE)
        depth += max(step, 0)
        result.append((token, depth))
        depth += min(step, 0)
        if depth < 0:
            raise ValueError(f"{token!r} closes what was not opened in {latex!r}")
    if depth or stack:
        raise ValueError(f"something is opened and not closed in {latex!r}")
    return result


def _rows(tokens):
    """(tokens of a row, whether the row begins a chain), for each row of an alignment."""
    row, rows = [], []
    for token, depth in [*tokens, (r"\\", 0)]:
        if token == r"\\" and depth == 0:
            rows.append(row)
            row = []
        else:
            row.append((token, depth))
    for row in rows:
        if row[:1] == [("[", 1)]:  # \\[1ex]
            row = row[row.index(("]", 1)) + 1 :]
        solid = [t for t, d in row if not (t.isspace() or t in _SPACES)]
        if not solid:
            continue
        starts = not (_relation(solid[0]) or solid[0] in _CONTINUES or solid[0] == "&")
        row = [(t, d) for t, d in row if (t, d) != ("&", 0)]
        while row and (row[0][0].isspace() or row[0][0] in _SPACES):  # \quad that indents
            row = row[1:]
        yield row, starts


def _statements(row):
    r"""([[side, relation, side, …], …], [condition, …]): split at ``\iff`` and at ``\quad``."""
    statements, conditions = [[[]]], []
    into = None
    for token, depth in row:
        if depth == 0 and token in (r"\quad", r"\qquad"):
            conditions.append([])
            into = conditions[-1]
        elif into is not None:
            into.append((token, depth))
        elif depth == 0 and token in _ARROWS:
            statements.append([[]])
        elif depth == 0 and _relation(token):
            statements[-1] += [_relation(token), []]
        else:
            statements[-1][-1].append(token)
    return statements, conditions


def _relation(token):
    return _MEANING.get("".join(token.split()))


def _check_condition(condition, latex):
    relations = [t for t, d in condition if d == 0 and _relation(t) and t != r"\sim"]
    words = "".join(t for t, _ in condition).strip()
    listed = any(t in (r"\dots", r"\ldots", r"\cdots", r"\in") for t, _ in condition)
    if relations and not listed and not words.startswith((r"\text", r"\mathrm")):
        raise ValueError(
            rf"{words!r} stands after \quad and would not be checked: write a second equation as "
            r"a row of its own in an aligned environment, and begin a condition with \text{for }"
        )


def _clean(side):
    r"""A side without trailing punctuation and spacing."""
    side = " ".join(side.split())
    return re.sub(r"(\s|\\[,;:! ]|~|(?<!\\)(?<!\\right)[.,;])+$", "", side).strip()
