r"""The book's display equations, each with a check that evaluates every one of its sides.

A module of this package belongs to the chapter that it names and holds checks such as::

    CHAPTER = "generative-models"

    @equation("kl-sign", r"D(p \,\|\, q) = \sum_x p(x) \ln \frac{p(x)}{q(x)} \ge 0")
    def kl_sign(rng):
        p, q = torch.rand(2, 5, generator=rng).softmax(-1)
        yield side(kl_divergence(Categorical(p), Categorical(q)))
        yield side((p * (p / q).log()).sum(), wrong={"direction": (q * (q / p).log()).sum()})
        yield side(0)

The sides and relations are read from the LaTeX (:mod:`tests.latex`); :func:`verify` runs the check
with several seeds and compares each side with the next. In a check float64 is the default type.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from tests.latex import Chain, split

SEEDS = (1, 2, 3)
RTOL, ATOL = 1e-9, 1e-12  # rounding in float64
STANDARD_ERRORS = (
    5  # a sound Monte Carlo value exceeds them once in 1.7 million comparisons
)

# --- writing and finding checks -------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What a check yields for one side of its equation: see :func:`side`."""

    value: Tensor
    se: Tensor | None = None
    error: Tensor | None = None
    wrong: Mapping[str, Tensor] = field(default_factory=dict)


def side(value, se=None, error=None, wrong=None) -> Side:
    """One side of an equation, evaluated.

    Args:
        value: float64 tensor or number, or a count (integers).
        se: standard error of a Monte Carlo value; agreement is then asked within 5 of them.
        error: a stated bound of the numerical error (quadrature, truncation).
        wrong: ``{"what was got wrong": value}``: forms that the comparison must refuse.
    """
    return Side(value, se, error, wrong or {})


@dataclass(frozen=True)
class Equation:
    """A display equation and its check.

    Attributes:
        label: the label in the chapter.
        latex: the LaTeX exactly as in the chapter.
        function: takes a ``torch.Generator`` and yields one :func:`side` per side.
        constant: the equation has no parameters that could be drawn at random.
    """

    label: str
    latex: str
    function: Callable[[torch.Generator], Iterator[Side]]
    constant: bool = False

    def __post_init__(self):
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.label):
            raise ValueError(
                f"equation label {self.label!r}: a name in lower case with hyphens"
            )

    @property
    def chains(self) -> list[Chain]:
        return split(self.latex)

    @property
    def module(self) -> str:
        return self.function.__module__

    @property
    def chapter(self) -> str:
        return sys.modules[self.module].CHAPTER

    @property
    def source(self) -> str:
        """The source of the check."""
        return inspect.getsource(self.function)

    @property
    def path(self) -> str:
        """The file of the check, relative to the repository."""
        file = Path(inspect.getsourcefile(self.function)).resolve()
        return file.relative_to(Path(__file__).resolve().parents[2]).as_posix()

    @property
    def lines(self) -> tuple[int, int]:
        """The first and last line of the check in its file."""
        code, first = inspect.getsourcelines(self.function)
        return first, first + len(code) - 1


EQUATIONS: dict[str, Equation] = {}


def equation(label: str, latex: str, *, constant: bool = False):
    """Decorator: register a generator of sides as the check of the equation ``label``."""

    def register(function):
        if label in EQUATIONS:
            raise ValueError(f"two checks for the equation {label!r}")
        EQUATIONS[label] = Equation(label, latex, function, constant)
        return EQUATIONS[label]

    return register


def load() -> dict[str, Equation]:
    """Import every module of this package and return all equations by label."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(EQUATIONS)


# --- verifying ------------------------------------------------------------------------


def verify(equation: Equation, seeds=SEEDS) -> None:
    """Evaluate an equation at several seeds and compare its sides; refuse its wrong forms.

    Raises:
        AssertionError: if a relation does not hold, a wrong form passes for right, or the check
            itself is void; the message names the label, the sides and their values.
    """
    runs = [
        _run(equation, seed) for seed in (seeds[:1] if equation.constant else seeds)
    ]
    if not equation.constant and all(_same(runs[0], run) for run in runs[1:]):
        raise AssertionError(
            f"{equation.label}: the check yields the same at every seed: draw the parameters from "
            "rng, or declare constant=True if there are none"
        )
    offset = 0
    for chain in equation.chains:
        part = slice(offset, offset + len(chain.sides))
        sides = [run[part] for run in runs]
        problem = _problem(chain, sides, offset)
        if problem:
            raise AssertionError(f"{equation.label}: {problem}")
        _refuse_wrong_forms(equation, chain, sides, offset)
        offset = part.stop


def _run(equation, seed):
    """The sides that the check yields at a seed, each as float64 and sound in itself."""
    expected = [latex for chain in equation.chains for latex in chain.sides]
    rng = torch.Generator().manual_seed(seed)
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.cat([rng.get_state(), torch.get_rng_state()])
        torch.set_default_dtype(torch.float64)
        try:
            raw = list(equation.function(rng))
        finally:
            torch.set_default_dtype(dtype)
        drawn = not torch.equal(
            before, torch.cat([rng.get_state(), torch.get_rng_state()])
        )
    if equation.constant and drawn:
        raise AssertionError(
            f"{equation.label}: declared constant, but the check draws numbers"
        )
    if not equation.constant and not drawn:
        raise AssertionError(
            f"{equation.label}: the check draws nothing from rng: evaluate at random parameters, "
            "or declare constant=True if there are none"
        )
    if len(raw) != len(expected):
        raise AssertionError(
            f"{equation.label}: the equation has {len(expected)} sides, the check yields "
            f"{len(raw)}: {' | '.join(expected)}"
        )
    for number, one in enumerate(raw, 1):
        if not isinstance(one, Side):
            raise AssertionError(
                f"{equation.label}: side {number} is not a side(...): {one!r}"
            )
        for earlier, other in enumerate(raw[: number - 1], 1):
            if _one_storage(one.value, other.value):
                raise AssertionError(
                    f"{equation.label}: sides {earlier} and {number} are the same tensor: "
                    "evaluate each by a route of its own"
                )
    return [_sound(equation.label, number, one) for number, one in enumerate(raw, 1)]


def _sound(label, number, one):
    where = f"{label}: side {number}"

    def tensor(value, what):
        if isinstance(value, float):  # a double, which torch would make float32
            value = torch.tensor(value, dtype=torch.float64)
        value = torch.as_tensor(value).detach()
        if value.dtype.is_complex or value.dtype in (
            torch.float32,
            torch.float16,
            torch.bfloat16,
        ):
            raise AssertionError(f"{where}: {what} is {value.dtype}, not float64")
        value = value.double()
        if value.numel() == 0 or not value.isfinite().all():
            raise AssertionError(
                f"{where}: {what} is empty or not finite: {_brief(value)}"
            )
        return value

    def bound(value, what):
        if value is None:
            return None
        bound = tensor(value, what)
        if (bound < 0).any() or not (bound > 0).any():
            raise AssertionError(
                f"{where}: {what} must be positive, is {_brief(bound)}"
            )
        if bound.dim() and bound.shape != value.shape:
            raise AssertionError(f"{where}: {what} has another shape than the value")
        return bound

    value = tensor(one.value, "value")
    return Side(
        value,
        bound(one.se, "standard error"),
        bound(one.error, "error bound"),
        {
            name: tensor(value, f"wrong form {name!r}")
            for name, value in one.wrong.items()
        },
    )


def _problem(chain, runs, offset):
    """What is wrong with a chain, over the runs of all seeds, or None."""
    for index, relation in enumerate(chain.relations):
        a, b = chain.sides[index : index + 2]
        strict = False
        for run in runs:
            left, right = run[index], run[index + 1]
            number = offset + index + 1
            title = f"side {number}, {a!r}, {relation} side {number + 1}, {b!r}"
            shapes = {tuple(s.value.shape) for s in (left, right) if s.value.dim()}
            if len(shapes) > 1:
                differ = f"{tuple(left.value.shape)}, {tuple(right.value.shape)}"
                return f"{title}: shapes differ: {differ}"
            holds, somewhere = _compare(relation, left, right)
            if holds is None:
                return f"{title}: one side must state se= or error="
            if not holds:
                return f"{title} does not hold:\n  {_show(left)}\n  {_show(right)}"
            strict |= somewhere
        if not strict:
            return f"{title} is never strict: compare where the sides differ"
    return None


def _compare(relation, left, right):
    """(holds, strictly somewhere); holds is None if a tolerance is missing."""
    a, b = left.value, right.value
    if relation == "≈" and all(
        t is None for s in (left, right) for t in (s.se, s.error)
    ):
        return None, False
    if relation == "∝":
        if a.dim() == 0 or a.shape != b.shape or len(a) < 2:
            return False, False
        a, b, relation = a / a.sum(), b / b.sum(), "="
    slack = ATOL + RTOL * torch.maximum(a.abs(), b.abs())
    variance = sum(
        (s.se.square() for s in (left, right) if s.se is not None), torch.zeros(())
    )
    slack = slack + STANDARD_ERRORS * variance.sqrt()
    slack = slack + sum(
        (s.error for s in (left, right) if s.error is not None), torch.zeros(())
    )
    difference = b - a
    if relation in "=≈":
        return bool((difference.abs() <= slack).all()), True
    if relation == "≠":
        return bool((difference.abs() > slack).any()), True
    if relation in ">≥":
        difference = -difference
    strict = difference > slack
    if relation in "<>":
        return bool(strict.all()), True
    return bool((difference >= -slack).all()), bool(strict.any())


def _refuse_wrong_forms(equation, chain, runs, offset):
    names = [(index, name) for index, one in enumerate(runs[0]) for name in one.wrong]
    if not names:
        raise AssertionError(
            f"{equation.label}: no wrong form is offered for {chain.sides[0]!r} …: give a side "
            'wrong={"what was got wrong": value} to show that the check can fail'
        )
    for index, name in names:
        corrupted = []
        for run in runs:
            if name not in run[index].wrong:
                raise AssertionError(
                    f"{equation.label}: wrong form {name!r} is not at every seed"
                )
            value = run[index].wrong[name]
            corrupted.append(
                [*run[:index], replace(run[index], value=value), *run[index + 1 :]]
            )
        shapes = {tuple(s.value.shape) for s in corrupted[0] if s.value.dim()}
        if len(shapes) > 1:
            raise AssertionError(
                f"{equation.label}: the wrong form {name!r} has another shape"
            )
        if not _problem(chain, corrupted, offset):
            raise AssertionError(
                f"{equation.label}: the wrong form {name!r} of side {offset + index + 1} passes "
                f"for right: {_brief(corrupted[0][index].value)}"
            )


def _same(run, other):
    def values(run):
        parts = [v for s in run for v in (s.value, s.se, s.error, *s.wrong.values())]
        return [v for v in parts if v is not None]

    pairs = zip(values(run), values(other), strict=True)
    return all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in pairs
    )


def _one_storage(a, b):
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return a is b or (
        a.numel() > 0 and a.data_ptr() == b.data_ptr() and a.shape == b.shape
    )


def _show(one):
    text = _brief(one.value)
    if one.se is not None:
        text += f", standard error {_brief(one.se)}"
    if one.error is not None:
        text += f", error bound {_brief(one.error)}"
    return text


def _brief(value):
    values = [f"{v:.12g}" for v in value.flatten()[:6].tolist()]
    more = f", … ({value.numel()} values)" if value.numel() > 6 else ""
    return values[0] if value.dim() == 0 else f"[{', '.join(values)}{more}]"
