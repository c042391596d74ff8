"""Shows a figure of a chapter on another page: ``{chapter-figure} book/chapter tag``.

The picture is the one that is stored with the chapter's cell of that tag, and so are the words that
say what it shows.
"""

import base64
import hashlib
import os
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class ChapterFigure(SphinxDirective):
    """The picture of a cell."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        name, tag = self.arguments
        path = Path(self.env.srcdir, f"{name}.ipynb")
        if not path.exists():
            raise self.error(f"there is no chapter {name}")
        self.env.note_dependency(str(path))
        cells = nbformat.read(path, as_version=4).cells
        tagged = [cell for cell in cells if tag in cell.metadata.get("tags", [])]
        outputs = [output.get("data", {}) for cell in tagged for output in cell.get("outputs", [])]
        pictures = [data["image/png"] for data in outputs if "image/png" in data]
        if len(pictures) != 1:
            raise self.error(f"{name} has {len(pictures)} pictures with the tag {tag}, not one")
        png = base64.b64decode(pictures[0])
        folder = Path(self.env.app.outdir).parent / "jupyter_execute"  # where myst_nb has its own
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{hashlib.sha256(png).hexdigest()}.png"
        file.write_bytes(png)
        address = Path(os.path.relpath(file, self.env.srcdir)).as_posix()
        alt = tagged[0].metadata.mystnb.image.alt
        return [nodes.image("", uri=f"/{address}", alt=alt, align="center")]


def setup(app: Sphinx) -> dict:
    app.add_directive("chapter-figure", ChapterFigure)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
