"""Modules that load late (late.py): on a full heap they fail as if nothing had been tried."""

from device import ON_DEVICE
from grouped import grouped

if ON_DEVICE:
    import gc
    import sys

    from barenet import late
    from doubles import same


@grouped
def test_load_fails_cleanly_wherever_the_memory_ends():
    failed = 0
    for room in range(100, 3000, 100):
        late.drop("trace")
        gc.collect()
        filled = None
        try:
            while True:
                filled = [filled]  # 32 bytes each
        except MemoryError:
            pass
        for _ in range(room):
            filled = filled[0]
        try:
            late.load("trace")
        except MemoryError:
            failed += 1
            filled = None
            same("barenet.trace" in sys.modules, False)
        filled = None
    assert 3 < failed < 29, failed
    same(late.load("trace").__name__, "barenet.trace")


@grouped
def test_drop_takes_a_module_away_and_may_be_repeated():
    first = late.load("trace")
    same(late.load("trace") is first, True)
    late.drop("trace")
    late.drop("trace")
    same(late.load("trace") is first, False)
