#!/bin/sh
# Writes requirements.txt: every version of a fresh environment with the package's book and test
# extras. torch is held at the version the book's outputs were computed with; TORCH='>=2.14'
# asks for another, and an empty TORCH for the newest.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
torch=torch${TORCH-==2.13.0}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "Resolving in a fresh environment, $torch (several minutes)"
"$python" -m venv "$scratch/venv"
# From a copy: building the package leaves files beside its sources.
mkdir "$scratch/package"
cp -R pyproject.toml README.md LICENSE companion "$scratch/package"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check -qq \
    install "$scratch/package[book,test]" "$torch"
{
    echo "# The environment the book is tested in, on Python 3.11 to 3.13. Written by: make lock"
    echo "# (a fresh environment with .[book,test] and $torch, then pip freeze)."
    # No local version suffix (+cpu), no paths, not the package itself.
    "$scratch/venv/bin/python" -m pip --disable-pip-version-check freeze --exclude companion |
        sed -e 's/^torch==\([0-9.]*\)+.*/torch==\1/' |
        grep -E '^[A-Za-z0-9._-]+==[^ ]+$'
} >"$scratch/requirements.txt"
mv "$scratch/requirements.txt" requirements.txt
