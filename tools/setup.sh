#!/bin/sh
# Makes the virtual environment $1 (default .venv) with what requirements.txt locks, and this
# package as an editable install. Does nothing when that is how it is already.
# PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    fail "There is no '$python' here. Install Python 3.11 or newer, or name it: make ... PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "'$python' is Python $version, but the book needs 3.11 or newer. Name one: make ... PYTHON=python3.12"

want="$version $(cat requirements.txt pyproject.toml tools/setup.sh | cksum)"
[ "$(cat "$venv/.ready" 2>/dev/null)" != "$want" ] || exit 0

# An environment of another Python cannot be mended, only made anew.
if [ -x "$venv/bin/python" ]; then
    have=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' || echo none)
    if [ "$have" != "$version" ]; then
        echo "Setting up: $venv was made with Python $have; making it anew with $version"
        rm -rf "$venv"
    fi
fi

# Debian ships Python without ensurepip, in a package of its own.
if [ ! -x "$venv/bin/pip" ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=python$version-venv
    if [ "$(id -u)" = 0 ] && [ ! -t 0 ] && command -v apt-get >/dev/null; then
        echo "Setting up: installing $package, which Python's virtual environments need"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"; } >/dev/null ||
            fail "apt-get could not install $package, which Python's virtual environments need."
    else
        fail "'$python' cannot make virtual environments: its ensurepip module is missing." \
            "On Debian and Ubuntu: sudo apt-get install $package    then run this again."
    fi
fi

if [ ! -x "$venv/bin/pip" ]; then
    echo "Setting up: making $venv with Python $version"
    "$python" -m venv --clear "$venv"
fi
echo "Setting up: installing requirements.txt into $venv (several minutes the first time)"
pip="$venv/bin/python -m pip --disable-pip-version-check -qq"
$pip install -r requirements.txt ||
    fail "Installing requirements.txt failed; pip says why above. Nothing else was changed."
$pip install --no-deps --editable .
# matplotlib lists the fonts once, and would say so in the middle of a notebook.
"$venv/bin/python" -c 'import matplotlib.font_manager'
printf '%s' "$want" >"$venv/.ready"
