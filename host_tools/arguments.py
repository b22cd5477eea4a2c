"""Gives the arguments of functions short names that all functions share, because each name that is new to a board takes some 15 bytes there.

MicroPython keeps the names of arguments, not those of other local variables. This pass runs over all modules of a package, before they are
compiled. What may be passed by keyword keeps its name, and so does what the pass does not fully understand.
"""

import ast
import string
from collections.abc import Iterable

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def shorten(files: dict[str, bytes], interface: Iterable[str] = ()) -> dict[str, bytes]:
    """Returns the modules with the arguments renamed that have no default and that no call in any of them names.

    files: sources by path. interface: paths of modules whose functions belong to programs: they stay as they are.
    """
    trees = {}
    for path, content in files.items():
        if path.endswith(".py"):
            try:
                trees[path] = ast.parse(content, path)
            except SyntaxError:
                return dict(files)  # the compiler says what is wrong with it
    named = {node.arg for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    shortened = dict(files)
    for path in trees.keys() - set(interface):
        shortened[path] = _rename(files[path], trees[path], named)
    return shortened


def _rename(content: bytes, tree: ast.Module, named: set[str | None]) -> bytes:
    places: list[tuple[int, int, int, str]] = []
    for function in ast.walk(tree):
        if isinstance(function, _Function) and not function.decorator_list:
            new = _names(function, named)
            for node in (inner for part in (function.args, *function.body) for inner in ast.walk(part)):
                old = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else None
                if old in new:
                    places.append((node.lineno - 1, node.col_offset, node.col_offset + len(old.encode()), new[old]))
    lines = content.splitlines(keepends=True)
    for line, start, end, name in sorted(places, reverse=True):
        lines[line] = lines[line][:start] + name.encode() + lines[line][end:]
    return b"".join(lines)


def _names(function: _Function, named: set[str | None]) -> dict[str, str]:
    """Returns what the function's arguments are to be called, by their names."""
    inner = [node for node in ast.walk(function) if node is not function]
    # Names within f-strings have wrong positions before Python 3.12; functions within functions have names of their own.
    if any(isinstance(node, (_Function, ast.Lambda, ast.ClassDef, ast.JoinedStr, ast.Global)) for node in inner):
        return {}
    taken = {node.id for node in inner if isinstance(node, ast.Name)}
    bound = {node.name for node in inner if isinstance(node, ast.ExceptHandler)}
    bound |= {(node.asname or node.name).partition(".")[0] for node in inner if isinstance(node, ast.alias)}
    free = (letter for letter in string.ascii_lowercase if letter not in taken | bound)
    outer = {node.id for default in function.args.defaults for node in ast.walk(default) if isinstance(node, ast.Name)}
    arguments = function.args.args[: len(function.args.args) - len(function.args.defaults)]
    return {
        argument.arg: short
        for argument in arguments
        if argument.arg not in named | bound | outer | {"self"} and len(argument.arg) > 1 and argument.annotation is None
        if (short := next(free, None))
    }
