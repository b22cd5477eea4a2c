"""Finds the MicroPython that plays the board's CPU.

The board is 32-bit, so its stand-in is, too: small ints of 31 bits, objects of the same size, the same things fit and
allocate. Debian has such a MicroPython (trixie, i386); it is unpacked, without root, into the project's cache and run
through its own dynamic loader, so the machine needs no 32-bit libraries. Elsewhere a `micropython` on PATH has to do.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from host_tools import CACHE, cache
from host_tools.errors import BarenetError

SUITE = "trixie"
VERSION = "1.25.0"
PACKAGES = ("micropython", "libc6", "libffi8", "libmbedcrypto16", "libmbedtls21", "libmbedx509-7")

_DEBIAN_SUITES = {"bullseye", "bookworm", "trixie", "forky", "sid"} | {
    "oldoldstable", "oldstable", "stable", "testing", "unstable",
}  # fmt: skip
_TIMEOUT = 600  # s, for a package index over a slow line
_PACKAGE_TIMEOUT = 30  # s without a byte

_APT_CONF = """\
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}";
Dir::Cache::archives "{state}/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{state}/sources.list.d";
APT::Architecture "{architecture}";
APT::Architectures {{"{architecture}";}};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""


@dataclass(frozen=True)
class Interpreter:
    """A MicroPython for Linux.

    Attributes:
        command: the command line that starts it, without options.
        bits: 32 or 64.
        version: MicroPython's version, for example "1.25.0".
        date: day of its build, for example "2025-05-04".
        mpy: its sys.implementation._mpy, which says what .mpy files it loads.
        origin: where it comes from, for people.
    """

    command: tuple[str, ...]
    bits: int
    version: str
    date: str
    mpy: int
    origin: str

    def __str__(self) -> str:
        return f"MicroPython {self.version}, {self.bits}-bit, {self.origin}"


@dataclass(frozen=True)
class _Target:
    architecture: str
    libraries: str
    loader: str


_TARGETS = {
    32: _Target("i386", "usr/lib/i386-linux-gnu", "ld-linux.so.2"),
    64: _Target("amd64", "usr/lib/x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
}


@functools.cache
def find(bits: int = 32) -> Interpreter:
    """Returns a MicroPython of the wanted word size, unpacking it first where that is possible.

    Args:
        bits: 32 or 64. Where no 32-bit MicroPython can be had, the result is a 64-bit one: look at its `bits`.

    Raises:
        BarenetError: there is none; the text says what to do.
    """
    reason = "this is not an x86 machine with Debian's package tools"
    if platform.machine() in ("x86_64", "i686") and shutil.which("dpkg-deb") and shutil.which("apt-get"):
        try:
            return _unpacked(_TARGETS[bits]) or _unpacked(_TARGETS[64]) or _refused()
        except BarenetError as error:
            reason = str(error)
    on_path = shutil.which("micropython")
    if on_path and (found := _inspect((on_path,), f"from PATH: {on_path}")):
        return found
    raise BarenetError(f"no MicroPython: {reason}; or put a `micropython` on PATH")


def _unpacked(target: _Target) -> Interpreter | None:
    """Returns Debian's MicroPython from the cache, unpacking it first if need be; None when it does not run here."""
    name = f"micropython-{VERSION}-{target.architecture}"
    folder = cache.folder()
    shared = () if os.environ.get("BARENET_CACHE") else (CACHE / name,)
    for root in (*shared, folder / name):
        if found := _in_root(root, target):
            return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "micropython.lock", "w")
    except OSError as error:
        raise BarenetError(f"cannot write to {folder} ({error.strerror}): name a folder in BARENET_CACHE") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            print(f"barenet: unpacking {name} into {folder}, once …", file=sys.stderr)
            with tempfile.TemporaryDirectory(dir=folder, prefix="unpack-") as scratch:
                _download(Path(scratch), target).rename(folder / name)
    return _in_root(folder / name, target)


def _refused() -> Interpreter:
    raise BarenetError("this machine runs neither the i386 nor the amd64 build of Debian")


def _in_root(root: Path, target: _Target) -> Interpreter | None:
    libraries = root / target.libraries
    program = root / "usr/bin/micropython"
    command = (str(libraries / target.loader), "--library-path", str(libraries), str(program))
    return _inspect(command, f"Debian {SUITE} {target.architecture}, unpacked in {root}")


def _inspect(command: tuple[str, ...], origin: str) -> Interpreter | None:
    program = (
        "import sys; "
        "print(sys.maxsize > 1 << 31, '.'.join(str(n) for n in sys.implementation[1][:3]), sys.version.split()[-1], "
        "getattr(sys.implementation, '_mpy', 0))"
    )
    try:
        done = subprocess.run([*command, "-c", program], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    wide, version, date, mpy = done.stdout.split()
    return Interpreter(command, 64 if wide == "True" else 32, version, date, int(mpy), origin)


def _download(scratch: Path, target: _Target) -> Path:
    """Fetches the packages with apt's own checks of signatures and hashes and unpacks them; returns their root."""
    state = scratch / "apt"
    for folder in ("lists/partial", "archives/partial", "sources.list.d"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    sources = _debian_sources(Path("/etc/apt"))
    if not sources:
        raise BarenetError("this machine has no Debian package sources")
    (state / "sources.list.d" / "barenet.sources").write_text("\n\n".join(sources) + "\n")
    configuration = state / "apt.conf"
    configuration.write_text(_APT_CONF.format(state=state, architecture=target.architecture))
    packages = scratch / "packages"
    packages.mkdir()
    try:
        _apt(configuration, state, ["update"])
        _apt(configuration, packages, ["download", *PACKAGES])
    except BarenetError as error:
        if not _fetch_known(sources, target.architecture, packages):
            raise error
    root = scratch / "root"
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True, stdout=subprocess.DEVNULL)
    for unused in (root / "usr/share", root / target.libraries / "gconv"):
        shutil.rmtree(unused, ignore_errors=True)
    return root


def _apt(configuration: Path, folder: Path, arguments: list[str]) -> None:
    remedy = "check this machine's network and apt sources and try again"
    try:
        done = subprocess.run(
            ["apt-get", "-q", "-c", configuration, *arguments],
            cwd=folder,
            env=dict(os.environ, LC_ALL="C"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise BarenetError(f"apt-get {arguments[0]} did not finish within {_TIMEOUT} s; {remedy}") from None
    # apt-get update reports an unreachable mirror as a warning and exits with 0.
    complaints = re.findall(r"^(?:E|W|Err): *(.*)", done.stdout, re.MULTILINE)
    if done.returncode or (arguments[0] == "update" and "Failed to fetch" in done.stdout):
        complaint = complaints[-1] if complaints else "apt-get failed"
        raise BarenetError(f"Debian's packages cannot be fetched ({complaint}); {remedy}")


def _fetch_known(sources: list[str], architecture: str, folder: Path) -> bool:
    """Fetches the packages as they were when `packages.json` was written, by their hashes; returns whether all of them were there.

    For a mirror whose index does not match its signature, as while it is synchronised.
    """
    known = json.loads(Path(__file__).with_name("packages.json").read_text())[architecture]
    for mirror in re.findall(r"^URIs: (https?:\S+)", "\n".join(sources), re.MULTILINE):
        try:
            for path, sha256 in known.items():
                with urllib.request.urlopen(f"{mirror.rstrip('/')}/{path}", timeout=_PACKAGE_TIMEOUT) as answer:
                    content = answer.read()
                if hashlib.sha256(content).hexdigest() != sha256:
                    break
                (folder / Path(path).name).write_bytes(content)
            else:
                return True
        except OSError:
            pass
    return False


def _debian_sources(etc: Path) -> list[str]:
    """Returns this machine's own Debian sources as deb822 stanzas, with the suite replaced by the one we need."""
    entries: list[dict[str, str]] = []
    for file in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))):
        if file.is_file():
            entries += [entry for line in file.read_text().splitlines() if (entry := _one_line(line))]
    for file in sorted((etc / "sources.list.d").glob("*.sources")):
        entries += _deb822(file.read_text())
    stanzas = []
    for entry in entries:
        suites = entry["suites"].split()
        if not _DEBIAN_SUITES.intersection(suites) or "main" not in entry["components"].split():
            continue
        lines = ["Types: deb", f"URIs: {entry['uris']}", f"Suites: {SUITE}", "Components: main"]
        lines += [f"{field}: {entry[field.lower()]}" for field in ("Signed-By", "Trusted") if field.lower() in entry]
        if "\n".join(lines) not in stanzas:
            stanzas.append("\n".join(lines))
    return stanzas


def _one_line(line: str) -> dict[str, str] | None:
    match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
    if not match:
        return None
    options, uri, suite, components = match.groups()
    entry = {"uris": uri, "suites": suite, "components": components}
    for option in (options or "").split():
        name, _, value = option.partition("=")
        entry[name.lower()] = value.replace(",", " ")
    return entry


def _deb822(text: str) -> list[dict[str, str]]:
    entries = []
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        found = re.findall(r"^(\S+):(.*\n?(?:[ \t].*\n?)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value.strip() for name, value in found}
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if enabled and "deb" in fields.get("types", "").split() and {"uris", "suites", "components"} <= fields.keys():
            entries.append(fields)
    return entries
