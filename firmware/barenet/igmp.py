"""IGMP, the host's part (RFC 3376, with RFC 2236 and RFC 1112 beside older routers): who on this board listens to which group.

Loaded when the first socket joins a group. Programs join groups from any source, so a group is either wanted (EXCLUDE {}) or not
(INCLUDE {}), and an answer to a query names no sources. Nothing is ever reported about 224.0.0.1.
"""

import os

from barenet import ethernet, fast, ticks
from micropython import const

_IGMP = const(2)
_HEADER = const(24)  # IP header with the router alert option (RFC 2113)
_ALL_SYSTEMS = b"\xe0\0\0\1"
_ALL_ROUTERS = b"\xe0\0\0\2"
_V3_ROUTERS = b"\xe0\0\0\x16"

_QUERY = const(0x11)
_V1_REPORT = const(0x12)
_V2_REPORT = const(0x16)
_V2_LEAVE = const(0x17)
_V3_REPORT = const(0x22)

_MODE_IS_EXCLUDE = const(2)
_CHANGE_TO_INCLUDE = const(3)
_CHANGE_TO_EXCLUDE = const(4)

_ROBUSTNESS = const(2)  # reports of each change
_V3_REPEAT = const(1_000)  # ms, RFC 3376 section 8.11
_V2_REPEAT = const(10_000)  # ms, RFC 2236 section 8.10
_OLDER_QUERIER = const(260_000)  # ms, RFC 3376 section 8.12


class _Membership:
    def __init__(self, group):
        self.group = group
        self.users = 0
        self.repeats = 0  # reports of the last change that are still due
        self.change_at = 0
        self.answer_at = None  # when a query is answered


class Part:
    """The groups that the IP layer `ip` receives."""

    name = "igmp"

    def __init__(self, ip):
        self.ip = ip
        self.drops = {"short": 0, "checksum": 0, "length": 0, "TTL": 0, "router alert": 0, "type": 0}
        self._groups = {}
        self._older = [None, None]  # ticks at which a router of version 1, 2 was heard
        self._address = ip.address
        ip.handlers[_IGMP] = self._receive

    def join(self, group, now):
        """Receives `group` (4 bytes) from now on. Each join() needs its leave()."""
        membership = self._groups.get(group)
        if membership is None:
            membership = self._groups[group] = _Membership(group)
        membership.users += 1
        if membership.users == 1:
            self._filter()
            self._changed(membership, now)

    def leave(self, group, now):
        """Ends what one join() began."""
        membership = self._groups[group]
        membership.users -= 1
        if membership.users == 0:
            membership.answer_at = None
            self._filter()
            self._changed(membership, now)

    def poll(self, now):
        """Sends the reports that are due."""
        if self._address != self.ip.address:
            self._address = self.ip.address
            for membership in self._groups.values():
                self._changed(membership, now)
        version = self._version(now)
        records = []
        for membership in list(self._groups.values()):
            if membership.repeats and ticks.reached(now, membership.change_at):
                membership.repeats -= 1
                membership.change_at = ticks.add(now, _random(_V3_REPEAT if version == 3 else _V2_REPEAT))
                kind = _CHANGE_TO_EXCLUDE if membership.users else _CHANGE_TO_INCLUDE
            elif membership.answer_at is not None and ticks.reached(now, membership.answer_at):
                kind = _MODE_IS_EXCLUDE
            else:
                continue
            membership.answer_at = None
            if version == 3:
                records.append(bytes((kind, 0, 0, 0)) + membership.group)
            elif membership.users:
                self._send(membership.group, _V2_REPORT if version == 2 else _V1_REPORT, membership.group)
            else:
                membership.repeats = 0
                if version == 2:
                    self._send(_ALL_ROUTERS, _V2_LEAVE, membership.group)
            if not membership.users and not membership.repeats:
                del self._groups[membership.group]
        if records:
            self._send(_V3_ROUTERS, _V3_REPORT, bytes((0, 0, 0, len(records))) + b"".join(records))

    def _changed(self, membership, now):
        if membership.group == _ALL_SYSTEMS:
            if not membership.users:
                del self._groups[_ALL_SYSTEMS]
            return
        membership.repeats = _ROBUSTNESS
        membership.change_at = now

    def _filter(self):
        # Level 2 hosts hear the queries (RFC 1112 section 4).
        ip = self.ip
        ip.groups.clear()
        ip.groups.update(group for group, membership in self._groups.items() if membership.users)
        if ip.groups:
            ip.groups.add(_ALL_SYSTEMS)
        # Several groups may have one MAC address (RFC 1112 section 6.4).
        ip.link.groups.clear()
        ip.link.groups.update(ip.neighbour_mac(group, 0) for group in ip.groups)
        ip.link.filter(ip.link.groups)

    def _version(self, now):
        for i in range(2):
            if self._older[i] is not None:
                if 0 <= ticks.diff(now, self._older[i]) < _OLDER_QUERIER:
                    return i + 1
                self._older[i] = None
        return 3

    def _receive(self, frame, start, end, source, destination, now):
        drops = self.drops
        if end - start < 8:
            drops["short"] += 1
        elif fast.add(frame, 0, end - start, start) != 0xFFFF:
            drops["checksum"] += 1
        elif frame[22] != 1:
            drops["TTL"] += 1  # from another network (RFC 3376 section 9)
        elif frame[start] == _QUERY:
            self._query(frame, start, end, now)
        elif frame[start] in (_V1_REPORT, _V2_REPORT):
            membership = self._groups.get(bytes(frame[start + 4 : start + 8]))
            if membership is not None and self._version(now) < 3:
                membership.answer_at = None  # one report is enough for the older routers
        else:
            drops["type"] += 1

    def _query(self, frame, start, end, now):
        code = frame[start + 1]
        length = end - start
        if 8 < length < 12:
            self.drops["length"] += 1
            return
        if (length > 8 or code) and b"\x94\x04" not in bytes(frame[34:start]):
            self.drops["router alert"] += 1  # RFC 3376 section 9.1
            return
        longest = code * 100
        if length == 8:
            self._older[1 if code else 0] = now
            if code == 0:
                longest = 10_000
        elif code >= 128:
            longest = ((code & 15 | 16) << (code >> 4 & 7) + 3) * 100
        group = bytes(frame[start + 4 : start + 8])
        delay = _random(longest)
        older = self._version(now) < 3
        for membership in self._groups.values():
            if membership.group != _ALL_SYSTEMS and membership.users and group in (b"\0\0\0\0", membership.group):
                at = ticks.add(now, _random(longest) if older else delay)
                if membership.answer_at is None or ticks.diff(at, membership.answer_at) < 0:
                    membership.answer_at = at

    def _send(self, destination, kind, rest):
        ip = self.ip
        frame = ip.link.begin()
        if frame is None:
            return
        message = bytearray((kind, 0, 0, 0)) + rest
        check = ~fast.add(message, 0, len(message), 0) & 0xFFFF
        message[2] = check & 255
        message[3] = check >> 8
        ip.identification = ip.identification + 1 & 0xFFFF
        total = _HEADER + len(message)
        header = bytearray(ip.prepare(total, 0x4000, _IGMP, destination, ip.address, 1, 0xC0)) + b"\x94\x04\0\0"
        header[0] = 0x46
        header[10] = header[11] = 0
        check = ~fast.add(header, 0, _HEADER, 0) & 0xFFFF
        header[10] = check & 255
        header[11] = check >> 8
        frame[14 : 14 + _HEADER] = header
        frame[14 + _HEADER : 14 + total] = message
        ip.link.send(frame, ip.neighbour_mac(destination, 0), 0x0800, ethernet.HEADER + total)


def _random(longest):
    return int.from_bytes(os.urandom(3), "big") % (longest + 1)
