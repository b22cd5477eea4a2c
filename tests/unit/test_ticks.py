from device import ON_DEVICE, on_device

if ON_DEVICE:
    from barenet.ticks import PERIOD, add, diff, reached
    from doubles import same


@on_device
def test_diff_is_signed_and_crosses_the_wrap():
    same(diff(1000, 400), 600)
    same(diff(400, 1000), -600)
    same(diff(5, PERIOD - 5), 10)
    same(diff(PERIOD - 5, 5), -10)
    same(diff(0, 0), 0)
    same(diff(PERIOD // 2 - 1, 0), PERIOD // 2 - 1)
    same(diff(PERIOD // 2, 0), -(PERIOD // 2))
    same(diff(0, PERIOD - 1), 1)


@on_device
def test_add_stays_below_the_period():
    same(add(1000, 600), 1600)
    same(add(1000, -1600), PERIOD - 600)
    same(add(PERIOD - 1, 1), 0)
    same(add(PERIOD - 1, PERIOD // 2 - 1), PERIOD // 2 - 2)
    same(add(0, -(PERIOD // 2)), PERIOD // 2)


@on_device
def test_reached_at_the_tick_itself_and_across_the_wrap():
    assert reached(7, 7)
    assert reached(8, 7)
    assert not reached(6, 7)
    assert reached(2, PERIOD - 2)
    assert not reached(PERIOD - 2, 2)
    assert not reached(PERIOD // 2, 0)
    for start in (0, 1, PERIOD // 2 - 1, PERIOD // 2, PERIOD - 1):
        for ms in (1, 1000, PERIOD // 2 - 1):
            assert not reached(start, add(start, ms))
            assert reached(add(start, ms), start)


@on_device
def test_nothing_allocates_over_the_whole_range():
    import micropython

    half = PERIOD // 2
    edges = (0, 1, half - 1, half, PERIOD - 1)
    micropython.heap_lock()
    try:
        for a in edges:
            for b in edges:
                diff(a, b)
                reached(a, b)
            if diff(add(a, half - 1), a) != half - 1 or diff(add(a, -half), a) != -half:
                raise ValueError
    finally:
        micropython.heap_unlock()
