"""Instant self-checks: one module per chapter, one function per exercise.

In a chapter the reader passes an answer to the function and reads one line::

    check_parameters(...)    # ◻ ex-parameters: not attempted yet
    check_parameters(783)    # ✗ ex-parameters: count the first pixel's probability, too
    check_parameters(784)    # ✓ ex-parameters: correct
"""

import functools
import inspect

import torch


class NotAttempted(Exception):
    """The answer is still the empty one that the exercise started from."""


class Exercise:
    """A check that turns a reader's answer into one line.

    Args:
        label: the label of the exercise in the chapter, beginning with ``ex-``.
        check: takes the answer and asserts what must hold of it; the message of an assertion is
            what the reader sees, so it hints and does not give the answer away.
    """

    def __init__(self, label, check):
        if not label.startswith("ex-"):
            raise ValueError(f"exercise label {label!r} must begin with 'ex-'")
        self.label, self.check = label, check
        functools.update_wrapper(self, check)

    def __call__(self, answer=None):
        print(self.verdict(answer))

    def verdict(self, answer=None):
        """The line for an answer: ``✓`` correct, ``✗`` and why not, or ``◻`` not attempted."""
        try:
            if _empty(answer):
                raise NotAttempted
            with torch.random.fork_rng(devices=[]):  # checks may seed; the reader's draws go on
                self.check(_watched(answer) if inspect.isfunction(answer) else answer)
        except NotAttempted:
            return f"◻ {self.label}: not attempted yet"
        except AssertionError as error:
            return f"✗ {self.label}: {_one_line(error) or 'not correct yet'}"
        except Exception as error:  # the reader's code may raise anything
            if isinstance(error, NotImplementedError) and not str(error):  # torch's says what
                return f"◻ {self.label}: not attempted yet"
            message = f"your answer raises {type(error).__name__}: {_one_line(error)}"
            return f"✗ {self.label}: {message.rstrip(': ')}"
        return f"✓ {self.label}: correct"


def exercise(label):
    """Decorator: ``def check_x(answer)``, which asserts, is the check of an exercise."""
    return functools.partial(Exercise, label)


def _empty(answer):
    return answer is None or answer is Ellipsis


def _watched(function):
    """``function`` with copies to work on; one that returns None or ``...`` is no attempt."""

    @functools.wraps(function)
    def watched(*args):
        result = function(*(arg.clone() if torch.is_tensor(arg) else arg for arg in args))
        if _empty(result):
            raise NotAttempted
        return result

    return watched


def _one_line(error):
    return " ".join(str(error).split())
