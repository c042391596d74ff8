"""What chapters call: to begin, to show the package's source, to hand numbers to the prose."""

import ast
import functools
import inspect
import math
import os
import re
import sys
from decimal import Decimal
from importlib import metadata
from pathlib import Path

import companion

_PACKAGE = __name__.partition(".")[0]
_OF_THE_BOOK = "whose models were trained for a shorter time on two cores"
_RECORD = "application/papermill.record/"  # the MIME prefix under which myst_nb keeps glue


def set_up(version):
    """Say where a chapter runs, once what it needs is found to be there.

    Args: version: of the book that the chapter belongs to.

    Raises:
        RuntimeError: if the package is of another version; if what it needs is missing.
    """
    if companion.__version__ != version:
        raise RuntimeError(
            f"This chapter is of version {version} of the book, but the package 'companion' that "
            f"is installed is of version {companion.__version__}. {_remedy()}"
        )
    if lacking := [*_lacking()]:
        raise RuntimeError(
            f"The package 'companion' needs {', '.join(lacking)}. Install what is missing, with "
            "%pip install and these names, restart the kernel and run this cell again."
        )
    import torch

    if torch.cuda.is_available():
        longer = " Some chapters train for longer there." if _larger() else ""
        print(f"Ready, on a GPU: {torch.cuda.get_device_name()}.{longer}")
    elif _in_colab():
        print(
            "Ready, on the CPU. That is enough. A GPU is quicker: choose one under Runtime > "
            "Change runtime type, and run this cell again."
        )
    else:
        print("Ready, on the CPU. That is enough.")
    _explain_lack_of_memory()


def show(*objects, docstring=True):
    """Display the source of functions, methods, properties or classes of this package.

    Args:
        objects: what to show; consecutive ones from the same place stand under one heading comment.
        docstring: whether to print the docstrings too.

    Raises:
        TypeError: if an object is not a function, method, property or class of the package.
    """
    if not objects:
        raise TypeError("show() needs at least one function, method, property or class")
    from IPython.display import display

    code = source(*objects, docstring=docstring)
    bundle = {"text/markdown": f"```python\n{code}\n```", "text/plain": code}
    display(bundle, raw=True)


def source(*objects, docstring=True):
    """The text that :func:`show` displays."""
    blocks, last = [], None
    for obj in objects:
        function = _underlying(obj)
        code = "".join(inspect.getsourcelines(function)[0])
        indent = re.match(r"[ \t]*", code)[0]
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE).rstrip()
        owner = function.__qualname__.rpartition(".")[0]
        place = _path(function) + (f", class {owner}" if owner else "")
        heading = f"# {place}\n" if place != last else ""
        blocks.append(heading + (code if docstring else _without_docstrings(code)))
        last = place
    return "\n\n".join(blocks)


def by_device(*, cpu, gpu):
    """Choose a setting by what there is to compute on: ``epochs=by_device(cpu=12, gpu=40)``.

    The first is the book's own, made for two cores; its numbers in the prose come from it. Where
    the package would train on a GPU, a chapter takes the second, and `record` says how far the
    numbers are from the book's. COMPANION_SCALE, cpu or gpu, overrules what is there.
    """
    return gpu if _larger() else cpu


def record(name, value, *, expect=None, within=None, unit="", digits=None):
    """Hand a number to the prose, which prints it with ``{glue:text}`name```.

    An exact value is glued as it is: ``record("images", 50000)`` glues "50,000". A value that
    depends on training or on the machine states what is expected of it and within which distance;
    the *expected* text is then glued, so that the stored output is the same everywhere. Where the
    book is checked, which sets COMPANION_SCALE to cpu, a value that lies elsewhere is an error. A
    reader, who may have changed the cell, or has a GPU and the larger settings of `by_device`, sees
    it beside the book's.

    Args:
        name: lower-case words joined by hyphens, unique in the chapter.
        value: a number, a tensor with one element, or (exact only) a text.
        expect: the number to print, in the digits in which it is written here.
        within: the largest permitted ``abs(value - expect)``.
        unit: printed in the line below the cell, not glued.
        digits: decimals to print; a ``float`` without ``expect`` must state them.

    Raises:
        AssertionError: if the value is not within the stated distance, where the book is checked.
        TypeError, ValueError: if the call itself makes no sense; the message says how to mend it.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"record name {name!r}: use lower-case words joined by hyphens")
    if (expect is None) != (within is None):
        raise TypeError(f"record({name!r}): give expect= and within= together, or neither")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"record({name!r}): {type(value).__name__} is not a number or a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"record({name!r}): the value is {value}")

    if expect is None:
        text, tolerance = _text(name, value, digits), ""
    else:
        if isinstance(value, str):
            raise TypeError(f"record({name!r}): a text cannot be compared with expect={expect}")
        if not within > 0:
            raise ValueError(f"record({name!r}): within={within} must be positive")
        near = abs(value - expect) <= within
        if not near and os.environ.get("COMPANION_SCALE") == "cpu":
            raise AssertionError(
                f"{name} = {value:.6g} is not within {within} of the expected {expect}: "
                "find out what changed, or mend the expectation and the prose around it"
            )
        if digits is None:
            digits = max(0, -Decimal(str(expect)).as_tuple().exponent)
        if round(expect, digits) != expect:
            raise ValueError(f"record({name!r}): digits={digits} would not print expect={expect}")
        text, tolerance = _text(name, expect, digits), f" (checked to within {within})"
        if not near:
            _glue(name, text)
            ours = _text(name, float(value), digits)
            why = _OF_THE_BOOK if _larger() else f"where it must be within {within} of that"
            print(f"{name} = {ours} {unit}".rstrip() + f" here; {text} in the book, {why}")
            return
    _glue(name, text)
    print(f"{name} = {text} {unit}".rstrip() + tolerance)


def _in_colab():
    return "google.colab" in sys.modules


def _remedy():
    if _in_colab():
        return "Choose Runtime > Disconnect and delete runtime, and begin again with this cell."
    return "In a clone of the book, `make setup` installs the clone's own."


def _lacking():
    """What the package needs and does not find, with what is there instead."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires("companion") or []]
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return
    for each in needed:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{each.name}{each.specifier}"
        try:
            found = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            yield wanted
        else:
            if not each.specifier.contains(found, prereleases=True):
                yield f"{wanted} (here is {found})"


def _explain_lack_of_memory():
    """Below the traceback of a cell whose device ran out of memory, print what helps."""
    import torch
    from IPython import get_ipython

    def explain(shell, kind, error, traceback, tb_offset=None):
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
        print(
            "The GPU has too little memory left. Other notebooks may hold some of it: shut them "
            "down, restart this kernel and run the cells again. If that does not help, ask for a "
            'smaller batch_size, or hide the GPU: import os; os.environ["CUDA_VISIBLE_DEVICES"] '
            '= "", in the first cell, before anything else.',
            file=sys.stderr,
        )

    if shell := get_ipython():
        shell.set_custom_exc((torch.OutOfMemoryError,), explain)


def _larger():
    """Whether chapters take the larger settings."""
    wish = os.environ.get("COMPANION_SCALE")
    if wish:
        if wish not in ("cpu", "gpu"):
            raise ValueError(f"COMPANION_SCALE is cpu or gpu, not {wish!r}")
        return wish == "gpu"
    from companion.training import devices

    return devices.default().type != "cpu"


def _underlying(obj):
    """The function or class of this package behind an object, or a TypeError."""
    if isinstance(obj, property):
        obj = obj.fget
    elif isinstance(obj, functools.cached_property):
        obj = obj.func
    obj = inspect.unwrap(getattr(obj, "__func__", obj))
    if not (inspect.isfunction(obj) or inspect.isclass(obj)):
        raise TypeError(f"show() takes functions, methods, properties and classes, not {obj!r}")
    if obj.__module__.partition(".")[0] != _PACKAGE:
        raise TypeError(
            f"show() displays the source of {_PACKAGE!r} only; "
            f"{obj.__qualname__} is from {obj.__module__!r}"
        )
    return obj


def _path(obj):
    file = Path(inspect.getsourcefile(obj)).resolve()
    return file.relative_to(Path(__file__).resolve().parents[1]).as_posix()


def _without_docstrings(code):
    """``code`` without its docstrings, by their positions in the syntax tree."""
    lines = code.encode().split(b"\n")  # ast counts columns in bytes
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    owners = [n for n in ast.walk(ast.parse(code)) if isinstance(n, kinds)]
    for node in sorted(owners, key=lambda node: -node.lineno):
        if ast.get_docstring(node, clean=False) is None:
            continue
        doc = node.body[0]
        first, last = doc.lineno - 1, doc.end_lineno - 1
        if len(node.body) > 1 and node.body[1].lineno > doc.end_lineno:
            after = last + 1
            while not lines[after].strip():
                after += 1
            del lines[first:after]
        else:  # nothing else on the following lines: keep the body valid
            head, tail = lines[first][: doc.col_offset], lines[last][doc.end_col_offset :]
            lines[first : last + 1] = [head + b"..." + tail]
    return b"\n".join(lines).decode()


def _text(name, value, digits):
    if isinstance(value, str):
        return value
    if isinstance(value, float) and digits is None:
        raise TypeError(f"record({name!r}): say how many digits= of {value} to print")
    text = f"{value:,}" if digits is None else f"{value:,.{digits}f}"
    return text.replace("-", "−")


def _glue(name, text):
    """What ``myst_nb.glue(name, text, display=False)`` does, also where it is not installed."""
    from IPython.display import display

    metadata = {"scrapbook": {"name": name, "mime_prefix": _RECORD}}
    display({_RECORD + "text/plain": repr(text)}, raw=True, metadata=metadata)
