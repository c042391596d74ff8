# Each target sets up all it needs by itself, in .venv, and is quick when nothing has changed.
#   make test PYTHON=python3.12        uses that interpreter for .venv

PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PAGE   := _build/html/index.html
PORT   ?= 8000

# What the site is made of; a change in any of these builds it anew.
SOURCES := $(shell find book companion tests/equations tools -type f \
             -not -path '*/__pycache__/*' -not -path '*/.ipynb_checkpoints/*' 2>/dev/null) \
           $(addprefix tests/,book.py contracts.py mistakes.py prose.py) \
           _config.yml _toc.yml index.md CONTRIBUTING.md CITATION.cff

.DEFAULT_GOAL := help
.PHONY: help setup book serve test execute lock combinations colab publish-as release clean \
        FORCE

help: ## say what there is
	@echo 'Generative Models, Line by Line'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name words; do printf '%-19s %s\n' "$$name" "$$words"; done
	@echo
	@echo 'A chapter alone:  make execute NAME=autoregressive-models'
	@echo 'Another Python:   make test PYTHON=python3.12'

setup: $(READY) ## install what the book needs into .venv
	@echo "Ready: $(BIN)/python has all that the book needs. Next: make book"

# Runs every time and touches its stamp only when it has installed something.
$(READY): FORCE
	@PYTHON='$(PYTHON)' sh tools/setup.sh $(VENV)

book: _build/.stamp ## build the website from the committed outputs
	@echo "The book is built. Open $(CURDIR)/$(PAGE), or: make serve"

_build/.stamp: $(READY) $(SOURCES)
	@sh tools/build.sh $(BIN)

serve: book ## show the website at http://localhost:8000
	@echo "Serving the book at http://localhost:$(PORT) (stop with Ctrl-C)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

test: $(READY) ## check code, notebooks and website, as CI does on one Python
	@echo '== 1/3 code: ruff =='
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo '== 2/3 package, equations, prose; and every cell, run and compared with what is committed =='
	@# Notebooks first, in this order: they are long, and the short tests then fill both workers.
	@OMP_NUM_THREADS=1 COMPANION_SCALE=cpu $(BIN)/python -m pytest -rs -n 2 --dist loadfile \
	   --no-loadscope-reorder --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg \
	   book/*.ipynb tests --ignore tests/test_site.py
	@echo '== 3/3 website: built with warnings as errors, then read in a browser =='
	@sh tools/build.sh $(BIN)
	@$(BIN)/python -m pytest -rs -n 2 tests/test_site.py
	@test -n "$$CI" || echo 'Passed, but for what is listed above as skipped. CI also runs the' \
	   'other Pythons: make combinations. Next: git push, or make serve'

execute: $(READY) ## run notebooks and store their outputs: NAME=... for some of them
	@$(BIN)/python tools/execute.py $(NAME)
	@echo 'Outputs are stored. Next: git diff book, then make test'

publish-as: ## give the book the address of REPO=owner/name, in the chapters as well
	@test -n "$(REPO)" || { echo 'Name the repository: make publish-as REPO=owner/name' >&2; exit 1; }
	@$(or $(PYTHON),python3) tools/publish.py --as '$(REPO)'
	@echo 'Next: git commit -a -m "Publish as $(REPO)", then git push'

colab: $(READY) ## run chapters as in Colab, from a fork of what is here: NAME=... for some of them
	@$(BIN)/python tools/colab.py $(NAME)

lock: $(READY) ## renew requirements.txt to the newest versions that fit pyproject.toml
	@$(BIN)/python tools/lock.py $(if $(TORCH),--torch $(TORCH))
	@echo 'requirements.txt is renewed. Next: make test'

combinations: $(READY) ## test every Python and the oldest dependencies: NAME=... for some of them
	@$(BIN)/python tools/combinations.py $(NAME)

release: $(READY) ## set the version in every file that states it: VERSION=0.2.0
	@test -n '$(VERSION)' || { echo 'Which version? make release VERSION=0.2.0' >&2; exit 1; }
	@$(BIN)/python tools/release.py $(VERSION)

clean: ## remove all that was built, .venv too
	@echo 'Removing _build, $(VENV) and caches'
	@rm -rf _build $(VENV) .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo 'Clean. Next: make book'
