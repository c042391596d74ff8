"""Rows of results: replaced by name, in order, whole or not at all, and never nonsense."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from companion import results
from companion.results import ResultsError, add, provenance, rows

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "PATH", tmp_path / "data" / "results.json")
    return results.PATH


def settings(seed=0, model="NADE"):
    return {"model": model, "seed": seed}


def test_nothing_has_been_run_yet():
    assert rows("orders") == []


def test_what_is_added_is_found_by_its_settings():
    row = add("orders", settings(0), {"nll": 90.5}, {"commit": None})
    add("orders", settings(1), {"nll": 91.0}, {})
    add("orders", settings(1, "MADE"), {"nll": 95.0}, {})
    add("others", settings(0), {"nll": 1.0}, {})
    assert rows("orders", model="NADE", seed=0) == [row]
    assert row == {
        "experiment": "orders",
        "settings": {"model": "NADE", "seed": 0},
        "values": {"nll": 90.5},
        "provenance": {"commit": None},
    }
    assert [r["values"]["nll"] for r in rows("orders", model="NADE")] == [90.5, 91.0]
    assert len(rows("orders")) == 3
    assert rows("orders", device="cpu") == []


def test_a_row_of_the_same_name_is_replaced():
    add("orders", {"model": "NADE", "seed": 0}, {"nll": 90.0}, {})
    add("orders", {"seed": 0, "model": "NADE"}, {"nll": 80.0}, {})
    assert [row["values"]["nll"] for row in rows("orders")] == [80.0]


def test_the_file_is_one_row_a_line_whatever_order_they_came_in(file):
    entries = [("b", settings(1)), ("a", settings(1)), ("b", settings(0)), ("a", settings(0, "é"))]
    for experiment, chosen in entries:
        add(experiment, chosen, {"nll": 1.0}, {})
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(entries) + 2
    assert "é" in text
    file.unlink()
    for experiment, chosen in reversed(entries):
        add(experiment, chosen, {"nll": 1.0}, {})
    assert file.read_text(encoding="utf-8") == text
    assert [p.name for p in file.parent.iterdir()] == ["results.json"], "a temporary file is left"


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(1.0), [1.0, -math.inf]])
def test_a_value_that_is_no_number_is_refused(file, value):
    add("orders", settings(), {"nll": 1.0}, {})
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"orders.*nll"):
        add("orders", settings(), {"nll": value}, {})
    assert file.read_bytes() == before


def test_a_setting_is_a_name_or_a_number():
    with pytest.raises(ValueError, match="setting order"):
        add("orders", {"order": [0, 1]}, {}, {})


ROW = {"experiment": "a", "settings": {}, "values": {"nll": 1.0}, "provenance": {}}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ROW])[:-5],
        "",
        "{}",
        json.dumps([ROW]).replace("1.0", "NaN"),
        json.dumps([ROW, ROW]),
        json.dumps([{k: v for k, v in ROW.items() if k != "values"}]),
        json.dumps([ROW | {"settings": "raster"}]),
        "[1]",
    ],
    ids=["cut", "empty", "no list", "NaN", "twice", "no values", "settings a text", "number"],
)
def test_a_damaged_file_is_named_and_left_alone(file, text):
    file.parent.mkdir()
    file.write_text(text)
    for use in (lambda: rows("a"), lambda: add("b", {}, {}, {})):
        with pytest.raises(ResultsError, match=r"results\.json is damaged"):
            use()
    assert file.read_text() == text


def test_a_write_that_fails_leaves_the_old_file(file, monkeypatch):
    add("orders", settings(), {"nll": 1.0}, {})
    before = file.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        add("orders", settings(1), {"nll": 2.0}, {})
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == ["results.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_of_two_processes_none_loses_a_row(file):
    program = (
        "import sys; from pathlib import Path; from companion import results\n"
        "results.PATH = Path(sys.argv[1])\n"
        "for i in range(25): results.add('race', {'who': sys.argv[2], 'i': i}, {}, {})"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", program, str(file), who], cwd=ROOT) for who in "ab"
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(rows("race")) == 50


def git(folder, *arguments):
    identity = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_provenance_names_command_versions_and_device():
    found = provenance("python -m x")
    assert found["command"] == "python -m x"
    assert found["versions"].keys() == {"python", "torch", "companion"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"].endswith("1 thread")
    json.dumps(found)


def test_provenance_names_the_commit_and_whether_the_package_was_changed(tmp_path, monkeypatch):
    package = tmp_path / "repository" / "companion"
    (package / "_data").mkdir(parents=True)
    monkeypatch.setattr(results, "__file__", str(package / "results.py"))
    assert provenance("x")["commit"] is None, "there is no repository"
    for name in ("results.py", "_data/results.json"):
        (package / name).write_text("")
    root = package.parent
    (root / "README.md").write_text("")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    commit = git(root, "rev-parse", "--short", "HEAD")
    assert provenance("x")["commit"] == commit
    (package / "_data" / "results.json").write_text("[]")  # the experiment's own first row
    (root / "README.md").write_text("prose")
    (package / "_data" / "weights").mkdir()
    (package / "_data" / "weights" / "made.safetensors").write_text("those of its first model")
    assert provenance("x")["commit"] == commit
    (package / "new.py").write_text("")
    assert provenance("x")["commit"] == f"{commit}-dirty"
    (package / "new.py").unlink()
    (package / "results.py").write_text("changed")
    assert provenance("x")["commit"] == f"{commit}-dirty"
    # Installed below somebody's own repository: its commits say nothing about the package.
    monkeypatch.setattr(results, "__file__", str(root / "env" / "companion" / "results.py"))
    (root / "env").mkdir()
    assert provenance("x")["commit"] is None


def test_what_is_committed_is_sound_and_names_no_machine(monkeypatch):
    path = ROOT / "companion" / "_data" / "results.json"
    monkeypatch.setattr(results, "PATH", path)
    for row in results._read():
        assert row["provenance"]["command"].startswith("python -m companion")
        assert not re.search(r"(?<![\w.])/\w+/", json.dumps(row)), "a path of one machine"
