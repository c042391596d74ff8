"""Whether the self-checks of a chapter's exercises say everything that they could say."""

import ast
from collections.abc import Collection, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from companion.exercises import Exercise


def assert_every_hint_is_given(
    module: ModuleType,
    wrong: Iterable[tuple[Exercise, object, str]],
    *,
    least: int,
    functions: tuple[str, ...] = ("check",),
    names: Collection[str] = (),
) -> None:
    """Each text of a module of checks is told to one of the wrong answers.

    Args:
        wrong:     a check, an answer that it refuses, and why.
        least:     more texts than this are found, or the search has gone blind.
        functions: how the functions begin in which texts are hints.
        names:     texts of several words there that are none.
    """
    told = []
    for check, answer, _ in wrong:
        with pytest.raises(AssertionError) as problem:
            check.check(answer)
        told.append(str(problem.value))
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    hints = {
        node.value
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name.startswith(functions)
        for node in ast.walk(ast.Module(function.body[1:], []))  # without the docstring
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    } - set(names)
    unused = [hint for hint in hints if not any(hint in message for message in told)]
    assert len(hints) > least
    assert not unused, "\n".join(unused)
