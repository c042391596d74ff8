"""What runs on others' machines, and cannot be run here, agrees with what is tested.

Binder, Codespaces and the workflows of GitHub: their files are read, and compared with
pyproject.toml, the lock, the Makefile and the tools that they name.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tools import combinations, lock

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
CONDA = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}  # conda's names of ours


class Loader(yaml.SafeLoader):
    """YAML as GitHub reads it: `on` is a word, and a key is given once."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":bool")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(set(keys)) == len(keys), f"a key is given twice: {keys}"
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path):
    return yaml.load(path.read_text("utf-8"), Loader)


def steps(path):
    """All steps of a workflow or an action."""
    found = read(path)
    if "runs" in found:
        return found["runs"]["steps"]
    return [step for job in found["jobs"].values() for step in job["steps"]]


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0]


# --- versions ----------------------------------------------------------------------------------


def test_the_versions_of_python_are_the_same_everywhere():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert combinations.TESTED[0] == oldest
    newest = combinations.TESTED[-1]
    assert f"python>={oldest}" in (ROOT / "index.md").read_text("utf-8")
    assert (ROOT / "README.md").read_text("utf-8").count(f"Python {oldest} to {newest}") == 2
    assert f"(3, {oldest.split('.')[1]})" in (ROOT / "tools" / "setup.sh").read_text("utf-8")


def test_continuous_integration_runs_every_combination():
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    [setup] = [s for s in jobs["test"]["steps"] if "setup-python" in s.get("uses", "")]
    matrix = jobs["python"]["strategy"]["matrix"]
    ran = [*matrix["combination"], f"locked-{setup['with']['python-version']}"]
    assert sorted(ran) == sorted(combinations.COMBINATIONS)
    assert {one["combination"] for one in matrix["include"]} == set(matrix["combination"])
    assert all(one["combination"].endswith(f"-{one['version']}") for one in matrix["include"])


def test_the_floors_are_those_of_the_project():
    floors = combinations.floors(lock.wanted("newest"))
    assert {name_of(one) for one in floors} == {
        name_of(one)
        for one in PROJECT["dependencies"]
        + PROJECT["optional-dependencies"]["book"]
        + PROJECT["optional-dependencies"]["test"]
    }
    assert combinations.floors(["a>=1.2,<2", "b>=3"]) == ["a==1.2", "b==3"]
    for endless in ("a", "a<2", "a>1", "a~=1.2"):
        with pytest.raises(combinations.Failed, match="no floor"):
            combinations.floors([endless])


def test_the_lock_keeps_the_promises():
    locked = dict(line.split("==") for line in combinations.locked())
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    for floor in combinations.floors(lock.wanted("newest")):
        name, version = floor.split("==")
        have = locked[name]
        numbers = [[int(part) for part in re.findall(r"\d+", one)] for one in (have, version)]
        assert numbers[0] >= numbers[1], f"{name} is locked at {have}, promised from {version}"


@pytest.mark.parametrize(
    "error", [combinations.Failed("no pip"), subprocess.CalledProcessError(1, "venv")]
)
def test_an_environment_that_cannot_be_made_is_a_row(monkeypatch, tmp_path, error):
    def environment(*_):
        raise error

    monkeypatch.setattr(combinations, "Environment", environment)
    name = "locked-{}.{}".format(*sys.version_info[:2])
    assert combinations.combination(name, tmp_path).outcome == f"FAILED: {error}"


def test_a_failed_combination_is_a_failure(monkeypatch, tmp_path, capsys):
    rows = {"locked-3.11": combinations.Row("locked-3.11")}
    monkeypatch.setattr(combinations, "combination", lambda name, *_: rows[name])
    command = ["combinations.py", "--folder", str(tmp_path), "locked-3.11"]
    monkeypatch.setattr(sys, "argv", command)
    assert combinations.main() == 0
    rows["locked-3.11"] = rows["locked-3.11"]._replace(outcome="FAILED: tests failed")
    assert combinations.main() == 1
    rows["locked-3.11"] = rows["locked-3.11"]._replace(outcome="not run: no Python 3.11 here")
    assert combinations.main() == 1, "it was asked for"
    assert "| locked-3.11 |" in capsys.readouterr().out


# --- Binder ------------------------------------------------------------------------------------


def test_binder_installs_what_the_package_needs():
    listed = read(ROOT / ".binder" / "environment.yml")["dependencies"]
    [python] = [one.removeprefix("python=") for one in listed if one.startswith("python=")]
    assert python in combinations.TESTED
    kernel = [one for one in PROJECT["optional-dependencies"]["book"] if "ipykernel" in one]
    named = [one for one in listed if name_of(one) not in ("python", "pip")]
    ours = [re.sub(r"^[\w-]+", lambda name: CONDA.get(name[0], name[0]), one) for one in named]
    assert sorted(ours) == sorted(PROJECT["dependencies"] + kernel)
    # A chapter imports nothing else.
    imported = set()
    for path in ROOT.glob("book/*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                found = re.findall(r"^(?:from|import) (\w+)", "".join(cell["source"]), re.M)
                imported.update(found)
    have = {name_of(one) for one in PROJECT["dependencies"]} | {"companion", "IPython", "PIL"}
    assert imported - have <= set(sys.stdlib_module_names)


def test_binder_installs_the_package_last():
    script = ROOT / ".binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert "pip install --no-cache-dir --no-deps --editable .\n" in script.read_text("utf-8")
    subprocess.run(["bash", "-n", script], check=True)


# --- Codespaces --------------------------------------------------------------------------------


def test_a_codespace_is_the_machine_of_the_makefile():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    version = container["image"].rpartition(":")[2]
    assert version in combinations.TESTED
    assert container["containerEnv"]["PIP_EXTRA_INDEX_URL"] == combinations.CPU_BUILDS  # no GPU
    makefile = (ROOT / "Makefile").read_text("utf-8")
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    port = int(re.search(r"^PORT +\?= (\d+)", makefile, re.MULTILINE)[1])
    assert container["forwardPorts"] == [port]
    assert list(container["portsAttributes"]) == [str(port)]
    venv = re.search(r"^VENV +:= (\S+)", makefile, re.MULTILINE)[1]
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == f"${{containerWorkspaceFolder}}/{venv}/bin/python"


# --- workflows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path):
    workflow = read(path)
    assert {"name", "on", "permissions", "jobs"} <= workflow.keys()
    for name, job in workflow["jobs"].items():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= workflow["jobs"].keys(), name
        assert job["runs-on"] == "ubuntu-latest"
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        local = [one for one in uses if one.startswith("./")]
        if local:
            assert uses[0].startswith("actions/checkout@"), "an action of ours is in the checkout"
    for cron in workflow["on"].get("schedule", []) if isinstance(workflow["on"], dict) else []:
        assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", cron["cron"])


@pytest.mark.parametrize(
    "path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_the_steps_of_a_workflow_name_what_there_is(path):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for step in steps(path):
        assert ("uses" in step) != ("run" in step), step
        used = step.get("uses", "")
        if used.startswith("./"):
            action = read(ROOT / used / "action.yml")
            given = set(step.get("with", {}))
            required = {name for name, one in action["inputs"].items() if one.get("required")}
            assert required <= given <= action["inputs"].keys()
        elif used:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", used), used
        run = step.get("run", "")
        for file in re.findall(r"(?<![\w$}\"])(?:/checkout/)?((?:tools|\.ci)/[\w./-]+)", run):
            assert (ROOT / file).is_file(), f"{path.name} runs {file}"
        for target in re.findall(r"\bmake ([a-z-]+)", run):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no target {target}"
        if run:  # a step is a shell script, after GitHub has put in its ${{ … }}
            script = re.sub(r"\$\{\{.*?\}\}", "X", run)
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_runs_weekly_opens_an_issue_by_one_action():
    weekly = [path for path in WORKFLOWS if "schedule" in read(path)["on"]]
    assert {path.stem for path in weekly} == {"colab", "links", "newest"}
    titles = set()
    for path in weekly:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read", "issues": "write"}
        last = steps(path)[-1]
        assert last["uses"] == "./.github/actions/open-issue"
        assert last["if"] == "failure() && github.event_name == 'schedule'"
        titles.add(last["with"]["title"])
    assert len(titles) == len(weekly), "issues are told apart by their titles"


def test_scripts_can_be_run():
    for path in [*ROOT.glob("tools/*.sh"), ROOT / ".ci" / "run"]:
        assert os.access(path, os.X_OK), path
        subprocess.run(["bash", "-n", path], check=True)


def test_a_release_is_made_of_a_tag_with_three_numbers():
    workflow = read(ROOT / ".github" / "workflows" / "release.yml")
    assert workflow["on"] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    runs = [step.get("run", "") for step in steps(ROOT / ".github" / "workflows" / "release.yml")]
    check = next(n for n, run in enumerate(runs) if "release.py --check" in run)
    make = next(n for n, run in enumerate(runs) if "gh release create" in run)
    assert check < make
