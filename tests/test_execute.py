"""tools/execute.py: what it stores, and that a failure leaves the notebook as it was."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import execute
from tools.execute import ExecutionError, normalised


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """What `execute` sets is not for the tests that come after."""
    for name, value in {"PROGRESS": "1", "SCALE": "gpu"}.items():
        monkeypatch.setenv(f"COMPANION_{name}", value)
    monkeypatch.setenv("PYTHONHASHSEED", "0")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty folder in place of book/."""
    monkeypatch.setattr(execute, "BOOK", tmp_path)
    monkeypatch.setattr(execute, "ROOT", tmp_path)

    def add(name, *cells):
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=list(cells)), path)
        return path

    return add


def code(source, **attributes):
    return new_code_cell(source, **attributes)


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def read(text):
    return nbformat.reads(text, as_version=4)


def test_normalising_twice_changes_nothing_more():
    cells = [new_markdown_cell("# A *title*, of words  \n"), code("x = 1", outputs=[stream("1")])]
    once = normalised(new_notebook(cells=cells))
    assert normalised(read(once)) == once
    assert once.endswith("}\n")


def test_metadata_of_the_machine_is_dropped():
    book = new_notebook(
        cells=[
            code(
                "x",
                metadata={
                    "execution": {"iopub.status.busy": "2026"},
                    "scrolled": True,
                    "tags": ["nbval-skip"],
                    "mystnb": {"image": {"alt": "a"}},
                },
                execution_count=3,
                outputs=[
                    stream("a\n"),
                    stream("b\n"),
                    new_output(
                        "execute_result",
                        {"text/plain": "1"},
                        metadata={"needs_background": "light"},
                        execution_count=7,
                    ),
                ],
            )
        ],
        metadata={
            "kernelspec": {"name": "venv", "display_name": "venv"},
            "widgets": {},
            "colab": {"x": 1},
        },
    )
    after = read(normalised(book))
    assert after.metadata == {"kernelspec": execute.KERNEL, "language_info": execute.LANGUAGE}
    [cell] = after.cells
    assert set(cell.metadata) == {"tags", "mystnb"}
    assert cell.outputs[0].text == "a\nb\n"
    assert cell.outputs[1].metadata == {}
    assert cell.outputs[1].execution_count == 3


def test_random_ids_become_readable_and_then_stay():
    cells = [
        new_markdown_cell("## The chain rule, $x$ and `y`"),
        code("x = 1"),
        code("x = 1"),
    ]
    cells.append(new_markdown_cell("kept", id="a-name"))
    after = read(normalised(new_notebook(cells=cells)))
    ids = [cell.id for cell in after.cells]
    assert ids == ["the-chain-rule-and", "x-1", "x-1-2", "a-name"]
    after.cells.insert(0, new_markdown_cell("New", id="new"))
    assert [cell.id for cell in read(normalised(after)).cells] == ["new", *ids]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (stream("careful", "stderr"), r"cell 1 \(x\) writes to standard error: careful"),
        (new_output("error", ename="E", evalue="no", traceback=[]), r"cell 1 \(x\) holds E: no"),
    ],
)
def test_errors_are_not_stored(output, message):
    with pytest.raises(ExecutionError, match=message):
        normalised(new_notebook(cells=[code("x", outputs=[output])]))


def test_execute_stores_outputs(book, capsys):
    asked = "import os; print(*(os.environ[f'COMPANION_{x}'] for x in ('PROGRESS', 'SCALE')))"
    path = book("one", code(asked), code("1 + 1"))
    assert execute.main(["one"]) == 0
    first, second = nbformat.read(path, as_version=4).cells
    assert (first.execution_count, first.outputs[0].text) == (1, "0 cpu\n")
    assert second.outputs[0].data == {"text/plain": "2"}
    assert "one.ipynb: outputs stored" in capsys.readouterr().out
    before = path.read_text("utf-8")
    assert execute.main(["one", "--check"]) == 0
    assert execute.main(["one.ipynb"]) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert path.read_text("utf-8") == before
    assert [file.name for file in path.parent.iterdir()] == ["one.ipynb"]


@pytest.mark.parametrize(
    ("source", "message"),
    [("1 / 0", "ZeroDivisionError"), ("import sys; print('careful', file=sys.stderr)", "careful")],
)
def test_failure_leaves_the_notebook(book, capsys, source, message):
    cells = [code("x = 1"), new_markdown_cell("text"), code(source, id="bad-cell")]
    path = book("one", *cells, code("x", execution_count=9))  # of an earlier run
    before = path.read_bytes()
    assert execute.main([]) == 1
    err = capsys.readouterr().err
    assert "one.ipynb: cell 3 (bad-cell)" in err
    assert message in err
    assert "left as it was" in err
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["one.ipynb"]


def test_check_and_normalise(book, capsys):
    path = book("one", code("x = 1", metadata={"scrolled": True}))
    assert execute.main(["--check"]) == 1
    assert "one.ipynb is not normalised: python tools/execute.py --normalise one" in (
        capsys.readouterr().out
    )
    assert execute.main(["--normalise"]) == 0
    assert execute.main(["--check"]) == 0
    assert nbformat.read(path, as_version=4).cells[0].execution_count is None


def test_unknown_chapter(book):
    book("one", code("x"))
    with pytest.raises(SystemExit, match=r"No chapter two\. There are: one"):
        execute.main(["one", "two"])


def test_pictures_shrink_and_do_not_change_for_nothing():
    import base64
    import io

    import matplotlib.figure

    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    small = execute._compressed(data)
    assert len(small) < len(data)
    assert b"Matplotlib" not in base64.b64decode(small)
    assert execute._pixels(small) == execute._pixels(data)
