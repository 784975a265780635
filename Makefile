# make run    a sample shop in ./demo, run once for the day after its last sale: the shortest way to
#             see it work
# make test   everything that must hold, lint and types included
# make test-all  the same with all that is generated: days, files, kills by the thousand; then Spark 3.5
#                  (about two hours)
# make test-spark  the tests of the Spark engine alone (not of the clusters that tests start, nor those
#                  of all engines: `make test-all` runs them), SPARK=3.5 for what older clusters run
# make chaos  the fault campaign: kills, power cuts, broken stores and databases (CHAOS=--small)
# make bench  the speed figures, as ratios (BENCH=--small for some minutes' version)
# make wheel  the wheel in dist/, installed alone and tried
# make docs   the site in .site/; make reference writes docs/reference/ from the code

PYTHON ?= python3
DEMO ?= demo
BENCH ?= --out bench/results.md

CHAOS ?= --out docs/reliability.md

# What the wheel is tried with; PINS=/dev/null: the newest there is, as a user's pip takes it.
PINS ?= requirements/run.txt

# A file's tests share what they build, so one worker takes all of them. Where most are generated,
# that would leave the other workers without work for hours.
DIST = loadfile
# What takes long and stands for what is also shown in a shorter way is left to `make test-all`.
SELECTED = not long

# Tests start many processes: each of them would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

SPARK ?= 4
SPARK_VENV = $(if $(filter 3.5,$(SPARK)),.venv-spark35,.venv-dev)

.PHONY: run test test-all test-spark lint bench chaos wheel docs pictures reference lock clean
.DELETE_ON_ERROR:

run: .venv/.installed
	@rm -rf $(DEMO)
	@.venv/bin/retailmart init $(DEMO) --sample
	@cd $(DEMO) && ../.venv/bin/retailmart run --as-of 2024-04-01
	@cd $(DEMO) && ../.venv/bin/retailmart report

test: .venv-dev/.installed lint
	.venv-dev/bin/pytest -n 3 --dist $(DIST) --no-loadscope-reorder -m "$(SELECTED)"

test-all: export RETAILMART_TEST_ALL = 1
test-all: DIST = worksteal
test-all: SELECTED =
test-all: test
	env -u RETAILMART_TEST_ALL $(MAKE) test-spark SPARK=3.5

test-spark: $(SPARK_VENV)/.installed
	$(SPARK_VENV)/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder \
		-m "spark and not (long and every_engine)" --ignore tests/services

lint: .venv-dev/.installed
	.venv-dev/bin/ruff check src tests bench chaos deploy website conftest.py
	.venv-dev/bin/ruff format --check src tests bench chaos deploy website conftest.py
	.venv-dev/bin/mypy

bench: .venv/.installed .venv-dev/.installed
	.venv/bin/python bench/run.py --spark .venv-dev/bin/python $(BENCH)

chaos: .venv-dev/.installed
	.venv-dev/bin/python -m chaos.campaign $(CHAOS)

wheel: .venv/.installed
	.ci/wheel $(CURDIR)/.venv/bin/python $(PINS)

# Not --quiet: with it, strict mode does not see its warnings.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# The pictures of the report in docs; they need Debian's chromium.
pictures: .venv-dev/.installed
	.venv-dev/bin/python -m website.pictures

reference: .venv-dev/.installed
	.venv-dev/bin/python -m website.reference

# What is measured and shown is installed as a user installs it: without the tools of development.
.venv/.installed: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-dev/.installed: requirements/dev.txt pyproject.toml
.venv-spark35/.installed: requirements/spark35.txt pyproject.toml
.venv-dev/.installed .venv-spark35/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Airflow pins versions of what both use, so it has an environment of its own; so has the site.
.venv-airflow/.installed: requirements/airflow.txt
.venv-docs/.installed: requirements/docs.txt
.venv-airflow/.installed .venv-docs/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

LOCK = -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	--python-version 3.11
LOCKED = $(LOCK) --extra build --extra s3 --extra mysql --extra postgres --extra secrets --extra xlsx \
	--extra report
# What tells others of runs, and waits for files, is of no use to the sample shop that run.txt is for.
LOCKED_DEV = $(LOCKED) --extra watch --extra dagster --extra alerts --extra lineage --extra notebook \
	--extra spark --extra dev

# Spark 3.5 refuses NumPy 2, without which newer ones of pyarrow can't be imported.
SPARK35 = 'pyspark<4' 'pyarrow<26'

# The site is built from text, so what the project itself needs is not in its environment; nor is it in
# Airflow's.
EXTRA = 'import sys, tomllib; from pathlib import Path; \
	project = tomllib.loads(Path("pyproject.toml").read_text())["project"]; \
	print(*project["optional-dependencies"][sys.argv[1]], sep="\n")'

# Versions and hashes only: where packages come from is each machine's own affair.
lock: .venv-dev/.installed
	.venv-dev/bin/pip install --quiet --disable-pip-version-check uv
	.venv-dev/bin/uv pip compile $(LOCKED) pyproject.toml -o requirements/run.txt
	.venv-dev/bin/uv pip compile $(LOCKED_DEV) pyproject.toml \
		-c requirements/run.txt -o requirements/dev.txt
	cp requirements/dev.txt requirements/spark35.txt  # what Spark 3.5 can live with stays the same
	printf '%s\n' $(SPARK35) | .venv-dev/bin/uv pip compile $(LOCKED_DEV) \
		pyproject.toml - -o requirements/spark35.txt
	.venv-dev/bin/python -c $(EXTRA) docs | .venv-dev/bin/uv pip compile $(LOCK) \
		-c requirements/dev.txt - -o requirements/docs.txt
	.venv-dev/bin/python -c $(EXTRA) airflow | .venv-dev/bin/uv pip compile $(LOCK) \
		- -o requirements/airflow.txt

clean:
	rm -rf .venv .venv-dev .venv-docs .venv-airflow .venv-spark35 .site dist $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis
