"""A plugin of pytest for an environment without torch: what asks for it is skipped.

    PYTHONPATH=.:tools python -m pytest --noconftest -p without_torch tests

So which tests need torch is found by running them, and is written down nowhere.
"""

import importlib.util
import sys

import pytest

REASON = "needs torch"
FAILED = "No module named 'torch'"  # what another process says


class Finder:
    """Asked for torch, it skips the test, or the module of tests, that is being run."""

    asked = False

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            Finder.asked = True
            pytest.skip(REASON, allow_module_level=True)


def pytest_configure(config):
    if importlib.util.find_spec("torch"):
        raise pytest.UsageError("torch is here: run the tests without this plugin")
    sys.meta_path.insert(0, Finder())


def pytest_runtest_setup(item):
    Finder.asked = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the code under test has made an error of the skip, it is a skip again."""
    report = yield
    if report.failed and (Finder.asked or FAILED in str(report.longrepr)):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: {REASON}")
    return report
