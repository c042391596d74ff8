"""Run chapters on the pretend GPU with next to no training, and list the cells that would fail.

    python -m tests.pretend_chapters [NAMES]

A name is a chapter's, or the path of a notebook; left out: all chapters, which takes some minutes.
Results mean nothing then: asserts are evaluated and not heeded, scores are those of a few examples.
What is left is what a GPU asks of a cell, that its tensors be on the same device.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import os
import sys
import time
import traceback
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"

import matplotlib.pyplot as plt
import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from companion import aae, data, evaluation, figures, sample_scores, training
from companion.training import Run
from tests import pretend

BOOK = Path(__file__).parents[1] / "book"
STEPS = 2  # an epoch
FEW = 20  # examples of a score
TRAIN = 8000  # images to train on
# Steps at which a chapter looks at a game, and how many there are of an epoch.
MOMENTS = {
    "pauses = [0, 20, 50,": "pauses = [0, 50, 60]",
    "moments = [100, 300,": "moments = [10, 32]",
}


def shorten() -> None:
    """Make everything quick that takes long and is the same on all devices."""
    whole = data.mnist()
    train = type(whole.train)(*(each[:TRAIN] for each in whole.train))
    data.mnist = data.fashion_mnist = lambda: whole._replace(train=train)
    length = data.Batches.__len__
    data.Batches.__len__ = lambda batches: min(STEPS, length(batches))
    training.Run = lambda steps, **settings: Run(min(steps, 3), **settings)
    score = Run.score
    Run.score = lambda run, model, x, batch_size: score(run, model, x[:FEW], batch_size)
    plt.show = lambda: plt.close("all")
    figures.slider = lambda values, draw, **_: [draw(values[i]) for i in (0, -1)]

    likelihoods, draws = evaluation.log_likelihoods, evaluation.importance_sampled_log_prob

    @functools.wraps(likelihoods)
    def few_likelihoods(model, x, *args, **kwargs):
        return repeated(likelihoods(model, x[:FEW], *args, **kwargs), len(x))

    @functools.wraps(draws)
    def few_draws(model, x, samples, *args, **kwargs):
        found = draws(model, x[:FEW], min(samples, 3), *args, **kwargs)
        return tuple(repeated(each, len(x)) for each in found)

    evaluation.log_likelihoods, evaluation.importance_sampled_log_prob = few_likelihoods, few_draws
    cut = aae.surgery_estimate

    @functools.wraps(cut)
    def few_cuts(*args, samples, **kwargs):
        return cut(*args, samples=FEW, **kwargs)

    aae.surgery_estimate = few_cuts
    test = aae.mmd_test

    @functools.wraps(test)
    def few_deals(a, b, *args, **kwargs):
        return test(a[:FEW], b[:FEW], *args, **kwargs)

    aae.mmd_test = few_deals
    sample_scores.kmeans = lambda x, k, seed, **_: x[:k]
    for name in ("nearest_neighbours", "_parzen", "precision_recall"):
        setattr(sample_scores, name, of_few(getattr(sample_scores, name)))


def repeated(values, count):
    return values.repeat(-(-count // len(values)))[:count]


def of_few(score):
    """A score of two sets, of a few examples of each."""

    @functools.wraps(score)
    def scored(a, b, *args, **kwargs):
        return score(a[: 5 * FEW], b[: 5 * FEW], *args, **kwargs)

    return scored


class Hasty(ast.NodeTransformer):
    """Asserts are evaluated, and that is all; long loops are short."""

    def visit_For(self, node):
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and node.target.id == "_":
            node.iter = ast.Subscript(node.iter, ast.Slice(upper=ast.Constant(150)), ast.Load())
        return node

    def visit_Assert(self, node):
        return ast.copy_location(ast.Expr(node.test), node)


def failures(path: Path) -> list[str]:
    """What is wrong with the cells of a chapter."""
    book, name = nbformat.read(path, as_version=4), path.stem
    names, found = {"__name__": "__main__"}, []
    for cell in book.cells:
        if cell.cell_type != "code":
            continue
        source = TransformerManager().transform_cell(cell.source)
        for start, moments in MOMENTS.items():
            lines = source.split("\n")
            source = "\n".join(moments if x.startswith(start) else x for x in lines)
        tree = ast.fix_missing_locations(Hasty().visit(ast.parse(source)))
        begin = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(tree, cell.id, "exec"), names)
        except Exception:
            line = next(x for x in reversed(traceback.format_exc().split("\n")) if x)
            where = [t for t in traceback.extract_tb(sys.exc_info()[2]) if t.filename == cell.id]
            at = source.split("\n")[where[-1].lineno - 1].strip() if where else ""
            found.append(f"{name}, {cell.id}: {line}\n    {at}")
            if os.environ.get("TRACE"):
                traceback.print_exc()
        if (spent := time.perf_counter() - begin) > 3:
            print(f"{name}, {cell.id}: {spent:.0f} s", file=sys.stderr)
        plt.close("all")
    return found


def main(chapters: list[str]) -> None:
    pretend.install()
    shorten()
    paths = [Path(x) if x.endswith(".ipynb") else BOOK / f"{x}.ipynb" for x in chapters]
    total = 0
    for path in paths or sorted(BOOK.glob("*.ipynb")):
        found = failures(path)
        total += len(found)
        print(f"{path.stem}: {len(found)} cells fail", *found, sep="\n", flush=True)
    sys.exit(total > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
