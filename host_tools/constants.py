"""Puts the values of constants where their names are used, so that the names need not exist on the board.

mpy-cross does that within a module. What a module says with `from micropython import const` and shares with others stays behind as an entry of
its dict and an interned name, 20 to 30 bytes each, and every `fast.C_OUTPUT` in another module is two look-ups at run time. This pass goes over
all modules of a package at once, before they are compiled. Lines keep their numbers, and what it does not fully understand it leaves as it is.
"""

import ast
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class _Module:
    lines: list[bytes]
    tree: ast.Module
    bound: Counter[str]
    constants: dict[str, tuple[ast.Assign, int]]


def fold(files: dict[str, bytes], interface: Iterable[str] = ()) -> dict[str, bytes]:
    """Returns the modules with every `NAME = const(…)` removed whose name is public and whose value could be put wherever it is used.

    files: sources by path, all modules that use each other's constants. interface: paths of modules whose names belong to programs: they keep
    their own (other modules still get the values).

    A constant keeps its name when any module binds that name a second time, takes it from something that is not a known module, or names it
    in a way that cannot be replaced (`import *`, an f-string). Names looked up by text (`getattr(fast, "ACK")`) are not found.
    """
    interface = set(interface)
    modules = {_dotted(path): _read(path, content) for path, content in files.items() if path.endswith(".py")}
    edits = {name: _Uses(name, modules) for name in modules}
    for uses in edits.values():
        uses.visit(modules[uses.name].tree)
    needed = {name for uses in edits.values() for name in uses.needed}
    folded = dict(files)
    for path in files:
        if path.endswith(".py"):
            name = _dotted(path)
            own = set() if path in interface else {key for key in modules[name].constants if key not in needed and key[0] != "_"}
            folded[path] = edits[name].apply(own, needed)
    return folded


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _read(path: str, content: bytes) -> _Module:
    try:
        tree = ast.parse(content, path)
    except SyntaxError:
        tree = ast.Module([], [])  # the compiler says what is wrong with it
    bound: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound[node.id] += 1
        elif isinstance(node, ast.alias):
            bound[node.asname or node.name.partition(".")[0]] += 1
        elif isinstance(node, ast.arg):
            bound[node.arg] += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler) and node.name:
            bound[node.name] += 1
        elif isinstance(node, ast.Global | ast.Nonlocal):
            bound.update(node.names)
    constants: dict[str, tuple[ast.Assign, int]] = {}
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name("const"), [expression], [])) if bound[name] == 1:
                value = _value(expression, constants)
                if value is not None:
                    constants[name] = (node, value)
    return _Module(content.splitlines(keepends=True), tree, bound, constants)


def _value(node: ast.expr, known: dict[str, tuple[ast.Assign, int]]) -> int | None:
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    simple = (ast.Constant, ast.Name, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
    if not names <= known.keys() or not all(isinstance(part, simple) for part in ast.walk(node)):
        return None
    value = eval(compile(ast.Expression(node), "constant", "eval"), {}, {name: known[name][1] for name in names})
    return value if type(value) is int else None


class _Uses(ast.NodeVisitor):
    """Finds what to replace in one module: `places` are (node, constant's name, text in its place)."""

    def __init__(self, name: str, modules: dict[str, _Module]):
        self.name = name
        self.needed: set[str] = set()
        self._modules = modules
        self._module = modules[name]
        self._own = self._module.constants
        self._places: list[tuple[ast.expr, str, int]] = []
        self._imports: list[tuple[ast.ImportFrom, dict[str, str]]] = []
        self._aliases: dict[str, _Module] = {}  # names that stand for modules
        self._taken: dict[str, tuple[str, int]] = {}  # names imported from modules: constant's name there and its value
        for node in ast.walk(self._module.tree):
            if isinstance(node, ast.ImportFrom):
                self._read_import(node)

    def _read_import(self, node: ast.ImportFrom) -> None:
        source = self._modules.get(node.module or "") if node.level == 0 else None
        replaceable = {}
        for alias in node.names:
            name = alias.asname or alias.name
            if alias.name == "*":
                self.needed.update(key for module in self._modules.values() for key in module.constants)
            elif source and alias.name in source.constants and self._module.bound[name] == 1 and node.col_offset == 0:
                self._taken[name] = (alias.name, source.constants[alias.name][1])
                replaceable[name] = alias.name
            elif f"{node.module}.{alias.name}" in self._modules and self._module.bound[name] == 1:
                self._aliases[name] = self._modules[f"{node.module}.{alias.name}"]
            else:
                self.needed.add(alias.name)
        if replaceable:
            self._imports.append((node, replaceable))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id in self._taken:
                self._replace(node, *self._taken[node.id])
            elif node.id in self._own:
                self._replace(node, node.id, self._own[node.id][1])
            else:
                self.needed.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        module = self._aliases.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if module and node.attr in module.constants and isinstance(node.ctx, ast.Load):
            self._replace(node, node.attr, module.constants[node.attr][1])
        else:
            self.needed.add(node.attr)
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        # Where in an f-string a name stands is told wrongly before Python 3.12.
        self.needed.update(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
        self.needed.update(part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute))

    def _replace(self, node: ast.expr, name: str, value: int) -> None:
        line = self._module.lines[node.lineno - 1][node.col_offset : node.end_col_offset]
        if node.lineno != node.end_lineno or line.decode() != ast.unparse(node):
            self.needed.add(name)
        else:
            self._places.append((node, name, value))

    def apply(self, own: set[str], needed: set[str]) -> bytes:
        """Returns the module's source without the definitions of `own` and with the values of all names but those `needed`."""
        changes = []
        for node, name, value in self._places:
            # mpy-cross puts the values of the constants that stay.
            if name not in needed and (name in own or not (isinstance(node, ast.Name) and node.id in self._own)):
                changes.append((node, str(value) if value >= 0 else f"({value})"))
        for name in own:
            changes.append((self._own[name][0], "pass"))
        for node, replaceable in self._imports:
            left = [alias for alias in node.names if replaceable.get(alias.asname or alias.name, alias.name) in needed
                    or (alias.asname or alias.name) not in replaceable]  # fmt: skip
            if len(left) < len(node.names):
                names = ", ".join(ast.unparse(alias) for alias in left)
                changes.append((node, f"from {node.module} import {names}" if left else "pass"))
        # A definition goes as a whole, with the names within it.
        whole = {line for node, text in changes if text == "pass" for line in range(node.lineno, node.end_lineno + 1)}
        lines = list(self._module.lines)
        for node, text in sorted(changes, key=lambda change: (change[0].lineno, change[0].col_offset), reverse=True):
            if isinstance(node, ast.expr) and node.lineno in whole:
                continue
            first, last = node.lineno - 1, node.end_lineno - 1
            rest = lines[last][node.end_col_offset :]
            lines[first] = lines[first][: node.col_offset] + text.encode() + rest
            for i in range(first + 1, last + 1):
                lines[i] = b"\n"
        return b"".join(lines)
