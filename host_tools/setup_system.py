"""Make ready what `make` needs from the system: a virtual environment, and the programs that tests and demo talk to.

Missing programs are not installed. Their packages come from the machine's own Debian or Ubuntu archive and are
unpacked into the project's cache, as root and as anybody else alike: nothing on the machine changes, and no daemon
starts. Runs on the system's Python, before there is a virtual environment: standard library only.

    python3 -m host_tools.setup_system venv FOLDER     a virtual environment that has pip
    python3 -m host_tools.setup_system programs        find or unpack the programs
"""

import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

from host_tools import CACHE
from host_tools.errors import BarenetError

# Program: Debian package that has it.
PROGRAMS = {
    "curl": "curl",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "nginx": "nginx",
    "ping": "iputils-ping",
}
# Large, and of use to few: unpacked when `program` is asked for one, not before.
LATE = {"tshark": "tshark", "valgrind": "valgrind"}

_FOLDER = CACHE / "system"
_ROOT = _FOLDER / "root"
BIN = _FOLDER / "bin"
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_APT_TIMEOUT = 600


def search_path() -> str:
    """A PATH on which everything of `PROGRAMS` that is there can be found."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN, str(BIN)])


def program(name: str) -> str:
    """The path of a program of `PROGRAMS` or `LATE`, unpacked now if the system does not have it.

    Raises BarenetError with what to install when it cannot be had.
    """
    provide([name])
    return shutil.which(name, path=search_path())


def provide(names: Iterable[str] = tuple(PROGRAMS)) -> None:
    """Unpack those of the programs that neither the system nor the cache has.

    Raises BarenetError with what to install when that is not possible.
    """
    if not _missing(names):
        return
    with _lock():
        # Another process may have done it while this one waited for the lock.
        missing = _missing(names)
        packages = [(PROGRAMS | LATE)[name] for name in missing]
        if packages:
            unpack(packages)
        BIN.mkdir(parents=True, exist_ok=True)
        for name in missing:
            _write_wrapper(name)
    if lost := _missing(missing):
        raise BarenetError(f"{', '.join(lost)} not found in the packages; {_remedy(packages)}")


def _missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if not shutil.which(name, path=search_path())]


def unpack(packages: list[str]) -> Path:
    """Download Debian packages with what they depend on and the system lacks, and unpack them into the cache.

    Returns the folder that stands for / . Raises BarenetError when the archive is out of reach, or there is no apt.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise BarenetError(f"missing programs, and no apt to get them with; {_remedy(packages)}")
    print(f"barenet: unpacking {', '.join(packages)} into {_FOLDER} (nothing is installed)", file=sys.stderr)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    own_lists = _FOLDER / "apt" / "state" / "lists"
    with tempfile.TemporaryDirectory(dir=_FOLDER) as archives:
        lists = own_lists if own_lists.is_dir() else Path("/var/lib/apt/lists")
        if _download(packages, lists, archives):
            # Unknown package or outdated list: fetch the lists, into a place that is ours.
            own_lists.mkdir(parents=True, exist_ok=True)
            trouble = _apt(["update"], own_lists, archives) or _download(packages, own_lists, archives)
            if trouble:
                raise BarenetError(f"cannot get {', '.join(packages)} ({trouble}); {_remedy(packages)}")
        for archive in sorted(Path(archives).glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", archive, _ROOT], check=True, timeout=_APT_TIMEOUT)
    return _ROOT


def make_venv(folder: Path) -> None:
    """Create a virtual environment that has pip, also where the system keeps ensurepip in a package of its own.

    Raises BarenetError with what to install when that is not possible.
    """
    if importlib.util.find_spec("ensurepip"):
        _run([sys.executable, "-m", "venv", "--clear", folder])
        return
    pip = "usr/share/python-wheels/pip-*.whl"
    if not (wheels := sorted(Path("/").glob(pip))):
        with _lock():
            wheels = sorted(unpack(["python3-pip-whl"]).glob(pip))
    if not wheels:
        raise BarenetError("this Python cannot make virtual environments with pip; run: sudo apt install python3-venv")
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder])
    _run([folder / "bin" / "python", f"{wheels[-1]}/pip", "install", "--quiet", "--no-index", wheels[-1]])


def _run(command: list[str | Path]) -> None:
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_APT_TIMEOUT)
    if run.returncode:
        reason = " ".join(run.stdout.split()[-40:])
        raise BarenetError(f"'{shlex.join(map(str, command))}' failed: {reason}")


def _download(packages: list[str], lists: Path, archives: str) -> str:
    return _apt(["install", "--download-only", "--yes", "--no-install-recommends", *packages], lists, archives)


def _apt(arguments: list[str], lists: Path, archives: str) -> str:
    """Run apt-get on a state of our own, without root. Returns the first error, "" when it went well."""
    own = _FOLDER / "apt"
    (own / "state").mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State": own / "state",
        "Dir::State::lists": lists,
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": own / "cache",
        "Dir::Cache::archives": archives,
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "",
        "Acquire::http::Timeout": "20",
        "Acquire::Retries": "1",
    }
    for folder in (own / "cache", Path(archives, "partial")):
        folder.mkdir(parents=True, exist_ok=True)
    flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    try:
        run = subprocess.run(
            ["apt-get", "-qq", *flags, *arguments],
            capture_output=True,
            text=True,
            timeout=_APT_TIMEOUT,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired:
        return f"apt-get did not end within {_APT_TIMEOUT} s"
    errors = [
        line.partition(" ")[2].strip() for line in run.stderr.splitlines() if line.startswith(("E:", "W: Failed"))
    ]
    if run.returncode:
        return errors[0] if errors else f"apt-get ended with {run.returncode}"
    # "apt-get update" calls it a success when it could fetch nothing.
    return errors[0] if arguments == ["update"] and errors and not any(lists.glob("*_Packages*")) else ""


def _write_wrapper(name: str) -> None:
    """Put a program of the unpacked tree on the path, with the libraries that came with it."""
    found = [
        _ROOT / folder / name for folder in ("usr/sbin", "usr/bin", "sbin", "bin") if (_ROOT / folder / name).exists()
    ]
    if not found:
        return
    libraries = {path.parent for path in _ROOT.glob("**/*.so*")}
    # Valgrind looks for its tools where they would have been installed.
    tools = [path.parent for path in _ROOT.glob("usr/lib*/**/callgrind-*-linux")] if name == "valgrind" else []
    wrapper = BIN / name
    wrapper.write_text(
        "#!/bin/sh\n"
        f"{f'VALGRIND_LIB={shlex.quote(str(tools[0]))} ' if tools else ''}"
        f"LD_LIBRARY_PATH={shlex.quote(':'.join(map(str, sorted(libraries))))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} "
        f'exec {shlex.quote(str(found[0]))} "$@"\n'
    )
    wrapper.chmod(0o755)


def _remedy(packages: list[str]) -> str:
    return f"connect this machine to the internet once, or install them: sudo apt install {' '.join(packages)}"


@contextmanager
def _lock():
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with open(_FOLDER / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["venv", folder]:
                make_venv(Path(folder))
            case ["programs"]:
                provide()
            case _:
                raise BarenetError("usage: python3 -m host_tools.setup_system venv FOLDER | programs")
    except (BarenetError, OSError, subprocess.SubprocessError) as error:
        print(f"barenet: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
