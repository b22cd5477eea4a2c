"""The board's RAM: where it lies, and how the model's DMA reaches it.

On the chip the heap of stock firmware without PSRAM lies at 0x3FFAE000 to 0x3FFFFFFF, which is what the EMAC's DMA can
reach, and descriptors carry such addresses. So that the driver's range check, its descriptors and its buffers are the
same on the model, the 32-bit interpreter is started with its heap at these very addresses: Linux places a process's
mappings downward from a base that follows from the stack limit, and `Layout` chooses the limit so that the
interpreter's first large allocation, its heap, falls where it is wanted. With `psram` it falls at 0x3F8..., as with
firmware that has its heap in PSRAM.

The DMA reads and writes through /proc/PID/mem: it works behind the interpreter's back, as on the chip.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import subprocess
from dataclasses import dataclass

from host_tools.errors import BarenetError

DMA_LOW = 0x3FFAE000
DMA_HIGH = 0x40000000
PSRAM_LOW = 0x3F800000
PSRAM_HIGH = 0x3FC00000

_ADDR_NO_RANDOMIZE = 0x0040000
_PAGE = 4096
_FIRST_TRY = 0xBF000000
_PROBE = "import uctypes; b = bytearray(1536); print(uctypes.addressof(b)); input()"
_MARGIN = 0x4000  # between the heap's begin and its first 1536 free bytes, and what a stack of mappings may shift

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Layout:
    """A stack limit that makes an interpreter's heap lie where the chip's does.

    `apply` is for subprocess's preexec_fn.
    """

    stack_limit: int

    def apply(self) -> None:
        _prepare(self.stack_limit)


def _prepare(stack_limit: int) -> None:
    if _libc.personality(_ADDR_NO_RANDOMIZE) < 0:
        raise OSError(ctypes.get_errno(), "personality")
    resource.setrlimit(resource.RLIMIT_STACK, (stack_limit, resource.getrlimit(resource.RLIMIT_STACK)[1]))


@functools.cache
def layout(command: tuple[str, ...], heap: int, psram: bool = False) -> Layout:
    """Finds the layout for an interpreter with `heap` bytes of heap.

    Raises BarenetError, whose text is the reason, when the kernel does not allow it, does not let /proc/PID/mem be
    written, or the heap does not fit.
    """
    low, high = (PSRAM_LOW, PSRAM_HIGH) if psram else (DMA_LOW, DMA_HIGH)
    if heap + 2 * _MARGIN > high - low:
        raise BarenetError(
            f"a heap of {heap} bytes does not fit into the chip's RAM: at most {high - low - 2 * _MARGIN}"
        )
    wanted = low + _MARGIN
    limit = _FIRST_TRY
    for _ in range(3):
        found = _probe(command, heap, limit)
        if low <= found - _MARGIN // 2 and found + heap <= high:
            return Layout(limit)
        # A larger limit moves everything down by as much.
        limit += (found - wanted) // _PAGE * _PAGE
    raise BarenetError(
        "the interpreter's heap cannot be laid at the chip's addresses "
        "(is address randomisation forced, or the stack limit fixed?)"
    )


def _probe(command: tuple[str, ...], heap: int, limit: int) -> int:
    try:
        process = subprocess.Popen(
            [*command, "-X", f"heapsize={heap}", "-c", _PROBE],
            preexec_fn=lambda: _prepare(limit),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        raise BarenetError(
            "this kernel or container forbids personality(ADDR_NO_RANDOMIZE) or a larger stack limit"
        ) from None
    with process:
        try:
            address = int(process.stdout.readline())
            with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
                memory.seek(address)
                memory.write(b"\0")
        except ValueError:
            raise BarenetError("the interpreter does not start with the chip's memory layout") from None
        except OSError:
            raise BarenetError("this kernel or container forbids writing to another process's /proc/PID/mem") from None
        finally:
            process.kill()
    return address


class Memory:
    """The RAM of the running program: the interpreter's address space. Nothing while no interpreter runs.

    `written` counts the bytes that the DMA has stored since the interpreter started.
    """

    def __init__(self):
        self._descriptor = -1
        self._stale: dict[int, bytes] = {}
        self.written = 0

    def attach(self, pid: int) -> None:
        """A new interpreter runs: after a soft reset its RAM still holds what it held where nothing has been allocated
        yet.

        Only descriptors matter to the DMA, so those of its ring are put back where the new heap is untouched: as they
        were when the DMA was started or, filled since the old interpreter ended, closed. What the old program had not
        given back in time is taken as given back, the worst case.
        """
        self.detach()
        self._descriptor = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        for address, words in self._stale.items():
            if self.read(address, len(words)) == bytes(len(words)):
                self.write(address, words)
        self.written = 0

    def detach(self) -> None:
        """The interpreter has gone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remember(self, address: int, words: bytes) -> None:
        """Notes a descriptor of the ring for the next soft reset."""
        self._stale[address] = words

    def forget(self) -> None:
        """The DMA has been stopped."""
        self._stale.clear()

    def read(self, address: int, size: int) -> bytes:
        """Returns `size` bytes; what was last known of a descriptor, else zeros, where there is no process behind."""
        try:
            data = os.pread(self._descriptor, size, address)
        except OSError:
            data = b""
        if len(data) == size:
            return data
        return self._stale.get(address, b"")[:size].ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Stores bytes; between two lives of the interpreter only descriptors are kept."""
        try:
            if os.pwrite(self._descriptor, data, address) == len(data):
                self.written += len(data)
                return
        except OSError:
            pass
        if address in self._stale:
            self._stale[address] = data + self._stale[address][len(data) :]


class Ram(Memory):
    """RAM without an interpreter, for tests of the model alone: `size` bytes from `base`."""

    def __init__(self, base: int = DMA_LOW, size: int = 0x8000):
        super().__init__()
        self.base = base
        self.bytes = bytearray(size)

    def read(self, address: int, size: int) -> bytes:
        start = address - self.base
        return bytes(self.bytes[start : start + size])

    def write(self, address: int, data: bytes) -> None:
        start = address - self.base
        self.bytes[start : start + len(data)] = data
