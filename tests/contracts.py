"""Contracts 1, 2 and 4, and what every chapter owes its readers, as functions that list problems.

Each returns one line per problem, which names the page and the cell and says what to do;
an empty list is a pass. ``test_book.py`` applies them to the book, ``test_contracts.py`` to
small notebooks that break them one by one. Contract 3 is in ``prose.py``.
"""

import ast
import dis
import importlib
import pkgutil
import re
import types
from functools import lru_cache

import companion.exercises
from companion.notebook import source
from tests.book import ROOT
from tests.latex import normalise
from tools.execute import ExecutionError, normalised

EXEMPT_SHARE = 0.1
LARGEST = 1_500_000  # bytes of a notebook
WIDEST = 90  # columns of the package's source that fit on the page of a laptop
PARTS = {
    "what you will be able to do": r"able to do",
    "summary": r"summary",
    "exercises": r"exercises",
    "further reading": r"further reading",
}
_EXEMPT = {"nbval-ignore-output", "nbval-skip", "pytest-validate-ignore-output"}
_SKIPS_MARK = re.compile(r"^\s*#\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE\w*)", re.M)
_THROW = re.compile(r'\.(\w+)\.images,\s*(?:seed=)?data\.SEEDS\["(\w+)"\]')
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_IMAGES = ("image/png", "image/jpeg", "image/svg+xml")


# --- contract 1: the code on the page is the code that is tested --------------------------------


def code_problems(chapter):
    names, bodies = _package()
    problems, imports = [], []
    for cell in chapter.code_cells:
        try:
            tree = ast.parse(cell.code)
        except SyntaxError as error:
            problems.append(f"{cell}: {error}")
            continue
        for split, seed in _THROW.findall(cell.code):
            if split != seed:  # scores would not compare with those of other chapters
                problems.append(f"{cell}: {split} images are thrown with SEEDS[{seed!r}]")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [a.name for a in node.names]
                if isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                if any(module.partition(".")[0] == "companion" for module in modules):
                    imports.append(node)
            elif isinstance(node, _FUNCTIONS | ast.ClassDef):
                if node.name in names:
                    problems.append(
                        f"{cell}: defines {node.name} again, which {names[node.name]} has: import "
                        "it, and show() it where the reader should see it"
                    )
                elif (body := _body(node)) in bodies:
                    problems.append(
                        f"{cell}: {node.name} is a copy of {bodies[body]}: import it, and show() "
                        "it where the reader should see it"
                    )
    if not imports:
        problems.append(f"{chapter.path.name}: never imports companion")
    return problems + list(_stale_sources(chapter, imports))


@lru_cache
def _package():
    """({public name: module}, {normalised body: where}) of all functions and classes."""
    names, bodies = {}, {}
    for path in sorted((ROOT / "companion").rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS | ast.ClassDef):
                if (body := _body(node)) is not None:
                    bodies.setdefault(body, f"{node.name} in {where}")
                if node in tree.body and not node.name.startswith("_"):
                    names[node.name] = where
    return names, bodies


def _body(node):
    """The code of a function or class whatever its names are, or None if it is too short."""
    statements = node.body
    if ast.get_docstring(node, clean=False) is not None:
        statements = statements[1:]
    text = ast.unparse(ast.Module(statements, [])).strip()
    if len(text) < 60:
        return None
    numbers = {}

    def number(name):
        return numbers.setdefault(name, f"v{len(numbers)}")

    tree = ast.parse(text)
    for child in ast.walk(tree):
        if isinstance(child, ast.Name):
            child.id = number(child.id)
        elif isinstance(child, ast.arg):
            child.arg, child.annotation = number(child.arg), None
        elif isinstance(child, _FUNCTIONS | ast.ClassDef):
            child.name = number(child.name)
            if ast.get_docstring(child, clean=False) is not None:
                child.body = child.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _stale_sources(chapter, imports):
    """Stored outputs of show() that are not the package's present source, or too wide."""
    names = {}
    for node in imports:
        exec(compile(ast.Module([node], []), chapter.path.name, "exec"), names)
    for cell in chapter.code_cells:
        calls = [
            node
            for node in ast.walk(ast.parse(cell.code))
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "show"
        ]
        calls.sort(key=lambda node: node.lineno)
        stored = [
            output.data.get("text/plain")
            for output in cell.outputs
            if str(output.get("data", {}).get("text/markdown", "")).startswith("```python\n# comp")
        ]
        if len(stored) != len(calls):
            yield f"{cell}: {len(calls)} calls of show(), {len(stored)} sources stored: execute it"
            continue
        for call, text in zip(calls, stored, strict=True):
            shown = ", ".join(map(ast.unparse, call.args))
            tree = ast.Expression(ast.Tuple(call.args, ast.Load()))
            arguments = compile(ast.fix_missing_locations(tree), "show", "eval")
            options = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            try:
                present = source(*eval(arguments, names), **options)
            except (NameError, AttributeError, TypeError) as error:
                yield f"{cell}: show({shown}): {error}: import what is shown from companion"
                continue
            if present != text:
                yield f"{cell}: the stored source of {shown} is not the package's: execute it again"
            for line in present.splitlines():
                if len(line) > WIDEST:
                    yield f"{cell}: show({shown}): more than {WIDEST} columns: {line.strip()}"


# --- contract 2: every display equation has a label, and every label a check --------------------


def equation_problems(pages, equations):
    seen = {}
    for page in pages:
        for cell in page.cells:
            document = cell.document
            for stray in dict.fromkeys(document.stray):
                yield f"{cell}: {stray}: write display equations as $$ … $$ (label)"
            for shown in document.equations:
                latex = " ".join(shown.latex.split())
                if not shown.label:
                    yield f"{cell}: the equation {latex!r} has no label: write $$ … $$ (label)"
                elif not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", shown.label):
                    yield f"{cell}: equation label {shown.label!r}: use lower-case words"
                elif shown.label in seen:
                    yield f"{cell}: the label {shown.label!r} is taken in {seen[shown.label]}"
                elif shown.label not in equations:
                    yield f"{cell}: no check for the equation {shown.label!r} in tests/equations/"
                else:
                    check = equations[shown.label]
                    if normalise(check.latex) != normalise(shown.latex):
                        yield (
                            f"{cell}: the equation {shown.label!r} is not the one that is checked:"
                            f"\n  page:  {latex}\n  check: {' '.join(check.latex.split())}"
                        )
                    if check.chapter != page.name:
                        yield f"{cell}: {shown.label!r} is checked for another page, {check.path}"
                seen.setdefault(shown.label, cell)
    for label in equations.keys() - seen.keys():
        yield f"{equations[label].path}: no display equation has the label {label!r}"


# --- contract 4: executed, and compared by nbval ------------------------------------------------


def execution_problems(chapter):
    expected = 1
    for cell in chapter.code_cells:
        if not cell.source.strip():
            yield f"{cell}: empty"
        elif cell.node.execution_count is None:
            yield f"{cell}: not executed: python tools/execute.py {chapter.name}"
        elif cell.node.execution_count != expected:
            yield (
                f"{cell}: execution count {cell.node.execution_count} instead of {expected}: run "
                "all cells in order from a fresh kernel"
            )
        expected += 1
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{cell}: stored error {output.ename}: {output.evalue}"
            elif output.output_type == "stream" and output.name != "stdout":
                yield f"{cell}: writes to standard error: {output.text.strip()[:80]}"
        if cell.node.execution_count and not cell.outputs and _prints(cell):
            yield f"{cell}: its output is stripped: python tools/execute.py {chapter.name}"


def _prints(cell):
    """Whether a cell surely has output: a top-level print(), show(), record(), plt.show() …"""
    calls = ("print", "show", "record", "display")
    for node in ast.parse(cell.code).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if getattr(function, "id", getattr(function, "attr", None)) in calls:
                return True
    return False


def rerun_problems(chapter):
    """What a reader would trip over who goes back, changes a cell and runs it again."""
    cells = [(cell, *_names(cell.code)) for cell in chapter.code_cells]
    for place, (cell, taken, _) in enumerate(cells):
        taken &= {name for _, _, given in cells[:place] for name in given}
        for later, _, given in cells[place:]:
            for name in sorted(taken & given):
                yield (
                    f"{cell}: takes {name} from a cell above, and {later} gives it another value, "
                    "which it would take when it is run again: choose another name"
                )


def _names(code):
    """The names that a cell takes from those above, and those that it gives; but for imports."""
    taken, given, imported, within = set(), set(), False, set()
    module = compile(code, "cell", "exec")
    for step in dis.get_instructions(module):
        if step.opname == "LOAD_NAME" and step.argval not in given:
            taken.add(step.argval)
        elif step.opname == "STORE_NAME" and not imported:
            given.add(step.argval)
        imported = step.opname in ("IMPORT_NAME", "IMPORT_FROM")
    inner = [each for each in module.co_consts if isinstance(each, types.CodeType)]
    for function in inner:  # grows: functions within functions
        inner += [each for each in function.co_consts if isinstance(each, types.CodeType)]
        within |= {
            step.argval
            for step in dis.get_instructions(function)
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        }
    return taken | (within - given), given


def exemption_problems(chapter):
    code = chapter.code_cells
    exempt = [c for c in code if _EXEMPT & set(c.tags) or _SKIPS_MARK.search(c.source)]
    if code and len(exempt) > EXEMPT_SHARE * len(code):
        yield (
            f"{chapter.path.name}: {len(exempt)} of {len(code)} code cells are exempt from nbval, "
            f"more than {EXEMPT_SHARE:.0%}: {', '.join(str(c.node.get('id')) for c in exempt)}"
        )
    for key in chapter.notebook.metadata.keys() - {"kernelspec", "language_info", "widgets"}:
        yield f"{chapter.path.name}: notebook metadata {key!r}: a whole chapter cannot be exempt"
    for cell in code:
        if "raises-exception" in cell.tags:
            yield f"{cell}: catch the error and print it; nbval does not compare tracebacks"


def form_problems(chapter):
    name = chapter.path.name
    text = chapter.path.read_text(encoding="utf-8")
    if len(text.encode()) > LARGEST:
        yield f"{name}: {len(text.encode()):,} bytes, more than {LARGEST:,}: make figures smaller"
    try:
        if normalised(chapter.notebook) != text:
            yield f"{name}: not normalised: python tools/execute.py --normalise {chapter.name}"
    except ExecutionError as error:
        yield f"{name}: {error}"


# --- what every chapter owes its readers --------------------------------------------------------


def part_problems(chapter):
    headings = [heading.lower() for heading in chapter.headings]
    for part, pattern in PARTS.items():
        if not any(re.search(pattern, heading) for heading in headings):
            yield f"{chapter.path.name}: no section “{part}”"
    opening = ""
    for cell in chapter.cells:
        if cell.is_code:
            break
        opening += " ".join(block.text for block in cell.document.blocks) + "\n"
    if "?" not in opening:
        yield f"{chapter.path.name}: no question before the first code cell"


def figure_problems(chapter):
    alts = {}
    for cell in chapter.cells:
        kinds = [k for o in cell.outputs for k in o.get("data", {})]
        if any(kind.endswith(_IMAGES) and kind not in _IMAGES for kind in kinds):
            yield f"{cell}: glues a picture, which nbval compares byte for byte: display it instead"
        shown = [cell.alt for kind in kinds if kind in _IMAGES]
        if len(shown) > 1:
            yield f"{cell}: {len(shown)} pictures with one alt text: one picture per cell"
        for alt in shown[:1] + [alt for alt, _ in cell.document.images]:
            if not alt:
                yield f"{cell}: a picture without alt text: set mystnb.image.alt in its metadata"
            elif re.search(r"\.(png|jpe?g|svg|gif)\b|^\S*/\S*$", alt):
                yield f"{cell}: the alt text is a path: {alt!r}"
            elif len(alt) < 30 or len(alt.split()) < 5:
                yield f"{cell}: the alt text {alt!r} does not say what the picture shows"
            elif alt in alts:
                yield f"{cell}: the same alt text as {alts[alt]}"
            alts.setdefault(alt, cell)
        for output in cell.outputs:
            html = str(output.get("data", {}).get("text/html", ""))
            if re.search(r"<img(?![^>]*\balt=.[^\"'>]{29})", html):
                yield f"{cell}: an <img> in the output without an alt text that says what it shows"


def exercise_checks():
    """{label: name of its check} for all exercises of the package."""
    found = {}
    for module in pkgutil.iter_modules(companion.exercises.__path__):
        module = importlib.import_module(f"companion.exercises.{module.name}")
        for name, value in vars(module).items():
            if isinstance(value, companion.exercises.Exercise):
                found[value.label] = name
    return found


def exercise_problems(chapter, checks):
    """Exercise, an attempt that is checked, then a folded solution that passes the same check.

    The solution is gated, so that its code cells are folded with it: ``{solution-start} ex-…``
    with ``:class: dropdown``, the cells, ``{solution-end}``.
    """
    labels, attempts, solved, where = {}, {}, set(), {}
    attempting = solving = None
    for cell in chapter.cells:
        for directive in cell.document.directives:
            if directive.name in ("exercise", "exercise-start"):
                label = directive.options.get("label", "")
                if not re.fullmatch(r"ex-[a-z0-9-]+", label):
                    yield f"{cell}: exercise label {label!r}: must begin with ex-"
                elif label not in checks:
                    yield f"{cell}: no check for {label!r} in companion/exercises/"
                if not re.search(r" ★{1,3}$|, a project$", directive.argument):
                    yield f"{cell}: end the title of {label!r} in one to three ★ or 'a project'"
                labels[label], attempting = cell, label
            elif directive.name == "solution":
                yield f"{cell}: use {{solution-start}} … {{solution-end}}, which fold code cells"
            elif directive.name == "solution-start":
                solving, attempting = directive.argument.strip(), None
                where[solving] = cell
                if solving not in labels:
                    yield f"{cell}: a solution to {solving!r}, which is no exercise above"
                if "dropdown" not in directive.options.get("class", ""):
                    yield f"{cell}: the solution to {solving!r} is not folded: add :class: dropdown"
            elif directive.name == "solution-end":
                solving = None
        if cell.is_code and _calls(cell, checks.get(solving or attempting)):
            if solving and f"✓ {solving}: " in cell.stdout:
                solved.add(solving)
            elif solving:
                yield f"{cell}: the solution to {solving!r} does not pass its check"
                solved.add(solving)
            else:
                attempts[attempting] = cell
                if f"◻ {attempting}: " not in cell.stdout:
                    yield f"{cell}: the attempt at {attempting!r} must be stored as not attempted"
    for label, cell in labels.items():
        if label not in where:
            yield f"{cell}: the exercise {label!r} has no solution"
        elif label not in solved and label in checks:
            yield f"{where[label]}: the solution to {label!r} does not call {checks[label]}"
        if label not in attempts and label in checks:
            yield f"{cell}: no cell before the solution to {label!r} calls {checks[label]}"


def _calls(cell, name):
    return name is not None and any(
        isinstance(node, ast.Call)
        and name in (getattr(node.func, "id", None), getattr(node.func, "attr", None))
        for node in ast.walk(ast.parse(cell.code))
    )


def glue_problems(pages):
    """Glued names: unique in a chapter, there if the prose uses them, used or at least printed."""
    values = {}
    for page in pages:
        own = values.setdefault(page.name, {})
        for cell in page.code_cells:
            for name in cell.glue:
                if name in own:
                    yield f"{cell}: {name!r} is glued in {own[name]} already"
                own.setdefault(name, cell)
    used = set()
    for page in pages:
        for cell in page.cells:
            for reference in cell.document.glued:
                home, _, name = reference.rpartition("::")
                name = name.partition(":")[0]
                home = re.sub(r"\.(ipynb|md)$", "", home.rpartition("/")[2]) or page.name
                used.add((home, name))
                if name not in values.get(home, {}):
                    yield f"{cell}: {name!r} is glued by no cell of {home}: record() it there"
    for home, names in values.items():
        for name, cell in names.items():
            if (home, name) not in used and f"{name} = " not in cell.stdout:
                yield f"{cell}: {name!r} is glued, and neither used in the prose nor printed"


def citation_problems(pages, keys):
    for page in pages:
        for cell in page.cells:
            for key in cell.document.cited:
                if key not in keys:
                    yield f"{cell}: {key!r} is not in book/references.bib"


def bibliography():
    path = ROOT / "book" / "references.bib"
    return set(re.findall(r"^@\w+\{\s*([^,\s]+)\s*,", path.read_text(encoding="utf-8"), re.M))
