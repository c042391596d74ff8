#!/bin/bash
# Runs chapters as Colab does, in whose image this is called (.github/workflows/colab.yml):
#   colab.sh CHECKOUT FOLDER [NAME ...]
# Copies the notebooks, and nothing else, into the folder and executes all of them, or those named.
# Their first cells install the package from the address of the repository, which git is told to
# find in the checkout, for the whole account: meant for a machine that is thrown away.
set -euo pipefail
checkout=$(realpath "$1")
mkdir -p "$2"
cd "$2" # where there is nothing to import
shift 2

python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("companion") is not None)' || {
    echo 'The package is installed here already: what Colab lacks cannot be tested.' >&2
    exit 1
}
address=$(sed -n 's/^  url: *//p' "$checkout/_config.yml")
git config --global --add safe.directory '*'
git config --global "url.file://$checkout.insteadOf" "$address"
git config --global --add "url.file://$checkout.insteadOf" "$address.git"

failed=()
for notebook in "$checkout"/book/*.ipynb; do
    name=$(basename "$notebook" .ipynb)
    [[ $# == 0 || " $* " == *" $name "* ]] || continue
    cp "$notebook" .
    echo "== $name =="
    # Each chapter meets a machine without the package.
    python3 -m pip uninstall --quiet --yes companion 2>/dev/null || true
    python3 -m jupyter nbconvert --to notebook --execute --ExecutePreprocessor.timeout=3600 \
        --output "done-$name" "$name.ipynb" || failed+=("$name")
done
if ((${#failed[@]})); then
    echo "Failed: ${failed[*]}" >&2
    exit 1
fi
