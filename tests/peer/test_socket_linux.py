"""The socket module against Linux: its kernel and its programs are at the other end of the virtual board's cable."""

import hashlib
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from host_tools.virtual_board import VirtualBoard

LINUX, BOARD = "10.77.0.1", "10.77.0.2"

# A server for the tests, started in the board's namespace: it prints "ready" and then does what the test says.
SERVER = """
import hashlib, socket, struct, sys, threading, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("10.77.0.1", int(sys.argv[1])))
s.listen()
print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def board():
    with VirtualBoard() as board:
        yield board


@pytest.fixture
def linux(board):
    """Start Python code in the namespace: linux(code, *arguments) returns its process once it has printed "ready"."""
    started = []

    def start(code, *arguments):
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
        process = board.popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def on_board(board, code, timeout=30):
    """Run code on the board and return the lines it printed."""
    imports = "import errno, gc, select, socket, struct, time\ngc.collect()\n"
    return board.exec(imports + textwrap.dedent(code), timeout).splitlines()


def test_bulk_data_arrives_unchanged_both_ways(board, linux):
    server = linux(
        SERVER
        + """
c, _ = s.accept()
sent = hashlib.sha256()
for i in range(300):
    block = bytes((i * 7 + j * 13) & 255 for j in range(1000))
    sent.update(block)
    c.sendall(block)
c.shutdown(socket.SHUT_WR)
got = hashlib.sha256()
while data := c.recv(4096):
    got.update(data)
print(sent.hexdigest())
print(got.hexdigest(), flush=True)
""",
        9001,
    )
    lines = on_board(
        board,
        """
        import hashlib
        s = socket.socket()
        s.connect(("10.77.0.1", 9001))
        got = hashlib.sha256()
        buffer = bytearray(3000)
        view = memoryview(buffer)
        while True:
            n = s.recv_into(buffer)
            if n == 0:
                break
            got.update(view[:n])
        print(got.digest().hex())
        sent = hashlib.sha256()
        for i in range(100):
            for j in range(3000):
                buffer[j] = (i * 5 + j * 3) & 255
            sent.update(buffer)
            s.sendall(buffer)
        s.close()
        print(sent.digest().hex())
        """,
    )
    assert [server.stdout.readline().strip(), server.stdout.readline().strip()] == lines
    expected = hashlib.sha256()
    for i in range(100):
        expected.update(bytes((i * 5 + j * 3) & 255 for j in range(3000)))
    assert lines[1] == expected.hexdigest()


def test_bulk_transfer_runs_with_the_heap_locked(board, linux):
    linux(
        SERVER
        + """
c, _ = s.accept()
while data := c.recv(65536):
    c.sendall(data)
c.close()
""",
        9002,
    )
    lines = on_board(
        board,
        """
        import micropython
        s = socket.socket()
        s.connect(("10.77.0.1", 9002))
        buffer = bytearray(4000)
        s.sendall(buffer)
        s.readinto(buffer)
        micropython.heap_lock()
        try:
            for _ in range(100):
                s.sendall(buffer)
                s.readinto(buffer)
        finally:
            micropython.heap_unlock()
        print(s._stack.errors)
        s.close()
        """,
    )
    assert lines == ["0"]


def test_errors_of_a_linux_peer(board, linux):
    linux(
        SERVER
        + """
for _ in range(2):
    c, _ = s.accept()
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.sendall(b"last words")
    time.sleep(0.1)
    c.close()
time.sleep(60)
""",
        9003,
    )
    lines = on_board(
        board,
        """
        def attempt(call, *arguments):
            try:
                print(call(*arguments))
            except OSError as e:
                print([n for n in dir(errno) if getattr(errno, n) == e.errno])
        s = socket.socket()
        attempt(s.connect, ("10.77.0.1", 9))
        attempt(s.connect, ("10.77.0.1", 9003))
        time.sleep_ms(300)
        attempt(s.recv, 100)
        attempt(s.recv, 100)
        attempt(s.recv, 100)
        s.close()
        s = socket.socket()
        s.connect(("10.77.0.1", 9003))
        s.settimeout(2)
        attempt(s.read, 100)
        s.close()
        """,
    )
    assert lines == ["['ECONNREFUSED']", "None", "b'last words'", "['ECONNRESET']", "b''", "['ECONNRESET']"]


def test_half_close_is_seen_by_both_sides(board, linux):
    linux(
        SERVER
        + """
c, _ = s.accept()
question = b""
while data := c.recv(100):
    question += data
c.sendall(question[::-1])
c.close()
""",
        9004,
    )
    lines = on_board(
        board,
        """
        s = socket.socket()
        s.connect(("10.77.0.1", 9004))
        s.write(b"question")
        s.shutdown(socket.SHUT_WR)
        print(s.read())
        s.close()
        """,
    )
    assert lines == ["b'noitseuq'"]


def test_linux_clients_of_a_server_on_the_board(board):
    program = """
import socket
s = socket.socket()
s.bind(socket.getaddrinfo("0.0.0.0", 8080)[0][-1])
s.listen(2)
print("ready")
for _ in range(6):
    c, peer = s.accept()
    f = c.makefile("rwb")
    request = f.readline()
    while f.readline() not in (b"", b"\\r\\n"):
        pass
    body = request * 400
    f.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body))
    f.write(body)
    c.close()
s.close()
"""
    with board.program(program) as running:
        assert running.stdout.readline() == "ready\n"
        code = f"""
import urllib.request
for i in range(3):
    body = urllib.request.urlopen("http://{BOARD}:8080/%d" % i, timeout=10).read()
    assert body == (b"GET /%d HTTP/1.1\\r\\n" % i) * 400, body[:100]
"""
        clients = [board.popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for client in clients:
            said = client.communicate(timeout=30)[1]
            assert said == "", said + running.output()
            assert client.returncode == 0
        assert running.wait() == 0, running.output()


def test_asyncio_server_serves_several_linux_clients_at_once(board):
    program = """
import asyncio, barenet
async def serve(reader, writer):
    while True:
        line = await reader.readline()
        if not line:
            break
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 8081)
    print("ready")
    await asyncio.sleep(20)
asyncio.run(main())
"""
    with board.program(program) as running:
        assert running.stdout.readline() == "ready\n"
        code = f"""
import socket
clients = [socket.create_connection(("{BOARD}", 8081), timeout=10) for _ in range(3)]
for n in range(20):
    for i, c in enumerate(clients):
        c.sendall(b"line %d of %d\\n" % (n, i))
    for i, c in enumerate(clients):
        expected = b"LINE %d OF %d\\n" % (n, i)
        got = b""
        while len(got) < len(expected):
            got += c.recv(100)
        assert got == expected, got
for c in clients:
    c.shutdown(socket.SHUT_WR)
    assert c.recv(10) == b""
"""
        client = board.popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert client.communicate(timeout=30)[1] == ""
        running.kill()


def test_udp_with_linux(board, linux):
    linux(
        """
        import socket
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("10.77.0.1", 9005))
        print("ready", flush=True)
        while True:
            data, peer = s.recvfrom(5000)
            s.sendto(data[::-1], peer)
        """
    )
    lines = on_board(
        board,
        """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(2)
        s.sendto(b"abc", ("10.77.0.1", 9005))
        print(s.recvfrom(100))
        for size in (0, 1, 1471, 1472, 1473, 4000):
            data = bytes((i & 255) for i in range(size))
            s.sendto(data, ("10.77.0.1", 9005))
            print(s.recv(5000) == bytes(reversed(data)))
        s.connect(("10.77.0.1", 9))
        s.send(b"nobody there")
        try:
            print(s.recv(10))
        except OSError as e:
            print(e.errno == errno.ECONNREFUSED)
        s.close()
        """,
    )
    assert lines == ["(b'cba', ('10.77.0.1', 9005))"] + ["True"] * 7


def test_blocking_calls_end_on_time_and_poll_tells_the_truth(board, linux):
    linux(SERVER + "c, _ = s.accept()\ntime.sleep(0.5)\nc.sendall(b'late')\ntime.sleep(60)", 9006)
    lines = on_board(
        board,
        """
        s = socket.socket()
        poller = select.poll()
        poller.register(s)
        print(poller.poll(0)[0][1])
        s.connect(("10.77.0.1", 9006))
        print(poller.poll(1000)[0][1])
        poller.modify(s, select.POLLIN)
        print(poller.poll(0))
        print(poller.poll(2000)[0][1], s.recv(10))
        s.settimeout(0.25)
        start = time.ticks_ms()
        try:
            s.recv(1)
        except OSError as e:
            print(e.errno == errno.ETIMEDOUT, 240 < time.ticks_diff(time.ticks_ms(), start) < 400)
        s.close()
        """,
    )
    assert lines == ["20", "4", "[]", "1 b'late'", "True True"]


def test_ctrl_c_ends_a_blocking_call_and_the_board_goes_on(board):
    program = """
import socket
s = socket.socket()
s.bind(("", 8082))
s.listen()
print("ready")
try:
    s.accept()
except KeyboardInterrupt:
    print("interrupted")
c, _ = s.accept()
print(c.recv(10))
"""
    with board.program(program) as running:
        assert running.stdout.readline() == "ready\n"
        time.sleep(0.3)
        running.interrupt()
        assert running.stdout.readline() == "interrupted\n"
        code = f"import socket; c = socket.create_connection(('{BOARD}', 8082), 10); c.sendall(b'hello'); c.recv(1)"
        board.popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        assert running.stdout.readline() == "b'hello'\n"
        assert running.wait() == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_tls_over_the_socket(board, linux, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=linux"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    linux(
        SERVER
        + """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[3], sys.argv[2])
for _ in range(2):
    c = context.wrap_socket(s.accept()[0], server_side=True)
    data = c.recv(100)
    c.sendall(b"tls " * 1000 + data)
    c.close()
""",
        9007,
        key,
        certificate,
    )
    lines = on_board(
        board,
        """
        import tls
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_NONE
        s = socket.socket()
        s.connect(("10.77.0.1", 9007))
        t = context.wrap_socket(s)
        t.write(b"hello")
        data = t.read(4005)
        print(len(data), data[-9:])
        t.close()
        print(s.fileno())
        s = socket.socket()
        s.connect(("10.77.0.1", 9007))
        s.setblocking(False)
        t = context.wrap_socket(s, do_handshake_on_connect=False)
        poller = select.poll()
        poller.register(t, select.POLLOUT)
        while t.write(b"again") is None:
            poller.poll(1000)
        poller.modify(t, select.POLLIN)
        data = b""
        while len(data) < 4005:
            poller.poll(1000)
            data += t.read(500) or b""
        print(len(data), data[-9:])
        t.close()
        """,
    )
    assert lines == ["4005 b'tls hello'", "-1", "4005 b'tls again'"]


def test_a_port_can_be_used_again_at_once(board):
    program = """
import socket
for _ in range(3):
    s = socket.socket()
    s.bind(("", 8083))
    s.listen()
    print("ready")
    c, _ = s.accept()
    c.send(b"bye")
    c.close()  # the board closes first: TIME_WAIT is here
    s.close()
"""
    with board.program(program) as running:
        for _ in range(3):
            assert running.stdout.readline() == "ready\n"
            code = f"import socket; c = socket.create_connection(('{BOARD}', 8083), 10); assert c.recv(10) == b'bye'"
            assert board.run([sys.executable, "-c", code], timeout=20).returncode == 0
        assert running.wait() == 0
