"""HTTP both ways: the board fetches from nginx, and serves to curl."""

import hashlib
import random
import subprocess

import pytest
from linux import BOARD, LINUX, run, running, until, value

from host_tools.setup_system import program

SIZES = [0, 1, 1459, 1460, 1461, 2919, 2920, 2921, 100_000]

# For the board: a client as small as they come. Returns (status line, length, SHA-256) of a page; nothing larger than a line is kept.
GET = """
import hashlib
def get(host, path, port=80, version="1.0"):
    s = socket.socket()
    s.settimeout(10)
    s.connect(socket.getaddrinfo(host, port)[0][-1])
    s.write("GET %s HTTP/%s\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % (path, version, host))
    status = s.readline()
    expected = -1
    while True:
        line = s.readline()
        if line in (b"\\r\\n", b""):
            break
        if line.lower().startswith(b"content-length:"):
            expected = int(line.split(b":")[1])
    h = hashlib.sha256()
    n = 0
    buffer = bytearray(1000)
    view = memoryview(buffer)
    while True:
        k = s.readinto(buffer)
        h.update(view[:k])
        n += k
        if k < len(buffer):
            break
    s.close()
    if expected >= 0 and expected != n:
        raise ValueError("%d bytes of %d" % (n, expected))
    return status.decode().strip(), n, h.digest().hex()
"""

# For the board: serves GET /<n> with n bytes, `requests` times.
SERVE = """
d = socket.socket()
d.bind(("", 80))
d.listen(2)
d.settimeout(10)
for _ in range({requests}):
    s, _ = d.accept()
    s.settimeout(10)
    size = int(s.readline().split()[1][1:])
    while s.readline() not in (b"", b"\\r\\n"):
        pass
    s.write("HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
    data = b"barenet!" * 125
    while size > 0:
        size -= s.write(data, min(size, len(data)))
    s.close()
d.close()
"""


@pytest.fixture(scope="module")
def nginx(board, tmp_path_factory):
    """nginx in the namespace; gives {size: SHA-256} of the files that it serves."""
    folder = tmp_path_factory.mktemp("nginx")
    www = folder / "www"
    www.mkdir()
    digests = {}
    for size in SIZES:
        data = random.Random(size).randbytes(size)
        (www / str(size)).write_bytes(data)
        digests[size] = hashlib.sha256(data).hexdigest()
    for path in [www, *folder.parents]:
        if path.owner() == folder.owner() and str(path) != "/":
            path.chmod(path.stat().st_mode | 0o055)
    (folder / "nginx.conf").write_text(
        f"""user root root; daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 64; }}
http {{
  access_log off; keepalive_timeout 5;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen {LINUX}:80; root {www}; }}
}}
"""
    )
    process = board.popen(
        [program("nginx"), "-p", folder, "-c", folder / "nginx.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    check = [program("curl"), "-s", "-o", "/dev/null", f"http://{LINUX}/0"]
    until(lambda: board.run(check).returncode == 0, "nginx")
    yield digests
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def client(board, nginx):
    run(board, GET)


@pytest.mark.parametrize("size", SIZES)
def test_the_board_fetches_a_file_from_nginx(board, nginx, client, size):
    assert value(board, f"get('{LINUX}', '/{size}')") == ("HTTP/1.1 200 OK", size, nginx[size])


def test_the_board_learns_that_there_is_no_such_page(board, nginx, client):
    assert value(board, f"get('{LINUX}', '/missing')[0]") == "HTTP/1.1 404 Not Found"


def test_several_requests_over_one_connection(board, nginx, client):
    code = f"""
        s = socket.socket()
        s.settimeout(10)
        s.connect(("{LINUX}", 80))
        for size in (1460, 1, 2921, 0):
            s.write("GET /%d HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % size)
            length = 0
            while True:
                line = s.readline()
                if line == b"\\r\\n":
                    break
                if line.startswith(b"Content-Length"):
                    length = int(line.split()[1])
            h = hashlib.sha256(s.read(length))
            print(length, h.digest().hex())
        s.close()
    """
    assert run(board, code) == [f"{size} {nginx[size]}" for size in (1460, 1, 2921, 0)]


def page(size):
    return (b"barenet!" * (size // 8 + 1))[:size]


def curl(board, size, *options):
    return [program("curl"), "-s", "--max-time", "20", *options, f"http://{BOARD}/{size}"]


def test_curl_fetches_one_page_after_the_other_from_the_board(board, linux):
    with running(board, SERVE.format(requests=len(SIZES)), 60):
        for size in SIZES:
            # The first may come before the board listens.
            command = curl(board, size, "--retry", "5", "--retry-connrefused", "--retry-delay", "1")
            done = board.run(command, capture_output=True, timeout=30)
            assert done.returncode == 0 and done.stdout == page(size)


def test_five_curls_at_once_get_their_pages(board, linux):
    # They wait in the kernel's SYN retransmission for a place in the backlog, which it repeats each second here.
    try:
        linux.sysctl("net.ipv4.tcp_syn_linear_timeouts", 20)
    except OSError:
        pass  # older kernels double the pause
    with running(board, SERVE.format(requests=5), 60):
        command = curl(board, 20_000, "--retry", "5", "--retry-connrefused", "--retry-delay", "1")
        clients = [board.popen(command, stdout=subprocess.PIPE) for _ in range(5)]
        for c in clients:
            assert c.communicate(timeout=40)[0] == page(20_000)
            assert c.returncode == 0


def test_an_asyncio_server_on_the_board_serves_five_curls_at_once(board, linux):
    code = """
        import asyncio
        async def serve(reader, writer):
            size = int((await reader.readline()).split()[1][1:])
            while await reader.readline() not in (b"", b"\\r\\n"):
                pass
            writer.write("HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
            while size > 0:
                writer.write((b"barenet!" * 125)[:size])
                await writer.drain()
                size -= 1000
            writer.close()
            await writer.wait_closed()
            global served
            served += 1
        async def main():
            server = await asyncio.start_server(serve, "0.0.0.0", 80, backlog=2)
            while served < 5:
                await asyncio.sleep_ms(10)
            server.close()
            await server.wait_closed()
        served = 0
        asyncio.run(main())
        asyncio.new_event_loop()
        print(served)
    """
    with running(board, code, 60) as future:
        command = curl(board, 5_000, "--retry", "5", "--retry-connrefused", "--retry-delay", "1")
        clients = [board.popen(command, stdout=subprocess.PIPE) for _ in range(5)]
        for c in clients:
            assert c.communicate(timeout=40)[0] == page(5_000)
        assert future.result(40) == ["5"]


def test_a_post_of_50_kB_from_curl(board, linux, tmp_path):
    data = random.Random(4).randbytes(50_000)
    (tmp_path / "data").write_bytes(data)
    code = """
        import hashlib
        d = socket.socket()
        d.bind(("", 80))
        d.listen(1)
        d.settimeout(10)
        s, _ = d.accept()
        d.close()
        s.settimeout(10)
        length = 0
        while True:
            line = s.readline()
            if line == b"\\r\\n":
                break
            if line.startswith(b"Content-Length"):
                length = int(line.split()[1])
            if line.startswith(b"Expect"):
                s.write(b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        h = hashlib.sha256()
        buffer = bytearray(1000)
        for _ in range(length // 1000):
            s.readinto(buffer)
            h.update(buffer)
        s.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + h.digest().hex().encode())
        s.close()
    """
    with running(board, code, 30):
        command = curl(board, "", "--retry", "5", "--retry-connrefused", "--retry-delay", "1")
        done = board.run([*command, "--data-binary", f"@{tmp_path}/data"], capture_output=True, text=True, timeout=30)
        assert done.stdout == hashlib.sha256(data).hexdigest()
