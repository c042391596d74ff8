import ast
import functools
import inspect
import math
import sys
from importlib import metadata

import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

import companion
from companion import exercises, notebook
from companion.exercises import Exercise, exercise
from companion.notebook import by_device, record, set_up, show, source
from companion.training import devices
from tests.book import GLUE, ROOT


@pytest.fixture(autouse=True)
def _scale_of_the_book(monkeypatch):
    monkeypatch.setenv("COMPANION_SCALE", "cpu")


@pytest.fixture
def displayed(monkeypatch):
    """The (bundle, metadata) pairs that have been displayed."""
    import IPython.display

    shown = []
    monkeypatch.setattr(
        IPython.display,
        "display",
        lambda bundle, raw, metadata=None: shown.append((bundle, metadata)) if raw else 1 / 0,
    )
    return shown


# --- set_up ------------------------------------------------------------------------------------


def test_set_up_says_that_the_cpu_is_enough(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    set_up(companion.__version__)
    assert capsys.readouterr().out == "Ready, on the CPU. That is enough.\n"


@pytest.mark.parametrize(("wish", "longer"), [("", True), ("gpu", True), ("cpu", False)])
def test_set_up_names_the_gpu_and_what_it_is_used_for(wish, longer, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setenv("COMPANION_SCALE", wish)
    set_up(companion.__version__)
    words = " Some chapters train for longer there." if longer else ""
    assert capsys.readouterr().out == f"Ready, on a GPU: Tesla T4.{words}\n"


def test_set_up_says_where_colab_keeps_its_gpus(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "google.colab", None)
    set_up(companion.__version__)
    assert "Runtime > Change runtime type" in capsys.readouterr().out


@pytest.mark.parametrize(("colab", "remedy"), [(True, "delete runtime"), (False, "make setup")])
def test_set_up_refuses_a_package_of_another_version(monkeypatch, colab, remedy):
    monkeypatch.setattr(companion, "__version__", "0.1.0")
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", None)
    with pytest.raises(
        RuntimeError, match=f"version 7.0.0 of the book.* is of version 0.1.0.*{remedy}"
    ):
        set_up("7.0.0")


@pytest.fixture
def needs(monkeypatch):
    """Let the package need this, where `there` is installed at version 1.5."""

    def set_needs(*lines):
        versions = {"there": "1.5", "candidate": "2.0rc1"}

        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "requires", lambda name: [*lines] or None)
        monkeypatch.setattr(metadata, "version", version)

    return set_needs


@pytest.mark.parametrize(
    "lines", [(), ("there>=1",), ("gone; extra == 'test'",), ("candidate>=1.9",), ("there>=1.5",)]
)
def test_set_up_is_content_with_what_is_there(needs, lines, capsys):
    needs(*lines)
    set_up(companion.__version__)
    assert "Ready, " in capsys.readouterr().out


def test_set_up_names_what_is_missing_or_too_old(needs):
    needs("gone>=0.4", "there>=2")
    with pytest.raises(RuntimeError, match=r"gone>=0.4, there>=2 \(here is 1.5\). Install"):
        set_up(companion.__version__)


def test_what_the_package_needs_is_there():
    assert [*notebook._lacking()] == []


def test_lack_of_memory_is_explained_below_the_traceback():
    code = f"from companion.notebook import set_up; set_up({companion.__version__!r})"
    cells = [code, "import torch; raise torch.OutOfMemoryError('5 GiB')", "raise ValueError('x')"]
    client = NotebookClient(
        new_notebook(cells=[new_code_cell(source) for source in cells]),
        allow_errors=True,
        resources={"metadata": {"path": str(ROOT)}},
    )
    _, memory, other = client.execute().cells
    [error] = [o for o in memory.outputs if o.output_type == "error"]
    assert error.ename == "OutOfMemoryError"
    assert "Other notebooks may hold some of it" in memory.outputs[-1].text
    assert [o.output_type for o in other.outputs] == ["error"]


# --- show --------------------------------------------------------------------------------------


def test_show_displays_the_package_source(displayed):
    show(record)
    [(bundle, _)] = displayed
    assert bundle["text/plain"] == "# companion/notebook.py\n" + inspect.getsource(record).rstrip()
    assert bundle["text/markdown"] == f"```python\n{bundle['text/plain']}\n```"


def test_methods_are_dedented_and_say_where_they_live():
    text = source(Exercise.__call__, Exercise.verdict, exercise)
    assert text.startswith(
        "# companion/exercises/__init__.py, class Exercise\ndef __call__(self, answer=None):\n    p"
    )
    assert text.count("class Exercise\n") == 1
    assert "\n\ndef verdict(self" in text
    assert "\n\n# companion/exercises/__init__.py\ndef exercise(label):" in text
    ast.parse(text)


def test_every_kind_of_method():
    class Model:
        __module__ = "companion.notebook"

        @property
        def rate(self):
            return 1

        @classmethod
        def build(cls):
            return 2

        @staticmethod
        def mean():
            return 3

        @torch.no_grad()
        def sample(self):
            return 4

        @functools.cached_property
        def table(self):
            return 5

    for function in (Model.__dict__["mean"], Model.mean, Model.build, Model.__dict__["build"]):
        assert callable(notebook._underlying(_of_package(function)))
    for name in ("rate", "sample", "table"):
        assert notebook._underlying(_of_package(Model.__dict__[name])).__name__ == name
    assert notebook._underlying(_of_package(Model().sample)).__name__ == "sample"


def _of_package(obj):
    inner = obj.fget if isinstance(obj, property) else getattr(obj, "func", obj)
    inspect.unwrap(getattr(inner, "__func__", inner)).__module__ = "companion.notebook"
    return obj


@pytest.mark.parametrize("obj", [ast.parse, torch.nn.Linear, pytest.raises])
def test_show_refuses_what_is_not_of_the_package(obj):
    with pytest.raises(TypeError, match="displays the source of 'companion' only"):
        show(obj)


@pytest.mark.parametrize("obj", [3, "text", notebook, len, ...])
def test_show_refuses_what_has_no_source(obj):
    with pytest.raises(TypeError, match="takes functions, methods, properties and classes"):
        show(obj)


def test_show_of_nothing():
    with pytest.raises(TypeError, match="at least one"):
        show()


CODE = '''class A:
    """Über
    two lines."""

    def only(self):
        """Nothing else."""

    def one_line(self): "é"; return "é"

    @property
    def kept(self):
        r"""Raw.

        More.
        """

        # why
        text = """no docstring"""
        return text

    async def a(self):
        "a"
        return 1
'''


def test_docstrings_are_left_out_and_nothing_else():
    short = notebook._without_docstrings(CODE)
    assert "Über" not in short
    assert "Nothing else" not in short
    assert "# why" in short
    assert '"""no docstring"""' in short

    def stripped(code):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:]
                node.body = [
                    n
                    for n in node.body
                    if not (isinstance(n, ast.Expr) and getattr(n.value, "value", 0) is ...)
                ]
        return ast.dump(tree)

    assert stripped(short) == stripped(CODE)
    assert "Display the source" not in source(show, docstring=False)


# --- record ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "options", "text", "line"),
    [
        (50000, {}, "50,000", "n = 50,000"),
        (torch.tensor(784), {}, "784", "n = 784"),
        (0.12345, {"digits": 2}, "0.12", "n = 0.12"),
        (-1.5, {"digits": 1, "unit": "nats"}, "−1.5", "n = −1.5 nats"),
        ("2¹⁰", {}, "2¹⁰", "n = 2¹⁰"),
        (
            92.3,
            {"expect": 92.0, "within": 0.6, "unit": "nats"},
            "92.0",
            "n = 92.0 nats (checked to within 0.6)",
        ),
        (
            torch.tensor(0.81),
            {"expect": 0.8, "within": 0.1},
            "0.8",
            "n = 0.8 (checked to within 0.1)",
        ),
        (12345.6, {"expect": 12000, "within": 500}, "12,000", "n = 12,000 (checked to within 500)"),
        (
            92.13,
            {"expect": 92.1, "within": 0.1, "digits": 2},
            "92.10",
            "n = 92.10 (checked to within 0.1)",
        ),
    ],
)
def test_record_glues_and_prints(displayed, capsys, value, options, text, line):
    record("n", value, **options)
    [(bundle, metadata)] = displayed
    assert bundle == {GLUE + "text/plain": repr(text)}
    assert metadata == {"scrapbook": {"name": "n", "mime_prefix": GLUE}}
    assert capsys.readouterr().out == line + "\n"


def test_record_is_what_glue_of_myst_nb_emits(displayed, monkeypatch):
    glue = pytest.importorskip("myst_nb.ext.glue")
    theirs = []
    monkeypatch.setattr(
        glue, "ipy_display", lambda bundle, raw, metadata: theirs.append((bundle, metadata))
    )
    monkeypatch.setattr(
        glue.IPython.core.formatters, "format_display_data", lambda v: ({"text/plain": repr(v)}, {})
    )
    glue.glue("n", "50,000", display=False)
    record("n", 50000)
    assert displayed == theirs


@pytest.mark.parametrize(
    ("name", "value", "options", "error", "message"),
    [
        ("n", 93.0, {"expect": 92.0, "within": 0.6}, AssertionError, "not within 0.6 of the exp"),
        ("n", math.nan, {"expect": 92.0, "within": 0.6}, ValueError, "the value is nan"),
        ("n", math.inf, {"digits": 1}, ValueError, "the value is inf"),
        ("n", 92.0, {}, TypeError, "say how many digits="),
        ("n", 92.0, {"expect": 92.0}, TypeError, "expect= and within= together"),
        ("n", 92.0, {"within": 1.0}, TypeError, "expect= and within= together"),
        ("n", 92.0, {"expect": 92.0, "within": 0}, ValueError, "must be positive"),
        ("n", 92.04, {"expect": 92.04, "within": 1, "digits": 1}, ValueError, "would not print"),
        ("n", "a", {"expect": 92.0, "within": 1}, TypeError, "text cannot be compared"),
        ("n", True, {}, TypeError, "bool is not a number"),
        ("n", None, {}, TypeError, "NoneType is not a number"),
        ("A name", 1, {}, ValueError, "lower-case words joined by hyphens"),
        ("a:b", 1, {}, ValueError, "lower-case words joined by hyphens"),
    ],
)
def test_record_refuses(displayed, name, value, options, error, message):
    with pytest.raises(error, match=message):
        record(name, value, **options)
    assert not displayed


# --- scale -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "device", "epochs"),
    [("", "cpu", 12), ("", "cuda", 40), ("gpu", "cpu", 40), ("cpu", "cuda", 12)],
)
def test_settings_are_those_of_the_device(monkeypatch, wish, device, epochs):
    monkeypatch.setenv("COMPANION_SCALE", wish)
    monkeypatch.setattr(devices, "default", lambda: torch.device(device))
    assert by_device(cpu=12, gpu=40) == epochs


def test_a_scale_is_one_of_two(monkeypatch):
    monkeypatch.setenv("COMPANION_SCALE", "tpu")
    with pytest.raises(ValueError, match="COMPANION_SCALE is cpu or gpu, not 'tpu'"):
        by_device(cpu=12, gpu=40)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (
            86.93,
            "n = 86.9 nats here; 89.6 in the book, whose models were trained for a shorter time on "
            "two cores",
        ),
        (89.3, "n = 89.6 nats (checked to within 0.4)"),
    ],
)
def test_a_better_model_is_no_error(displayed, capsys, monkeypatch, value, line):
    monkeypatch.setenv("COMPANION_SCALE", "gpu")
    record("n", value, expect=89.6, within=0.4, unit="nats")
    assert capsys.readouterr().out == line + "\n"
    [(bundle, _)] = displayed
    assert bundle == {GLUE + "text/plain": repr("89.6")}  # the prose is that of the book


def test_a_cell_that_its_reader_has_changed_is_no_error(displayed, capsys, monkeypatch):
    monkeypatch.setenv("COMPANION_SCALE", "")
    monkeypatch.setattr(devices, "default", lambda: torch.device("cpu"))
    record("n", 86.93, expect=89.6, within=0.4, unit="nats")
    line = "n = 86.9 nats here; 89.6 in the book, where it must be within 0.4 of that\n"
    assert capsys.readouterr().out == line
    [(bundle, _)] = displayed
    assert bundle == {GLUE + "text/plain": repr("89.6")}


def test_a_larger_scale_does_not_excuse_a_wrong_call(displayed, monkeypatch):
    monkeypatch.setenv("COMPANION_SCALE", "gpu")
    with pytest.raises(ValueError, match="the value is nan"):
        record("n", math.nan, expect=89.6, within=0.4)
    with pytest.raises(ValueError, match="would not print"):
        record("n", 1.0, expect=89.64, within=0.4, digits=1)


# --- exercises ---------------------------------------------------------------------------------


@exercise("ex-double")
def check_double(answer):
    if answer(2) != 4:
        raise AssertionError("try\n two")


def raises(error):
    def answer(x):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (None, "◻ ex-double: not attempted yet"),
        (..., "◻ ex-double: not attempted yet"),
        (lambda x: None, "◻ ex-double: not attempted yet"),
        (lambda x: ..., "◻ ex-double: not attempted yet"),
        (raises(NotImplementedError), "◻ ex-double: not attempted yet"),
        (lambda x: 3, "✗ ex-double: try two"),
        (
            raises(NotImplementedError('"softmax" not implemented for Long')),
            '✗ ex-double: your answer raises NotImplementedError: "softmax" not implemented for '
            "Long",
        ),
        (raises(KeyError("k")), "✗ ex-double: your answer raises KeyError: 'k'"),
        (raises(ValueError()), "✗ ex-double: your answer raises ValueError"),
        (4, "✗ ex-double: your answer raises TypeError: 'int' object is not callable"),
        (lambda x: 2 * x, "✓ ex-double: correct"),
    ],
)
def test_verdict(answer, verdict, capsys):
    assert check_double.verdict(answer) == verdict
    assert check_double(answer) is None
    assert capsys.readouterr().out == verdict + "\n"


def test_exercise_keeps_its_name_and_label():
    assert (check_double.__name__, check_double.label) == ("check_double", "ex-double")
    with pytest.raises(ValueError, match="must begin with 'ex-'"):
        exercises.exercise("double")(lambda answer: None)


def test_class_as_answer_stays_a_class():
    @exercise("ex-class")
    def check(answer):
        assert issubclass(answer, torch.nn.Module)

    assert check.verdict(torch.nn.Linear) == "✓ ex-class: correct"


def test_assertion_without_message():
    @exercise("ex-silent")
    def check(answer):
        raise AssertionError

    assert check.verdict(1) == "✗ ex-silent: not correct yet"


def test_a_check_leaves_the_reader_s_random_numbers_alone():
    @exercise("ex-draw")
    def check(answer):
        torch.manual_seed(0)
        torch.rand(answer)

    torch.manual_seed(1)
    expected = torch.rand(2)[1]
    torch.manual_seed(1)
    torch.rand(1)
    assert check.verdict(3) == "✓ ex-draw: correct"
    assert torch.rand(1) == expected
