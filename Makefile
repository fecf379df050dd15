# `make` alone lists what there is. Works with any make since 3.81 and a POSIX shell.

VENV = .venv
BIN  = $(VENV)/bin
# commands that start others by name find this environment's first
RUN  = PATH="$(CURDIR)/$(BIN):$$PATH"
ARGS =
NB   =

# The first Python that runs, is new enough and has venv; else the first that is new enough; else python3.
FIND = for need in 'import ensurepip, venv' ''; do \
         for p in python3.11 python3.12 python3.13 python3; do \
           if $$p -c "import sys; assert sys.version_info >= (3, 11); $$need" >/dev/null 2>&1; then echo $$p; exit; fi; \
         done; \
       done; echo python3
PYTHON ?= $(shell $(FIND))

.DEFAULT_GOAL = help
.PHONY: help env demo check test times lab app docs figures evidence rivals maps-table pocket mutants bench bench-gpu models published reproduce matrix notebooks export readme build pins clean soak

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12 picks an interpreter for env.'
	@echo '  ARGS="--seeds 5" goes to what demo, lab, app, docs, figures, evidence, rivals, maps-table, pocket, mutants, soak, bench, bench-gpu, models, published or matrix start, and to pytest for test.'
	@echo '  NB=nbs/21_gradients.ipynb runs that notebook alone.'

env: $(VENV)/.ready ## set up .venv with every pinned package (once; a second call does nothing)

# The build behind `-e .` happens in pip's own isolated environment, which gets setuptools and never torch.
$(VENV)/.ready: settings.ini setup.py pyproject.toml constraints.txt
	@py='$(PYTHON)'; \
	if ! $$py -c '' 2>/dev/null; then \
	  echo "No Python found (tried $$py): install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)" >&2; exit 1; fi; \
	v=$$($$py -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if ! $$py -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "$$py is Python $$v, prograd_viz needs 3.11 or newer: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),env)" >&2; exit 1; fi; \
	if ! $$py -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "Python $$v lacks venv. On Debian and Ubuntu this mends it: apt-get install python$$v-venv" >&2; exit 1; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "Creating $(VENV) with Python $$v"; $$py -m venv --clear $(VENV) || exit 1; fi
	@echo 'Installing the pinned packages (once; a few minutes, mostly downloads)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,lab]'
	@touch $@
	@echo 'Ready: make demo trains, make lab opens the notebooks, make alone lists the rest'

demo: env ## train CoOp and ProGrad on the pocket world; table, figures and records go to demo/
	@$(RUN) $(BIN)/prograd_demo --out demo --resume $(ARGS)

check: env ## notebooks and modules agree, clean notebooks, direction of imports, style and types (half a minute)
	@$(BIN)/mypy --no-error-summary & types=$$!; \
	$(BIN)/python tools/check.py && $(BIN)/python tools/arrows.py && $(BIN)/ruff check --quiet; rest=$$?; \
	wait $$types && exit $$rest

test: env ## all that guards the project: drift, clean notebooks, every notebook, then tests/
	@sh tools/browser.sh
	@$(MAKE) --no-print-directory check
	@# notebooks share the image features of the small tasks that many of them train on
	@# a hundred processes import the library: its bytecode is kept, whatever the shell says
	@cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; \
	$(RUN) PROGRAD_VIZ_CACHE="$$cache" PYTHONDONTWRITEBYTECODE= MPLBACKEND=Agg OMP_NUM_THREADS=1 \
	  $(BIN)/python tools/check_notebooks.py
	@$(RUN) PYTHONDONTWRITEBYTECODE= MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

times: env ## make test once, with the seconds of every notebook and test; writes figures/times/
	@$(BIN)/python tools/times.py

lab: env ## open JupyterLab on the front page
	@$(RUN) $(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" nbs/index.ipynb $(ARGS)

app: env ## serve the explorer as a web page on this machine alone (ARGS=runs/mine: of your runs); prints its address with a fresh token
	@test -z "$(ARGS)" || test -f "$(ARGS)/run.json" || { echo "no run set in $(ARGS): ARGS is a folder that train(..., out=folder) wrote" >&2; exit 1; }
	@$(RUN) PROGRAD_VIZ_APP="$(abspath $(ARGS))" JUPYTER_PATH="$(CURDIR)/tools/jupyter" $(BIN)/python -m voila nbs/app.ipynb --template=local "--VoilaConfiguration.extension_denylist=['jupyterlab-jupytext','@voila-dashboards/jupyterlab-preview']" --Voila.ip=127.0.0.1 --no-browser --token

docs: env ## the notebooks and the API as a site of static pages, in _docs/ (half a minute)
	@$(BIN)/python tools/docs.py $(ARGS)

figures: env ## draw the pictures of README and tutorials again (trains ten seeds once, kept in .figures/), and record the explorer
	@$(RUN) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python tools/figures.py $(ARGS)
	@sh tools/browser.sh
	@$(RUN) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python tools/recording.py

pocket: env ## train the pocket model again, from nothing (resumable; half an hour on 2 cores with AVX-512, an hour without)
	@$(RUN) $(BIN)/python -m prograd_viz.pretrain $(ARGS)

evidence: env ## 900 trainings behind what README claims (an hour or two on 2 cores; resumable; ARGS=--quick: a fifth of them); writes figures/evidence/
	@$(RUN) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python tools/evidence.py $(ARGS)

rivals: env ## ProGrad against CoOp stopped early, KgCoOp, distillation, PCGrad and ConFIG (15 minutes on 2 cores; resumable); writes figures/rivals/
	@$(RUN) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python tools/rivals.py $(ARGS)

maps-table: env ## where the maps lie by every explainer, and which one tells the truth (up to 40 minutes; resumable); writes figures/maps/
	@$(RUN) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python tools/maps_table.py $(ARGS)

reproduce: env ## CoOp and ProGrad on real data beside published numbers (ARGS="--data oxford_pets --root DATA"; says how long it takes; resumable)
	@$(RUN) MPLBACKEND=Agg $(BIN)/python tools/reproduce.py $(ARGS)

mutants: env ## break the library one line at a time and count what the tests catch
	@$(RUN) MPLBACKEND=Agg $(BIN)/python tools/mutants.py $(ARGS)

soak: env ## kill, damage, fill, interrupt and fuzz real trainings (eight minutes on 2 cores with AVX-512; resumable); writes figures/soak/
	@$(RUN) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python tools/soak.py $(ARGS)

bench: env ## time the published trainers' way and ours side by side, then the explorer in a browser, then sweeps (20 minutes); writes figures/bench/
	@$(RUN) $(BIN)/python tools/bench.py $(ARGS)
	@sh tools/browser.sh
	@$(RUN) OMP_NUM_THREADS=1 $(BIN)/python tools/bench_explorer.py
	@$(RUN) $(BIN)/python tools/bench_sweep.py

bench-gpu: env ## on a GPU: its tests, then the published trainers' way and ours side by side (six minutes); writes figures/bench/gpu*
	@$(RUN) $(BIN)/python -m pytest tests/test_gpu.py -q
	@$(RUN) $(BIN)/python tools/bench_gpu.py $(ARGS)

models: env ## build every architecture of open_clip and write how it works here (a minute); writes figures/models/
	@$(RUN) $(BIN)/python tools/models.py $(ARGS)

published: env ## whole RN50 and ViT-B-32 beside the published trainer (two hours, resumable); writes figures/published/
	@$(RUN) $(BIN)/python tools/published.py RN50 $(ARGS)
	@$(RUN) $(BIN)/python tools/published.py ViT-B-32 $(ARGS)

matrix: env ## build oldest, pinned, newest and Colab's environments, test in each (two hours; resumable); writes figures/environments/
	@$(BIN)/python tools/matrix.py $(ARGS)

notebooks: env ## run all notebooks in place, then clean them (NB=... for some)
	@$(RUN) $(BIN)/python tools/run_notebooks.py $(NB)
	@$(BIN)/nbdev_clean

export: env ## write prograd_viz/ from nbs/ and clean the notebooks
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean

readme: env ## fill in the numbers of all texts; write README.md and README.zh.md from nbs/index.ipynb and nbs/zh/index.ipynb
	@$(BIN)/python tools/fill.py
	@$(BIN)/python tools/readme.py

build: env ## wheel and sdist in dist/
	@$(BIN)/python -m build --outdir dist .

# To move to another version of something: install it into .venv, `make test`, `make pins`.
pins: env ## write constraints.txt and environment.yml from what .venv has
	@$(BIN)/python tools/pins.py
	@touch $(VENV)/.ready

clean: ## remove what can be made again quickly
	rm -rf build dist demo _docs *.egg-info .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
