"""On a GPU everything trains and comes back: shown on a pretend one, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from torch.utils import backend_registration

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices made of Python",
)


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COMPANION_SCALE": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )


def python_code(program):
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_shortened_stands_in_a_chapter():
    """What `python -m tests.pretend_chapters` puts in the place of long lists of steps."""
    program = "from tests.pretend_chapters import MOMENTS; print(*MOMENTS, sep='\\n')"
    starts = python_code(program).splitlines()
    sources = "\n".join(
        cell.source
        for path in (ROOT / "book").glob("*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
    )
    assert starts
    assert [start for start in starts if f"\n{start}" not in sources] == []


def test_on_a_pretend_gpu():
    ended = python("pytest", "-p", "no:cacheprovider", "tests/on_pretend.py")
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]


SOUND = """
from torch import nn
from companion import data, training
from companion.notebook import by_device, record
x = (data.mnist().test.images[:50].flatten(1) > 99).float()
class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.middle = nn.Parameter(x[0].clone())
    def forward(self, x):
        return -(x - self.middle).square().sum(-1)
model = Mean()
training.fit(model, data.Batches(x, 10), epochs=by_device(cpu=1, gpu=2))
record("score", model(x).mean(), expect=7, within=1)
assert model(x).mean() == 7
"""
MIXED = """
def watch(step):
    model(x)
run = training.Run(2)
call, = run.prepare(model=model)
for batch in run.batches(data.Batches(x, 10)):
    watch(run.step)
"""


def test_a_cell_that_mixes_devices_is_found(tmp_path):
    path = tmp_path / "chapter.ipynb"
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate([SOUND, MIXED])]
    nbformat.write(new_notebook(cells=[*cells, new_code_cell("model(x)", id="home")]), path)
    ended = python("tests.pretend_chapters", str(path))
    assert ended.returncode == 1, ended.stderr[-2000:]
    first, *found = ended.stdout.strip().split("\n")
    assert first == "chapter: 1 cells fail"
    assert found[0].startswith("chapter, cell-1: RuntimeError: aten::sub: expected all tensors")
    assert found[1].strip() == "model(x)"  # the line of the cell
