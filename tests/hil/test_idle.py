"""Nobody runs the stack but its timer: the board answers whatever its program does."""

import re
import subprocess
import time

import pytest
import serial

from host_tools.virtual_board import VirtualBoard

BOARD = "10.77.0.2"
PROMPT = b"\r\n>>> "


@pytest.fixture(scope="module")
def board():
    with VirtualBoard() as board:
        yield board


def ping(board, count=10, *options):
    """Returns (replies, mean round-trip time in ms) of pings 20 ms apart."""
    command = ["ping", "-n", "-c", count, "-i", "0.02", "-W", "1", *options, BOARD]
    done = board.run(map(str, command), capture_output=True, text=True, timeout=30)
    found = re.search(r"(\d+) received.*= [\d.]+/([\d.]+)/", done.stdout, re.DOTALL)
    assert found, done.stdout + done.stderr
    return int(found[1]), float(found[2])


@pytest.fixture
def port(board):
    """The serial port at an empty friendly prompt."""
    with serial.Serial(board.serial, timeout=10) as port:
        port.write(b"\r\x03\r")
        time.sleep(0.2)
        port.reset_input_buffer()
        port.write(b"\r")
        assert port.read_until(b">>> ").endswith(b">>> ")
        yield port
        port.write(b"\x03\r")
        assert port.read_until(PROMPT).endswith(PROMPT)


def test_ping_is_answered_before_anybody_has_opened_the_serial_port(board):
    replies, mean = ping(board)
    assert replies == 10 and mean < 30


def test_ping_is_answered_while_the_prompt_waits(board, port):
    replies, mean = ping(board, 20)
    assert replies == 20 and mean < 30


def test_ping_is_answered_while_a_line_is_half_typed(board, port):
    port.write(b"print('half a")
    assert ping(board)[0] == 10
    port.write(b" line')\r")
    assert port.read_until(PROMPT).endswith(b"half a line\r\n>>> ")


@pytest.mark.parametrize(
    "what, line",
    [
        ("sleeps", b"import time; time.sleep(30)"),
        ("computes", b"while True: pass\r"),
        ("computes and fills the heap", b"while True: y = [bytearray(100) for _ in range(50)]\r"),
        ("waits for input", b"input()"),
        ("waits in poll()", b"import select, sys; p = select.poll(); p.register(sys.stdin, select.POLLIN); p.poll()"),
        ("waits in asyncio", b"import asyncio; exec('async def f(): await asyncio.sleep(30)'); asyncio.run(f())"),
        ("waits for a connection", b"import socket; s = socket.socket(); s.bind(('', 0)); s.listen(); s.accept()"),
    ],
    ids=lambda text: text if isinstance(text, str) else "",
)
def test_ping_is_answered_while_a_program(board, port, what, line):
    port.write(line + b"\r")
    time.sleep(0.3)
    replies, _ = ping(board)
    port.write(b"\x03")
    assert replies == 10
    assert b"KeyboardInterrupt" in port.read_until(PROMPT)


def test_a_connection_is_accepted_and_its_data_kept_while_the_prompt_waits(board, port):
    port.write(b"import socket; d = socket.socket(); d.bind(('', 7402)); d.listen()\r")
    assert port.read_until(PROMPT)
    code = f"import socket; s = socket.create_connection(('{BOARD}', 7402), 5); s.sendall(b'x' * 3000); s.shutdown(1); print(s.recv(10))"
    client = board.popen(["python3", "-c", code], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    port.write(b"c, _ = d.accept(); len(c.read()), c.write(b'thanks'), c.close(), d.close()\r")
    assert b"(3000, 6, None, None)" in port.read_until(PROMPT)
    assert client.communicate(timeout=10)[0] == "b'thanks'\n"


def test_an_unattended_connection_is_closed_by_the_timer(board, port):
    """What was written last still leaves, and is sent again if need be, after the program has gone back to the prompt."""
    port.write(b"d = socket.socket(); d.bind(('', 7403)); d.listen()\r")
    assert port.read_until(PROMPT)
    code = f"""
import socket
s = socket.create_connection(('{BOARD}', 7403), 5)
n = 0
while data := s.recv(100): n += len(data)
print(n)
"""
    client = board.popen(["python3", "-c", code], stdout=subprocess.PIPE, text=True)
    port.write(b"c, _ = d.accept(); c.write(bytes(5000)), c.close(), d.close()\r")
    assert client.communicate(timeout=10)[0] == "5000\n"


def test_output_and_typing_are_not_disturbed_by_traffic(board, port):
    flood = board.popen(["ping", "-n", "-f", "-c", "2000", "-w", "3", BOARD], stdout=subprocess.DEVNULL)
    for i in range(20):
        port.write(b"%d + 1\r" % i)
        assert port.read_until(PROMPT).endswith(b"\r\n%d\r\n>>> " % (i + 1))
    flood.kill()
    flood.wait()


def test_the_board_answers_again_right_after_a_soft_reset(board, port):
    port.write(b"\x04")
    assert port.read_until(b"information.\r\n>>> ").endswith(b">>> ")
    assert ping(board)[0] == 10
    port.write(b"\r")
    port.read_until(PROMPT)
