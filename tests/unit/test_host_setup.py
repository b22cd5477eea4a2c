"""Programs that the system lacks come out of Debian packages, without root; and when they cannot, one line says why."""

import os
import shutil
import subprocess
import sys

import pytest

from host_tools import setup_system
from host_tools.errors import BarenetError


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A system that has none of the programs, with an empty cache."""
    folder = tmp_path / "system"
    monkeypatch.setattr(setup_system, "_FOLDER", folder)
    monkeypatch.setattr(setup_system, "_ROOT", folder / "root")
    monkeypatch.setattr(setup_system, "BIN", folder / "bin")
    monkeypatch.setattr(setup_system, "_SBIN", ())
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    tools = {name: shutil.which(name, path="/usr/bin:/bin") for name in ("apt-get", "dpkg-deb")}
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, path=None: tools.get(name) or which(name, path=path))
    return folder


def package(folder, name, script):
    """Stands for a package that apt has downloaded and dpkg-deb unpacked."""
    program = folder / "root" / "usr" / "sbin" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    library = folder / "root" / "usr" / "lib" / "machine" / "libx.so.1"
    library.parent.mkdir(parents=True, exist_ok=True)
    library.touch()


def test_a_program_of_the_system_is_used_as_it_is(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(setup_system, "unpack", lambda packages: pytest.fail("nothing to unpack"))
    package(tmp_path, "dnsmasq", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "root" / "usr" / "sbin"))
    assert setup_system.program("dnsmasq") == str(tmp_path / "root" / "usr" / "sbin" / "dnsmasq")


def test_an_unpacked_valgrind_finds_its_tools(bare, monkeypatch):
    tool = bare / "root" / "usr" / "libexec" / "valgrind" / "callgrind-amd64-linux"

    def unpack(packages):
        package(bare, "valgrind", 'echo "$VALGRIND_LIB"')
        tool.parent.mkdir(parents=True)
        tool.touch()

    monkeypatch.setattr(setup_system, "unpack", unpack)
    ran = subprocess.run([setup_system.program("valgrind")], capture_output=True, text=True, timeout=10)
    assert ran.stdout.strip() == str(tool.parent)


def test_a_missing_program_is_unpacked_once_and_runs_with_its_own_libraries(bare, monkeypatch):
    asked = []

    def unpack(packages):
        asked.append(packages)
        package(bare, "dnsmasq", 'echo "$LD_LIBRARY_PATH $1"')

    monkeypatch.setattr(setup_system, "unpack", unpack)
    for _ in range(2):
        program = setup_system.program("dnsmasq")
        assert program == str(bare / "bin" / "dnsmasq")
    assert asked == [["dnsmasq-base"]]
    ran = subprocess.run([program, "argument"], capture_output=True, text=True, timeout=10)
    assert ran.stdout.split() == [str(bare / "root" / "usr" / "lib" / "machine"), "argument"]


@pytest.mark.skipif(not shutil.which("apt-get"), reason="this system has no apt")
def test_without_a_network_one_line_says_what_to_install(bare, monkeypatch):
    # No lists of packages, and nobody at the address where to get them.
    run = subprocess.run

    def offline(command, **options):
        command = [
            part if part != "Dir::State::lists=/var/lib/apt/lists" else f"Dir::State::lists={bare}" for part in command
        ]
        environment = {**options.pop("env", os.environ), "PATH": "/usr/bin:/bin"}
        proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
        return run(command, env=environment | proxies, **options)

    monkeypatch.setattr(subprocess, "run", offline)
    monkeypatch.setitem(setup_system.PROGRAMS, "wanted", "a-package-that-this-machine-lacks")
    with pytest.raises(BarenetError, match="cannot get a-package-.* sudo apt install a-package-") as raised:
        setup_system.provide(["wanted"])
    assert "\n" not in str(raised.value)


def test_a_system_without_apt_is_told_what_to_install(bare, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(BarenetError, match="no apt to get them with; .*dnsmasq-base"):
        setup_system.provide(["dnsmasq"])


def test_a_wrong_command_line_is_one_line():
    run = subprocess.run(
        [sys.executable, "-m", "host_tools.setup_system", "nonsense"], capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 1 and run.stderr.startswith("barenet: usage:") and run.stderr.count("\n") == 1
