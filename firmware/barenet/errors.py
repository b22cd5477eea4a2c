"""The errno numbers of this firmware, by name.

MicroPython on the ESP32 uses newlib's numbers (ETIMEDOUT is 116), on Linux it uses Linux's (110), and its `errno`
module names only some of them. Programs compare with `errno`, so every number we raise comes from there, or from here
when `errno` does not name it.
"""

from errno import (  # noqa: F401 - named for others to import
    EACCES,
    EADDRINUSE,
    EAGAIN,
    EALREADY,
    EBADF,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTUNREACH,
    EINPROGRESS,
    EINVAL,
    ENODEV,
    ENOBUFS,
    ENOMEM,
    ENOTCONN,
    EOPNOTSUPP,
    ETIMEDOUT,
)

EPIPE = 32
EPROTO = 71
if ETIMEDOUT == 116:
    EAFNOSUPPORT = 106
    ENOPROTOOPT = 109
    ENETDOWN = 115
    EDESTADDRREQ = 121
    EMSGSIZE = 122
    EPROTONOSUPPORT = 123
    EADDRNOTAVAIL = 125
    EISCONN = 127
else:
    EDESTADDRREQ = 89
    EMSGSIZE = 90
    ENOPROTOOPT = 92
    EPROTONOSUPPORT = 93
    EAFNOSUPPORT = 97
    EADDRNOTAVAIL = 99
    ENETDOWN = 100
    EISCONN = 106
