"""Where the instructions of a case go: by layer, and by function.

callgrind cannot see bytecode: to it, every Python function is the interpreter. So the case runs under valgrind's lackey,
which writes out every instruction and every load. A load of a byte from a function's bytecode by the interpreter's main
loop means that this function runs now; an instruction in a viper function's code names that one. What is executed until
the next such event belongs to it: its opcodes, the calls it makes, and what the C runtime does for it. Nothing is added
to the program and nothing is estimated; a call is counted with the callee from the moment its bytecode is looked at.
The main loop is known by its loads: in a first phase, nine of ten of an instruction's are of bytecode. Takes minutes.
"""

from __future__ import annotations

import bisect
import collections
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator

import counting
import figures
from rich.console import Console
from rich.table import Table

from host_tools import deploy, setup_system
from host_tools.errors import BarenetError

_SHOWN = 45
_BLOCK_BITS = 5  # 32 bytes: what the 64-bit interpreter allocates at least
_HEAP = "2m"  # a small one is collected sooner
_LONGEST = 4096  # bytes of code of one function, at most
_AWAY = ("far end", "")


def show(case: str, console: Console) -> None:
    """Prints the profile of a case, "bulk_receive:8". Raises BarenetError."""
    name, _, burst = case.replace("-", "_").partition(":")
    known = sorted({figure.case for figure in figures.FIGURES})
    if name not in known or not burst.isdigit() and burst:
        raise BarenetError(f"there is no case {case}; there are {', '.join(known)}, each with :1 to :8 for the frames a poll")
    with console.status("tracing, some minutes …"):
        units, totals = _trace(name, int(burst or 1))
    functions = collections.Counter()
    modules = collections.Counter()
    for (where, kind), n in totals.items():
        if (where, kind) == _AWAY:
            continue
        functions[where, kind] += n
        modules[where.partition(" ")[0].removeprefix("barenet."), kind] += n
    total = sum(functions.values())
    for title, counter in (("layer", modules), ("function", functions)):
        table = Table(title=f"{case}: instructions of one unit by {title}, {total / units:,.0f} in all")
        for column in (title, "runs as", "instructions", "share"):
            table.add_column(column, justify="right" if column in ("instructions", "share") else "left")
        for (where, kind), n in counter.most_common(_SHOWN):
            table.add_row(where, kind, f"{n / units:,.0f}", f"{100 * n / total:.1f} %")
        console.print(table)


def _trace(case: str, burst: int) -> tuple[float, collections.Counter]:
    """Returns the units of the second phase, and its instructions by (function, "bytecode" or "viper")."""
    read, write = os.pipe()
    with counting.firmware(64) as folder:
        command = [setup_system.program("valgrind"), "--tool=lackey", "--trace-mem=yes", "--basic-counts=no", f"--log-fd={write}"]
        process = subprocess.Popen(
            [*command, *counting.command(64, _HEAP), "-m", "cases", case, str(burst), "trace", "0"],
            cwd=folder,
            env=counting.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[write],
            text=True,
        )
        os.close(write)
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.extend(process.stdout), daemon=True)
        reader.start()
        try:
            with os.fdopen(read, "rb", buffering=0) as trace:
                totals = _attribute(_lines(trace), printed)
            if process.wait(60):
                raise BarenetError(f"the case {case} failed:\n{''.join(printed[1:])}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        reader.join(10)
    return json.loads(printed[-1])["phases"][1][1], totals


def _lines(trace) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := trace.read(1 << 22):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield lines


def _attribute(chunks: Iterator[list[bytes]], printed: list[str]) -> collections.Counter:
    """Returns the instructions of the second phase by (function, kind)."""
    totals: collections.Counter = collections.Counter()
    places = None
    marker = None
    marks = 0
    current = ("program", "bytecode")
    caller = current
    before: collections.deque[bytes] = collections.deque(maxlen=4)  # instructions: one of them calls libffi
    back: set[bytes] = set()  # what is executed when it returns
    code: dict[bytes, tuple[str, str] | None] = {}
    loads: dict[bytes, tuple[str, str] | None] = {}
    readers: dict[bytes, list[int]] = collections.defaultdict(lambda: [0, 0])  # instruction → loads of other bytes, of bytecode
    loop: set[bytes] = set()
    objects: set[int] = set()  # blocks of the heap that are read by words: not bytecode
    at = b""
    result: collections.Counter = collections.Counter()
    for lines in chunks:
        if places is None:
            if not printed:
                continue  # still starting
            places = _Places(json.loads(printed[0]))
            marker = b" S %08x,1" % places.flag
        if marks % 2 == 0 and marker not in lines:
            continue
        for line in lines:
            if line == marker:
                marks += 1
                if marks == 3:
                    totals.clear()
                    loop = {where for where, (other, hits) in readers.items() if hits > 9 * other}
                elif marks == 4:
                    result = totals.copy()
            elif marks not in (1, 3):
                continue
            elif line[:1] == b"I":
                at = line[3:]
                owner = code.get(at, 0)
                if owner == 0:
                    owner = code[at] = places.code(int(at.partition(b",")[0], 16))
                if current is _AWAY:  # the far end runs bytecode and viper, too
                    if at.partition(b",")[0] in back:
                        current = caller
                elif owner is _AWAY:
                    caller, current = current, _AWAY
                    back = {b"%08x" % sum(int(part, base) for part, base in zip(i.split(b","), (16, 10))) for i in before}
                elif owner:
                    current = owner
                before.append(at)
                totals[current] += 1
            elif line[-2:] != b",1":
                if marks == 1:
                    objects.add(int(line[3:].partition(b",")[0], 16) >> _BLOCK_BITS)
            else:
                owner = loads.get(line, 0)
                if owner == 0:
                    owner = loads[line] = places.bytecode(int(line[3:-2], 16))
                if marks == 1:
                    seen = readers[at]
                    seen[owner is not None] += 1
                elif owner and current is not _AWAY and at in loop and int(line[3:-2], 16) >> _BLOCK_BITS not in objects:
                    current = owner
    return result


class _Places:
    """Says whose code lies at an address."""

    def __init__(self, found: dict):
        self.flag = found["flag"]
        executable = []
        self._ffi = (0, 0)
        for line in found["maps"]:
            span, mode, *rest = line.split()
            first, last = (int(part, 16) for part in span.split("-"))
            if "x" in mode and len(rest) < 4:
                executable.append((first, last))
            elif "x" in mode and "libffi" in rest[-1]:
                self._ffi = (first, last)
        starts = sorted(self._named(found["functions"]).items())
        self._viper = [s for s in starts if any(a <= s[0] < b for a, b in executable)]
        self._bytecode = [s for s in starts if s not in self._viper]

    @staticmethod
    def _named(functions: dict[str, int]) -> dict[int, str]:
        """Returns each function's name in the module that defines it; others have imported it."""
        sources = deploy.sources()
        names: dict[int, str] = {}
        for name, address in functions.items():
            module, _, what = name.partition(" ")
            path = module.replace(".", "/")
            text = (sources.get(path + ".py") or sources.get(path + "/__init__.py") or b"").decode()
            if address not in names or re.search(rf"^(class|def) {what.partition('.')[0]}\b", text, re.MULTILINE):
                names[address] = name
        return names

    def code(self, address: int) -> tuple[str, str] | None:
        if self._ffi[0] <= address < self._ffi[1]:
            return _AWAY
        return self._find(self._viper, address, "viper")

    def bytecode(self, address: int) -> tuple[str, str] | None:
        return self._find(self._bytecode, address, "bytecode")

    @staticmethod
    def _find(starts: list[tuple[int, str]], address: int, kind: str) -> tuple[str, str] | None:
        i = bisect.bisect_right(starts, (address, "~")) - 1
        if i < 0 or address - starts[i][0] > (_LONGEST if kind == "bytecode" else 4 * _LONGEST):
            return None
        name = starts[i][1]
        return _AWAY if name.startswith("line ") else (name, kind)
