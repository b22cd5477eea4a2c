"""What tshark's expert analysis says of a clean bulk transfer."""

import socket
import struct
import subprocess

import pytest
from linux import LINUX, receive_exactly, running, value

from host_tools.errors import BarenetError
from host_tools.setup_system import program
from host_tools.virtual_board import VirtualBoard

SIZE = 2_000_000
# A kernel on the same machine fills any window at once, whatever the reader does; a cable has a rate. At this one, the window lasts 20 ms.
RATE = 1_600_000  # byte/s
WINDOW = 32768
SO_MAX_PACING_RATE = 47
# Window-full is left out: a sender that is faster than the network fills the window.
UNEXPECTED = (
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "duplicate_ack",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "keep_alive",
    "keep_alive_ack",
    "lost_segment",
    "ack_lost_segment",
    "out_of_order",
    "reused_ports",
)

RECEIVE = f"""
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {WINDOW})
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1460)
s.connect(("{LINUX}", 7500))
buffer = bytearray(4096)
n = 0
while True:
    k = s.recv_into(buffer)
    if not k:
        break
    n += k
s.close()
print(n)
"""
SEND = f"""
s = socket.socket()
s.connect(("{LINUX}", 7500))
buffer = bytearray(4000)
for i in range({SIZE // 4000}):
    s.write(buffer)
    time.sleep_ms(1)  # so that the capture keeps up
s.close()
print({SIZE})
"""


@pytest.fixture(scope="module")
def board():
    """On a TAP device, which loses nothing: a window of 32 KB is more frames than the EMAC has receive descriptors, and Linux may send it at
    once, so that a clean transfer to the EMAC has losses of which TCP is not the cause.
    """
    with VirtualBoard(driver="tap") as board:
        yield board
        assert value(board, "(lan.stack.errors, lan.stack.last_error)") == (0, None)


@pytest.fixture(scope="module")
def tshark():
    """The path of tshark, unpacked once (30 MB of packages, 120 MB unpacked)."""
    try:
        return program("tshark")
    except BarenetError as error:
        pytest.skip(str(error))


def write_pcap(path, frames):
    """Writes the frames of a Capture as a file of the pcap format with nanoseconds."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
        for at, _, frame in frames:
            file.write(struct.pack("<IIII", int(at), int(at % 1 * 1e9), len(frame), len(frame)) + frame)


@pytest.mark.timeout(700)  # the first time, tshark is fetched
@pytest.mark.parametrize("direction", ["to board", "from board"])
def test_tshark_finds_nothing_amiss_in_a_clean_bulk_transfer(tshark, board, linux, tmp_path, direction):
    linux.patient()
    with linux.listen(7500) as listener, linux.capture() as capture:
        with running(board, RECEIVE if direction == "to board" else SEND, 30) as future, listener.accept()[0] as c:
            if direction == "to board":
                c.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE)
                c.sendall(bytes(SIZE))
                c.shutdown(1)
                assert c.recv(1) == b""
            else:
                assert len(receive_exactly(c, SIZE)) == SIZE
            assert future.result(30) == [str(SIZE)]
    path = tmp_path / "bulk.pcap"
    write_pcap(path, capture.frames)
    data = sum(len(segment.data) for segment in capture.tcp(7500))
    assert data >= SIZE, f"the capture has only {data} bytes"
    wanted = " || ".join(f"tcp.analysis.{name}" for name in UNEXPECTED)
    command = [tshark, "-n", "-r", path, "-Y", f"tcp.port == 7500 && ({wanted})"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert not found, f"{len(found)} of {len(capture.frames)} frames:\n" + "\n".join(found[:10])
