"""Every display equation's check holds and refuses its wrong forms; and verify() can fail."""

import pytest
import torch

from tests.equations import SEEDS, Equation, equation, load, side, verify

EQUATIONS = load()


def test_there_are_equations():
    assert EQUATIONS


@pytest.mark.parametrize("label", EQUATIONS)
def test_equation(label):
    verify(EQUATIONS[label], SEEDS)


@pytest.mark.parametrize("label", EQUATIONS)
def test_check_can_be_linked_to(label):
    one = EQUATIONS[label]
    assert f'"{label}"' in one.source
    assert one.path == f"tests/equations/{one.module.rpartition('.')[2]}.py"
    assert one.lines[0] < one.lines[1]
    assert one.chapter


# --- the harness itself ------------------------------------------------------------------------


def check(latex, function, constant=False):
    verify(Equation("under-test", latex, function, constant))


def draw(rng):
    return torch.rand(4, generator=rng)


def test_sound_identity_holds():
    def sides(rng):
        x = draw(rng)
        yield side((2 * x).exp())
        yield side(x.exp() ** 2, wrong={"no square": x.exp()})

    check("e^{2x} = (e^x)^2", sides)


def test_default_type_is_float64_and_restored():
    def sides(rng):
        yield side(torch.rand(3))  # the global generator is seeded, too
        yield side(torch.rand(3), wrong={"one": torch.ones(3)})

    with pytest.raises(AssertionError, match="does not hold"):
        check("a = b", sides)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("latex", "values", "message"),
    [
        ("a = b", lambda x: (x, 2 * x), r"side 1, 'a', = side 2, 'b' does not hold:\n  \["),
        ("a = b", lambda x: (x, x + 1e-6), "does not hold"),
        ("a \\le b", lambda x: (x, x - 1e-3), "does not hold"),
        ("a \\le b", lambda x: (x, x + 0), "never strict"),
        ("a \\ge b", lambda x: (x, x + 1), "does not hold"),
        ("a < b", lambda x: (x, x + torch.tensor([0, 1, 1, 1])), "does not hold"),
        ("a \\ne b", lambda x: (x, x + 0), "does not hold"),
        ("a \\propto b", lambda x: (x, 1 - x), "does not hold"),
        ("a \\approx b", lambda x: (x, x + 0), "must state se= or error="),
        ("a = b = c", lambda x: (x, x + 0), "has 3 sides, the check yields 2"),
        ("a = b", lambda x: (x, x + 0, x + 0), "has 2 sides, the check yields 3"),
        ("a = b", lambda x: (x / 0 * 0, x / 0 * 0), "not finite"),
        ("a = b", lambda x: (x[:0], x[:0] + 0), "empty"),
        ("a = b", lambda x: (x.float(), x + 0), "float32, not float64"),
        ("a = b", lambda x: (x, x.float() + 0), "float32, not float64"),
        ("a = b", lambda x: (x, x), "sides 1 and 2 are the same tensor"),
        ("a = b", lambda x: (x, x.detach()), "sides 1 and 2 are the same tensor"),
        ("a = b", lambda x: (x, torch.stack([x, x])), "shapes differ"),
    ],
)
def test_unsound_sides_are_refused(latex, values, message):
    def sides(rng):
        first, *others = values(draw(rng))
        yield side(first, wrong={"other": -first - 1})
        yield from map(side, others)

    with pytest.raises(AssertionError, match=f"under-test: .*{message}"):
        check(latex, sides)


@pytest.mark.parametrize(
    ("latex", "values"),
    [
        ("a \\le b", lambda x: (x, x + torch.tensor([0, 0, 0, 1]))),
        ("b \\ge a", lambda x: (x + 1, x)),
        ("a < 1", lambda x: (x, 2)),
        ("a \\ne b", lambda x: (x, x + torch.tensor([0, 0, 0, 1]))),
        ("a \\propto b", lambda x: (x, 3 * x)),
        ("\\sum p = 1", lambda x: (x.softmax(0).sum(), 1.0)),
    ],
)
def test_sound_relations_hold(latex, values):
    def sides(rng):
        first, second = values(draw(rng))
        wrong = second if "ne" in latex else 5 + 5 * draw(rng)
        yield side(first, wrong={"other": -wrong if "ge" in latex else wrong})
        yield side(second)

    check(latex, sides)


def test_flipped_relation_is_refused():
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"large": x + 2})
        yield side(x + 1)

    check("a \\le b", sides)
    with pytest.raises(AssertionError, match="does not hold"):
        check("a \\ge b", sides)


def monte_carlo(bias, n=10_000):
    def sides(rng):
        mean = draw(rng)
        samples = mean + torch.randn(n, 4, generator=rng)
        se = samples.std(0) / n**0.5
        yield side(mean, wrong={"shifted": mean + 1})
        yield side(samples.mean(0) + bias * se, se=se)

    return sides


def test_monte_carlo_within_five_standard_errors():
    check("a = b", monte_carlo(0))
    with pytest.raises(AssertionError, match="standard error"):
        check("a = b", monte_carlo(10))


def test_inequality_must_be_strict_beyond_the_standard_error():
    with pytest.raises(AssertionError, match="never strict"):
        check("a \\le b", monte_carlo(1))
    check("a \\le b", monte_carlo(12))


def test_error_bound():
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"far": x + 1})
        yield side(x + 1e-4, error=1e-3)

    check("a \\approx b", sides)

    def off(rng):
        x = draw(rng)
        yield side(x, wrong={"far": x + 1})
        yield side(x + 1e-2, error=1e-3)

    with pytest.raises(AssertionError, match=r"error bound 0\.001"):
        check("a \\approx b", off)


@pytest.mark.parametrize("se", [0.0, -1.0, float("nan")])
def test_void_standard_error_is_refused(se):
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"far": x + 1})
        yield side(x + 0, se=se)

    with pytest.raises(AssertionError, match="standard error"):
        check("a = b", sides)


def test_wrong_form_that_passes_is_refused():
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"far": x + 1, "order of the terms": x + 0})
        yield side(x + 0)

    with pytest.raises(AssertionError, match="wrong form 'order of the terms' of side 1 passes"):
        check("a = b", sides)


def test_wrong_form_hidden_by_a_wide_standard_error_is_refused():
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"factor 2": 2 * x})
        yield side(x + 0, se=x)

    with pytest.raises(AssertionError, match="wrong form 'factor 2'"):
        check("a = b", sides)


def test_wrong_form_of_another_shape_is_refused():
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"half": x[:2]})
        yield side(x + 0)

    with pytest.raises(AssertionError, match="another shape"):
        check("a = b", sides)


def test_each_chain_needs_a_wrong_form():
    def sides(rng):
        x = draw(rng)
        yield side(x, wrong={"far": x + 1})
        yield side(x + 0)
        yield side(2 * x)
        yield side(x + x)

    check(r"a = b", lambda rng: list(sides(rng))[:2])
    with pytest.raises(AssertionError, match="no wrong form is offered for 'c'"):
        check(r"a = b \iff c = d", sides)


def test_plain_values_are_refused():
    with pytest.raises(AssertionError, match="is not a side"):
        check("a = b", lambda rng: [draw(rng), draw(rng)])


def test_check_must_depend_on_random_parameters():
    def unused(rng):
        draw(rng)
        yield side(torch.ones(2), wrong={"two": torch.full((2,), 2.0)})
        yield side(1)

    def constant(rng):
        yield side(2**10 - 1, wrong={"all": 2**10})
        yield side(sum(2**k for k in range(10)))

    with pytest.raises(AssertionError, match="draws nothing from rng"):
        check("a = b", constant)
    check("a = b", constant, constant=True)
    with pytest.raises(AssertionError, match="the same at every seed"):
        check("a = b", unused)
    with pytest.raises(AssertionError, match="declared constant, but"):
        check("a = b", unused, constant=True)


def test_labels_are_names_and_unique():
    with pytest.raises(ValueError, match=r"equation label '2\.1'"):
        Equation("2.1", "a = b", lambda rng: [])
    label = next(iter(EQUATIONS), None)
    if label:
        with pytest.raises(ValueError, match="two checks for the equation"):
            equation(label, "a = b")(lambda rng: [])
