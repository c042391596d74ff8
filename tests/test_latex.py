import pytest

from tests.latex import Chain, normalise, split


def one(*parts):
    return [Chain(parts[::2], parts[1::2])]


@pytest.mark.parametrize(
    ("latex", "chains"),
    [
        (r"a = b", one("a", "=", "b")),
        (r"a_{i=1} = \sum_{i=1}^D x_{<i}.", one("a_{i=1}", "=", r"\sum_{i=1}^D x_{<i}")),
        (r"a \le b < c", one("a", "≤", "b", "<", "c")),
        (r"a \geq b \approx c \ne d", one("a", "≥", "b", "≈", "c", "≠", "d")),
        (r"p := q \coloneqq r \equiv s", one("p", "=", "q", "=", "r", "=", "s")),
        (r"a \overset{(i)}{=} b", one("a", "=", "b")),
        (r"\overset{D}{=_1} = b", one(r"\overset{D}{=_1}", "=", "b")),
        (r"\left( a = b \right] = c", one(r"\left( a = b \right]", "=", "c")),
        (r"\left. a = b \right| = c", one(r"\left. a = b \right|", "=", "c")),
        (r"f\bigl(x = 1\bigr) = [y < 1)", one(r"f\bigl(x = 1\bigr)", "=", "[y < 1)")),
        (r"\{x : x = 1\} = c", one(r"\{x : x = 1\}", "=", "c")),
        (r"p(x \mid y) = c\,.", one(r"p(x \mid y)", "=", "c")),
        (r"\text{a = b} = c \quad", one(r"\text{a = b}", "=", "c")),
        (
            r"f = \begin{cases} 1 & x = 1 \\ 0 & x < 1 \end{cases}",
            one("f", "=", r"\begin{cases} 1 & x = 1 \\ 0 & x < 1 \end{cases}"),
        ),
        (
            r"a = \begin{pmatrix} b \\ c \end{pmatrix}",
            one("a", "=", r"\begin{pmatrix} b \\ c \end{pmatrix}"),
        ),
        (r"x_< = y^= = z", one("x_<", "=", "y^=", "=", "z")),
        (r"-1 \not= 2", one("-1", "≠", "2")),
        (r"D_{KL}(p \,\|\, q) \ge 0", one(r"D_{KL}(p \,\|\, q)", "≥", "0")),
    ],
)
def test_sides_and_relations_at_depth_zero(latex, chains):
    assert split(latex) == chains


@pytest.mark.parametrize(
    "condition",
    [
        r"x \perp y \mid z",
        r"i = 1, \dots, D",
        r"d \in \{1, 2\}",
        r"\text{for } K \ge 1",
        r"\epsilon \sim \mathcal{N}(0, I)",
        r"\text{(Jensen)}",
    ],
)
@pytest.mark.parametrize("space", [r"\quad", r",\qquad"])
def test_condition_is_no_side(space, condition):
    assert split(rf"a = b {space} {condition}.") == one("a", "=", "b")


def test_aligned_derivation_is_one_chain():
    latex = r"""\begin{aligned}
        a &= b + {} \\[1ex]
          &\quad + c \\
          &\le d, \quad i = 1, \dots, D \\
          = {} & e.
    \end{aligned}"""
    assert split(latex) == one("a", "=", "b + {} + c", "≤", "d", "=", "{} e")


def test_rows_that_begin_anew_are_chains_of_their_own():
    latex = r"\begin{aligned} a &= b \\ &= c \\ & \\ d &\le e \end{aligned}"
    assert split(latex) == one("a", "=", "b", "=", "c") + one("d", "≤", "e")
    latex = r"\begin{gathered} a = b \\ c = d \\ = e \end{gathered}"
    assert split(latex) == one("a", "=", "b") + one("c", "=", "d", "=", "e")


def test_iff_separates_chains():
    assert split(r"a = b \iff c = d") == one("a", "=", "b") + one("c", "=", "d")


def test_aligned_inside_brackets_is_one_side():
    latex = r"a = \left\{ \begin{aligned} b &= 1 \\ c &= 2 \end{aligned} \right."
    assert len(split(latex)[0].sides) == 2


@pytest.mark.parametrize(
    ("latex", "message"),
    [
        (r"\max_\theta L", "no relation"),
        (r"a = b \iff c", "no relation in 'c'"),
        (r"a =", "empty side"),
        (r"= b", "empty side"),
        (r"a = = b", "empty side"),
        (r"f(a = b", "opened and not closed"),
        (r"f) = b", "closes what was not opened"),
        (r"\begin{cases} a = b \end{aligned}", "does not match"),
        (r"a = b, \quad c = d", "would not be checked"),
        (r"a = b, \qquad c \ge 0", "would not be checked"),
    ],
)
def test_what_cannot_be_read_is_refused(latex, message):
    with pytest.raises(ValueError, match=message):
        split(latex)


def test_normalise_ignores_white_space_only():
    assert normalise("a  &= b\n") == normalise("a &=b") != normalise("a &= -b")
