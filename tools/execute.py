"""Execute notebooks of the book and store their outputs, normalised.

    python tools/execute.py                          all chapters
    python tools/execute.py autoregressive-models    this one
    python tools/execute.py --check                  only say which are not normalised
    python tools/execute.py --normalise NAME         only rewrite, do not execute

A notebook whose cell fails is left as it was. Normalised means: no timings, no machine in the
metadata, joined output streams, readable cell ids that stay, one JSON for one content.
"""

import argparse
import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.publish import store  # after the path: this file is also called by its name

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
CELL_METADATA = {"mystnb", "tags"}
TIMEOUT = 3600  # seconds for a cell


class ExecutionError(Exception):
    """A notebook that cannot be stored; the message says which cell and why."""


def normalised(notebook) -> str:
    """The text of a notebook as it is committed.

    Raises:
        ExecutionError: if the stored outputs hold an error or standard error.
    """
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken = set()
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = _readable_id(cell, taken)
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in CELL_METADATA and v}
        cell.pop("attachments", None)
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        if cell.cell_type == "code":
            cell.outputs = _outputs(cell, number)
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def _outputs(cell, number):
    outputs = []
    for output in cell.outputs:
        if output.output_type == "error":
            raise ExecutionError(f"cell {number} ({cell.id}) holds {output.ename}: {output.evalue}")
        if output.output_type == "stream":
            if output.name != "stdout":
                raise ExecutionError(
                    f"cell {number} ({cell.id}) writes to standard error: {output.text.strip()}\n"
                    "A reader would see this below the cell: mend its cause."
                )
            if outputs and outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
                continue
        else:
            keep = output.metadata.get("scrapbook")
            output.metadata = {"scrapbook": keep} if keep else {}
            output.pop("transient", None)
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
        outputs.append(output)
    return outputs


def _readable_id(cell, taken):
    """The cell's own id, unless it is a random one; then some words of its source."""
    name = cell.get("id", "")
    if not name or name in taken or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f-]{32,36}", name):
        words = re.sub(r"`|\$.*?\$|[^\w\s]|_", " ", cell.source).lower().split()
        words = [w for w in words if w.isascii() and w not in ("import", "from")][:4]
        base = "-".join(words)[:48] or cell.cell_type
        name, count = base, 1
        while name in taken or re.fullmatch(r"[0-9a-f]{8}", name):
            count += 1
            name = f"{base}-{count}"
    taken.add(name)
    return name


def execute(path):
    """Run a notebook in its folder, from a fresh kernel, and return it with its outputs."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # nbclient leaves those of cells that it does not reach
        if cell.cell_type == "code":
            cell.execution_count = None
    pictures = {_pixels(data): data for data in _pictures(notebook).values()}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        record_timing=False,
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        ran = [n for n, c in enumerate(notebook.cells, 1) if c.get("execution_count")]
        number = ran[-1] if ran else 1
        message = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        name = notebook.cells[number - 1].get("id")
        raise ExecutionError(f"cell {number} ({name}) failed:\n{message}") from None
    for (cell, position), data in _pictures(notebook).items():
        shown = notebook.cells[cell].outputs[position].data
        shown["image/png"] = pictures.get(_pixels(data)) or _compressed(data)
    return notebook


def _pictures(notebook):
    return {
        (c, o): output.data["image/png"]
        for c, cell in enumerate(notebook.cells)
        for o, output in enumerate(cell.get("outputs", []))
        if "image/png" in output.get("data", {})
    }


def _pixels(data):
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return image.size, image.convert("RGBA").tobytes()


def _compressed(data):
    """The same pixels in fewer bytes and without the plotting library's version."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        if image.mode == "RGBA" and image.getextrema()[3] == (255, 255):
            image = image.convert("RGB")
        if image.mode == "RGB" and image.getcolors(256):
            image = image.quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        image.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def find(names):
    """Paths of the named chapters, or of all."""
    every = {path.stem: path for path in sorted(BOOK.glob("*.ipynb"))}
    unknown = [name for name in names if Path(name).stem not in every]
    if unknown:
        raise SystemExit(
            f"No chapter {', '.join(unknown)}. There are: {', '.join(every) or 'none'}"
        )
    return [every[Path(name).stem] for name in names] or list(every.values())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="*", help="chapters, such as autoregressive-models")
    parser.add_argument("--check", action="store_true", help="only say which are not normalised")
    parser.add_argument("--normalise", action="store_true", help="only rewrite, do not execute")
    options = parser.parse_args(arguments)

    os.environ["COMPANION_PROGRESS"] = "0"  # a progress bar would be stored
    os.environ["COMPANION_SCALE"] = "cpu"  # the book's settings, on any machine
    os.environ.setdefault("PYTHONHASHSEED", "0")
    failed = False
    for path in find(options.name):
        began = time.perf_counter()
        try:
            if options.check or options.normalise:
                text = normalised(nbformat.read(path, as_version=4))
            else:
                print(f"{path.relative_to(ROOT)}: running …", flush=True)
                text = normalised(execute(path))
        except ExecutionError as error:
            print(f"{path.relative_to(ROOT)}: {error}", file=sys.stderr)
            print("The notebook is left as it was.", file=sys.stderr)
            failed = True
            continue
        if options.check:
            if text != path.read_text(encoding="utf-8"):
                print(
                    f"{path.relative_to(ROOT)} is not normalised: "
                    f"python tools/execute.py --normalise {path.stem}"
                )
                failed = True
            continue
        changed = text != path.read_text(encoding="utf-8")
        store(path, text)
        seconds = time.perf_counter() - began
        outcome = "outputs stored" if changed else "nothing changed"
        print(f"{path.relative_to(ROOT)}: {outcome}, {seconds:.0f} s")
        if changed:
            print(f"Next: git diff {path.relative_to(ROOT)}, then make test")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
