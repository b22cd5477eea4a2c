"""The tour, from its first to its last step, as a newcomer starts it."""

import os
import pwd
import subprocess
import sys

import pytest

from host_tools import ROOT
from host_tools.setup_system import search_path

STEPS = (
    "driver and layers",
    "our own address (DHCP)",
    "names (resolver)",
    "create",
    "connect",
    "send, acknowledge",
    "receive, window",
    "disconnect, delete",
    "serve",
    "segment",
    "disconnect, from our side",
    "What to type next",
)
SHOWN = (
    "DHCP DISCOVER",
    "DHCP ACK",
    "ARP who-has",
    "DNS query",
    "memory is reserved",
    "CLOSED → SYN_SENT",
    "TCP SYN ACK",
    "SYN_SENT → ESTABLISHED",
    "all 20000 bytes arrived, SHA-256 equal",
    "CLOSE_WAIT → LAST_ACK",
    "its control block and buffers are freed",
    "SYN_RECEIVED → ESTABLISHED",
    "FIN_WAIT_2 → TIME_WAIT",
    "curl got all 5000 bytes from the board",
)

# The system's Python sees the same packages: a virtual environment's own may lie where an ordinary user may not go.
PYTHONS = (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
PYTHONPATH = os.pathsep.join([str(ROOT), *(folder for folder in sys.path if folder.endswith("site-packages"))])


def demo(*arguments, python=sys.executable, **options):
    environment = dict(os.environ, PATH=search_path(), COLUMNS="140", PYTHONPATH=PYTHONPATH)
    command = [python, "-m", "host_tools.cli", "demo", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100, **options)


@pytest.mark.parametrize("driver", ["tap", "emac"])
def test_the_demo_shows_every_step_and_ends_well(driver):
    run = demo("--driver", driver)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    at = 0
    for step in STEPS:
        assert step in run.stdout[at:], f"{step} is missing, or comes too early"
        at = run.stdout.index(step, at)
    for text in SHOWN:
        assert text in run.stdout
    assert "Traceback" not in run.stdout


def nobody_can_run(python):
    environment = dict(os.environ, PYTHONPATH=PYTHONPATH)
    try:
        command = [python, "-c", "import host_tools.demo"]
        return subprocess.run(command, env=environment, cwd=ROOT, user="nobody", capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


def test_an_ordinary_user_sees_the_same():
    if os.geteuid() != 0:
        pytest.skip("the other test ran as an ordinary user already")
    probe = subprocess.run(["unshare", "-Urn", "true"], user="nobody", capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this kernel makes no user namespaces for ordinary users: {probe.stderr.strip()}")
    python = next(filter(nobody_can_run, PYTHONS), None)
    if python is None:
        pytest.skip(f"an ordinary user may not read {ROOT} or any of {', '.join(PYTHONS)}")
    run = demo(python=python, user="nobody", group=pwd.getpwnam("nobody").pw_gid, extra_groups=[])
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    assert all(text in run.stdout for text in SHOWN)
