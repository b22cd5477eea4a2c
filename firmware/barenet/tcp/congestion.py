"""CUBIC (RFC 9438): how CWND shrinks after a loss and grows in congestion avoidance.

What every algorithm shares (slow start, when a loss counts, recovery) is in fast.py. An algorithm is a module like this one, or an object, with

* BETA: what is left of the window after a loss, of 1024;
* grow(tcb, now): called at the end of a round trip of congestion avoidance in which CWND was what held the sender back. It sets
  GROW_AT: for so many bytes acknowledged CWND grows by one SND_MSS in the next round; 0 stands for CWND.

In integers: time in 1/16 s, so that C * t^3 segments are t^3 / 10240.
"""

from barenet import fast, ticks
from micropython import const

_NEVER = const(100)  # round trips that one MSS takes where CUBIC is flat
_NEW = const(0x3FFFFFFF)  # fast.reduce() left it
_LONGEST = const(800)  # 1/16 s: the cube of it fits a small int

BETA = 717


def grow(tcb, now):
    """Sets GROW_AT at the end of a round trip."""
    mss = tcb[fast.SND_MSS]
    cwnd = tcb[fast.CWND]
    w_max = max(tcb[fast.W_MAX], cwnd)
    rtt = tcb[fast.SRTT] >> 3
    if tcb[fast.EPOCH_K] == _NEW:
        # A new epoch: K is when the curve reaches W_MAX again (equation 2).
        tcb[fast.EPOCH_AT] = now
        tcb[fast.EPOCH_K] = _cube_root((w_max - cwnd) // mss * 10240)
    passed = ticks.diff(now, tcb[fast.EPOCH_AT])
    t = min((passed + rtt) >> 6, 2 * _LONGEST) - tcb[fast.EPOCH_K]
    t = min(max(t, -_LONGEST), _LONGEST)
    curve = w_max + t * t * t // 64 * mss // 160 if -420 < t < 420 else (cwnd if t < 0 else 2 * cwnd)
    # The Reno-friendly region (section 4.3): 3 * (1 - 0.7) / (1 + 0.7) = 0.53 MSS a round trip.
    friendly = (w_max * BETA >> 10) + passed // max(rtt, 1) * mss * 53 // 100 if passed < 1 << 20 else 0
    target = min(max(curve, friendly), cwnd + (cwnd >> 1))
    # At least by one MSS in a hundred round trips.
    tcb[fast.GROW_AT] = min(cwnd // mss * mss * mss // (target - cwnd), _NEVER * cwnd) if target > cwnd else _NEVER * cwnd


def _cube_root(n):
    root = 0
    for bit in range(9, -1, -1):
        trial = root + (1 << bit)
        if trial * trial * trial <= n:
            root = trial
    return root
