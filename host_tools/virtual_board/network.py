"""The cable of a virtual board: a network namespace of its own with a link whose other end is the Linux kernel.

The board's end is one non-blocking file descriptor: read(2) takes one Ethernet frame, write(2) sends one. Where
/dev/net/tun may be opened it is a TAP device; elsewhere it is a raw socket on one half of a veth pair.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

from host_tools.errors import BarenetError

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFBRDADDR = 0x891A
_SIOCSIFNETMASK = 0x891C
_SIOCETHTOOL = 0x8946
_IFF_UP = 0x1
_IFF_NOARP = 0x80

_ETHTOOL_SRXCSUM = 0x15
_ETHTOOL_STXCSUM = 0x17
_ETHTOOL_SSG = 0x19
_ETHTOOL_STSO = 0x1F
_ETHTOOL_SGSO = 0x24
_ETHTOOL_SGRO = 0x2C

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23

_RTM_NEWLINK = 16
_NLMSG_ERROR = 2
_NLM_F_REQUEST_ACK_CREATE_EXCL = 0x1 | 0x4 | 0x400 | 0x200
_IFLA_IFNAME = 3
_IFLA_LINKINFO = 18
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_VETH_INFO_PEER = 1


class NetworkError(BarenetError):
    """The network of the virtual board cannot be made; the text says why and what to do."""


def enter_namespace() -> str:
    """Moves this process into a new network namespace and brings its loopback up.

    Must run before the process starts a thread (user_namespaces(7)).

    Returns:
        "net" when a network namespace was enough (root), "user" when a user namespace had to be made around it.

    Raises:
        NetworkError: the kernel forbids both.
    """
    uid, gid = os.geteuid(), os.getegid()
    kind = "net"
    if not (uid == 0 and _unshare(_CLONE_NEWNET)):
        kind = "user"
        try:
            if not _unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
                raise PermissionError
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        except OSError:
            raise NetworkError(_forbidden()) from None
    try:
        _up("lo")
    except PermissionError:
        raise NetworkError(_forbidden()) from None
    return kind


def open_link(name: str, host: ipaddress.IPv4Interface | None) -> tuple[int, str]:
    """Makes the cable in the current network namespace.

    Args:
        name: name of the Linux side's network interface.
        host: address and prefix of the Linux side; None leaves the interface as it is (a TAP device that exists).

    Returns:
        (file descriptor of the board's end, "tap" or "veth").

    Raises:
        NetworkError: neither a TAP device nor a veth pair can be had.
    """
    try:
        if host is None:
            socket.if_nametoindex(name)  # TUNSETIFF would make the device
        link, kind = _open_tap(name), "tap"
    except OSError as error:
        if host is None:
            raise NetworkError(
                f"cannot attach to the TAP device {name} ({error.strerror}); "
                f"make it: sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set {name} up"
            ) from None
        try:
            link, kind = _open_veth(name, f"{name}-board"), "veth"
        except OSError as veth_error:
            raise NetworkError(
                f"no link for the board: no TAP device ({error.strerror}), no veth pair ({veth_error.strerror}); "
                "load a kernel module for one of them (sudo modprobe tun) or run as root"
            ) from None
    if host is not None:
        _quiet(name)
        _address(name, host)
        _up(name)
    return link, kind


def _unshare(flags: int) -> bool:
    return ctypes.CDLL(None).unshare(flags) == 0


def _forbidden() -> str:
    switch = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if switch.exists() and switch.read_text().strip() == "1":
        remedy = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    elif Path("/proc/sys/kernel/unprivileged_userns_clone").exists():
        remedy = "sudo sysctl kernel.unprivileged_userns_clone=1"
    else:
        remedy = "sudo sysctl user.max_user_namespaces=10000, or start the container with --cap-add SYS_ADMIN"
    return f"this kernel lets you make no network namespace; run as root (sudo), or allow it: {remedy}"


def _ioctl(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return fcntl.ioctl(control, request, argument)


def _flags(name: str, set_bits: int) -> None:
    request = struct.pack("16sh22x", name.encode(), 0)
    flags = struct.unpack("16sh22x", _ioctl(_SIOCGIFFLAGS, request))[1]
    _ioctl(_SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | set_bits))


def _up(name: str) -> None:
    _flags(name, _IFF_UP)


def _address(name: str, host: ipaddress.IPv4Interface) -> None:
    for request, address in (
        (_SIOCSIFADDR, host.ip),
        (_SIOCSIFNETMASK, host.netmask),
        (_SIOCSIFBRDADDR, host.network.broadcast_address),
    ):
        _ioctl(request, struct.pack("16sHH4s16x", name.encode(), socket.AF_INET, 0, address.packed))


def _quiet(name: str) -> None:
    """Keeps IPv6 off an interface: its announcements would mix into the board's traffic."""
    try:
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    except OSError:
        pass  # a kernel without IPv6, or /proc/sys mounted read-only: the board drops those frames by EtherType


def _open_tap(name: str) -> int:
    link = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(link, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        fcntl.ioctl(link, _TUNSETOFFLOAD, 0)
    except OSError:
        os.close(link)
        raise
    return link


def _open_veth(host: str, board: str) -> int:
    _make_veth(host, board)
    for name in host, board:
        _plain_frames(name)
    _quiet(board)
    # The kernel must not speak on the board's end: no ARP, no address, and a MAC address that is not the board's.
    _flags(board, _IFF_UP | _IFF_NOARP)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    link.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    link.bind((board, _ETH_P_ALL))
    return link.detach()


def _make_veth(name: str, peer: str) -> None:
    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    def ifname(text: str) -> bytes:
        return attribute(_IFLA_IFNAME, text.encode() + b"\0")

    ifinfomsg = bytes(16)
    peer_info = attribute(_VETH_INFO_PEER, ifinfomsg + ifname(peer))
    info = attribute(_IFLA_INFO_KIND, b"veth") + attribute(_IFLA_INFO_DATA, peer_info)
    body = ifinfomsg + ifname(name) + attribute(_IFLA_LINKINFO, info)
    header = struct.pack("IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST_ACK_CREATE_EXCL, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.send(header + body)
        reply = netlink.recv(4096)
    kind, code = struct.unpack_from("H", reply, 4)[0], struct.unpack_from("i", reply, 16)[0]
    if kind != _NLMSG_ERROR or code:
        raise OSError(-code or errno.EPROTO, os.strerror(-code or errno.EPROTO))


def _plain_frames(name: str) -> None:
    """Switches offloads off: every frame crosses the link with whole checksums and no longer than the MTU."""
    for command in _ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO, _ETHTOOL_STXCSUM, _ETHTOOL_SRXCSUM, _ETHTOOL_SSG:
        value = ctypes.create_string_buffer(struct.pack("II", command, 0))
        try:
            _ioctl(_SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
