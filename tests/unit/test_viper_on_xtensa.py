"""The firmware keeps clear of what mpy-cross compiles wrongly for the ESP32. Each was seen on the emulated chip; x86 shares but one."""

import ast

import pytest

from host_tools import deploy


def viper_functions(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any("viper" in ast.unparse(decorator) for decorator in node.decorator_list):
            yield node


def constants_of(source, known):
    """Returns `known` and the module's own const() values, by name."""
    values = dict(known)
    for node in ast.parse(source).body:
        match node:
            case ast.Assign([ast.Name(constant)], ast.Call(ast.Name("const"), [expression])):
                values[constant] = eval(ast.unparse(expression), {}, values)
    return values


def value(expression, values):
    """Returns what the compiler folds an expression to, or None."""
    try:
        return eval(ast.unparse(expression).replace("fast.", ""), {"int": int, "_len": None}, values)
    except (NameError, TypeError, AttributeError):
        return None


def indexes_out_of_reach(source, values):
    """mpy-cross 1.28: the instruction for p[256] has 8 bits for the index."""
    for function in viper_functions(source):
        for node in ast.walk(function):
            if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
                index = value(node.slice, values)
                if isinstance(index, int) and not 0 <= index < 256:
                    yield f"{node.lineno}: {ast.unparse(node)}"


def unary_of_what_is_in_a_register(source, values):
    """mpy-cross 1.28: ~p[i] is 0 on Xtensa. On all processors y = ~x or y = -x changes x, too, when x is one of the locals that live in a register."""
    for function in viper_functions(source):
        for node in ast.walk(function):
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.USub) and value(node, values) is None:
                if not isinstance(node.operand, ast.BinOp):
                    yield f"{node.lineno}: {ast.unparse(node)}"


def found(check):
    sources = {name: source.decode() for name, source in sorted(deploy.sources().items()) if b"@micropython.viper" in source}
    shared = constants_of(sources["barenet/fast.py"], {})
    assert shared["C_FRAMES"]
    return [f"{name}:{where}" for name, source in sources.items() for where in check(source, constants_of(source, shared))]


def test_no_constant_index_is_beyond_what_a_load_of_the_esp32_reaches():
    assert found(indexes_out_of_reach) == []


def test_no_complement_or_negative_is_taken_of_what_is_in_a_register():
    assert found(unary_of_what_is_in_a_register) == []


@pytest.mark.parametrize(
    "check, line, complaints",
    [
        (indexes_out_of_reach, "p[LAST] = p[FAR]", ["4: p[FAR]"]),
        (unary_of_what_is_in_a_register, "x = ~p[3] & FAR", ["4: ~p[3]"]),
        (unary_of_what_is_in_a_register, "x = n & ~FAR | ~(n + 1) | -1", []),
        (unary_of_what_is_in_a_register, "x = -n", ["4: -n"]),
    ],
)
def test_the_checks_find_what_they_are_for(check, line, complaints):
    source = f"LAST = const(255)\n@micropython.viper\ndef f(p: ptr8, n: int):\n    {line}\n"
    assert list(check(source, constants_of(source, {"FAR": 256}))) == complaints


def test_the_compiler_stores_values_and_not_addresses_on_the_esp32():
    """mpy-cross 1.25 stores the base address (s32i.n a10, a10, 4) when neither pointer nor value is in a register of its own."""
    code = b"@micropython.viper\ndef f(p: ptr32, n: int):\n    q = ptr32(int(p))\n    z = n + 1\n    w = ptr32(int(q))\n    w[1] = z\n"
    assert b"\xa9\x1a" not in deploy.compile_all({"barenet/store.py": code}, "xtensawin")["barenet/store.mpy"]
