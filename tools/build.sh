#!/bin/sh
# Builds the website, and the chapters for Colab, with the tools in $1 (default .venv/bin). Any warning fails the build.
set -eu
cd "$(dirname "$0")/.."
bin=${1:-.venv/bin}

# Always whole: in a partial build the warnings of unchanged pages would be lost.
rm -rf _build/html _build/plain _build/.doctrees _build/.stamp
mkdir -p _build
echo 'Building the book (about half a minute); all messages go to _build/build.log'
if ! "$bin/jupyter-book" build . --all -W -n --keep-going >_build/build.log 2>&1; then
    escape=$(printf '\033')
    sed "s/$escape\[[0-9;]*m//g" _build/build.log >_build/plain.log && mv _build/plain.log _build/build.log
    grep -E 'WARNING|ERROR|Error' _build/build.log >&2 || tail -n 40 _build/build.log >&2
    echo 'The book was not built: see the messages above, or all of them in _build/build.log' >&2
    exit 1
fi
# The chapters as Colab reads them.
"$bin/python" tools/plain.py
touch _build/.stamp
