"""Where the virtual board's MicroPython comes from."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from host_tools.virtual_board import interpreter

DEB822 = """\
# the mirror
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/a.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""

THIRD_PARTY = """\
Types: deb
URIs: https://vendor.example/apt
Suites: stable
Components: tools

Enabled: no
Types: deb
URIs: http://other.example/debian
Suites: trixie
Components: main
"""


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_deb822_sources_are_taken_over_with_the_suite_replaced(etc):
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    (etc / "sources.list.d/vendor.sources").write_text(THIRD_PARTY)
    assert interpreter._debian_sources(etc) == [
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/a.gpg"
    ]


def test_a_key_inside_the_source_is_taken_over(etc):
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abcd\n -----END PGP PUBLIC KEY BLOCK-----"
    text = f"Types: deb\nURIs: http://m.example/d\nSuites: trixie\nComponents: main\n{key}\n"
    (etc / "sources.list.d/debian.sources").write_text(text)
    (stanza,) = interpreter._debian_sources(etc)
    assert stanza.partition("Signed-By:")[2].split() == key.partition(":")[2].split()
    assert all(line.startswith(" ") for line in stanza.partition("Signed-By:")[2].splitlines()[1:])


def test_one_line_sources_are_taken_over(etc):
    (etc / "sources.list").write_text(
        "# deb http://no.example/debian trixie main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main non-free # comment\n"
        "deb http://mirror.example/debian bookworm main\n"
        "deb http://ubuntu.example/ubuntu noble main universe\n"
        "deb-src http://mirror.example/debian bookworm main\n"
    )
    assert interpreter._debian_sources(etc) == [
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg",
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main",
    ]


def find(tmp_path, bin_files, **environment):
    """Calls find() in a process of its own, with an empty cache and `bin_files` in front of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in bin_files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "BARENET_CACHE": str(tmp_path / "cache"),
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),  # no mirror is reached by any way but apt-get
        "no_proxy": "",
        **environment,
    }
    code = "from host_tools.virtual_board import interpreter as i; print(i.find())"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def test_without_network_the_error_says_what_to_do(tmp_path):
    offline = "#!/bin/sh\necho 'W: Failed to fetch http://mirror.example/dists  Could not resolve'\n"
    done = find(tmp_path, {"apt-get": offline})
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert "Could not resolve" in message and "try again" in message and "micropython" in message


def test_where_debian_has_none_the_micropython_on_the_path_is_used_and_named(tmp_path):
    real = interpreter.find(64)
    mine = f'#!/bin/sh\nexec {" ".join(real.command)} "$@"\n'
    done = find(tmp_path, {"apt-get": "#!/bin/sh\nexit 100\n", "micropython": mine})
    assert done.returncode == 0
    assert "64-bit" in done.stdout and str(tmp_path / "bin/micropython") in done.stdout


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    done = find(tmp_path, {}, BARENET_CACHE="/proc/none")
    assert done.returncode == 1 and "/proc/none" in done.stderr and "BARENET_CACHE" in done.stderr


def test_the_interpreter_has_a_boards_small_ints():
    found = interpreter.find(32)
    assert found.bits == 32
    done = subprocess.run([*found.command, "-c", "import sys; print(sys.maxsize)"], capture_output=True, text=True)
    assert int(done.stdout) == 2**31 - 1


def test_packages_come_by_their_hashes_where_the_index_is_broken(tmp_path, monkeypatch):
    served = {"/debian/pool/a.deb": b"first", "/debian/pool/b.deb": b"second"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = served.get(self.path)
            self.send_response(200 if content else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    known = {"i386": {"pool/" + name: hashlib.sha256(text).hexdigest() for name, text in (("a.deb", b"first"), ("b.deb", b"second"))}}
    monkeypatch.setattr(interpreter, "__file__", str(tmp_path / "interpreter.py"))
    (tmp_path / "packages.json").write_text(json.dumps(known))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        sources = ["Types: deb\nURIs: " + mirror + "/nothing\nSuites: trixie", "Types: deb\nURIs: " + mirror + "/debian/\nSuites: trixie"]
        assert interpreter._fetch_known(sources, "i386", tmp_path)
        assert (tmp_path / "a.deb").read_bytes() == b"first" and (tmp_path / "b.deb").read_bytes() == b"second"
        served["/debian/pool/b.deb"] = b"damaged"
        assert not interpreter._fetch_known(sources, "i386", tmp_path)
        server.shutdown()


def test_every_package_is_known_by_its_hash():
    known = json.loads(Path(interpreter.__file__).with_name("packages.json").read_text())
    for packages in known.values():
        assert sorted(Path(path).name.partition("_")[0] for path in packages) == sorted(interpreter.PACKAGES)
