# Everything is a thin layer over the command `barenet` (host_tools/); `make help` lists the targets.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
BARENET := $(VENV)/bin/barenet

# Programs that the system lacks are unpacked here (host_tools/setup_system.py).
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:$(CURDIR)/.cache/system/bin

ifdef BOARD
board_option := --board '$(BOARD)'
endif
ifdef PORT
port_option := --port '$(PORT)'
endif

.DEFAULT_GOAL := help
.PHONY: help test grid soak demo boards flash deploy doctor repl monitor virtual clean venv programs docs size bench bench-short

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Options: BOARD=name (see make boards), PORT=/dev/ttyUSB0, ARGS="further options of barenet"'

# All of them in two processes, the files in their order: the long ones come first.
test: venv programs ## run all tests; TESTS="tests/unit -k arp" runs some
	$(VENV)/bin/python -m pytest $(or $(TESTS),--numprocesses 2 --dist loadfile --no-loadscope-reorder)

grid: venv programs ## TCP over every kind of bad cable, beside Linux; ARGS=--help
	@$(VENV)/bin/python tests/peer/grid.py $(ARGS)

soak: venv programs ## open and close 10,000 connections, each way; CONNECTIONS=
	@SOAK=$(or $(CONNECTIONS),10000) $(VENV)/bin/python -m pytest -s tests/peer/test_soak.py

bench: venv programs ## count instructions, compare rates and latency; ARGS=--help
	@$(VENV)/bin/python tests/bench/bench.py $(ARGS)

bench-short: venv programs ## count instructions and heap alone, as make test does; ARGS=--update
	@$(VENV)/bin/python tests/bench/bench.py --short $(ARGS)

docs: venv ## write what docs/ takes from the source again: the states' picture, the sums of rfc.md
	$(VENV)/bin/python -m host_tools.docs

size: venv programs ## measure the heap that barenet takes on a board
	@$(VENV)/bin/python -m host_tools.size $(ARGS)

demo: venv programs ## watch a connection work, on a virtual board against real programs
	@$(BARENET) demo $(ARGS)

virtual: venv programs ## start a virtual board
	@$(BARENET) virtual $(ARGS)

boards: venv ## list the boards
	@$(BARENET) boards $(ARGS)

flash: venv ## put MicroPython onto a board: BOARD=, PORT=
	@$(BARENET) flash $(board_option) $(port_option) $(ARGS)

deploy: venv ## put barenet onto a board: BOARD=, PORT=
	@$(BARENET) deploy $(board_option) $(port_option) $(ARGS)

repl: venv ## open the board's REPL: PORT=
	@$(BARENET) repl $(port_option) $(ARGS)

doctor: venv ## find out what is wrong with a board's Ethernet: PORT=, perhaps BOARD=
	@$(BARENET) doctor $(board_option) $(port_option) $(ARGS)

monitor: venv ## show what the board prints: PORT=
	@$(BARENET) monitor $(port_option) $(ARGS)

clean: ## remove the virtual environment, the cache and all compiled files
	rm -rf $(VENV) .cache .pytest_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

venv: $(VENV)/ready

programs: venv
	@$(VENV)/bin/python -m host_tools.setup_system programs

$(VENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo 'barenet: Python 3.11 or later is needed: sudo apt install python3' >&2; exit 1; }
	@echo 'preparing $(VENV) (once) …'
	@$(PYTHON) -m host_tools.setup_system venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --editable '.[test]' >$(VENV)/pip.log 2>&1 || { \
		echo 'barenet: pip could not install the Python packages (see $(VENV)/pip.log); this needs the internet once' >&2; \
		exit 1; }
	@touch $@
