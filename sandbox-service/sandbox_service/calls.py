"""Find the candidate's calls in the expressions of one test, and put `H[i]` in their places.

Used by `split` only, whose rules it carries out; see there.
"""

from __future__ import annotations

import ast

from sandbox_service.fill import Fill, Local, NotSplit
from sandbox_service.known import (
    ALL_BUILTINS,
    BUILTINS,
    FOREIGN,
    MODULES,
    VALUE_ATTRIBUTES,
    is_plain_attribute,
)

_Chain = ast.Call | ast.Attribute | ast.Subscript
_MUTATORS = frozenset((
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft", "insert",
    "intersection_update", "pop", "popitem", "popleft", "remove", "reverse", "rotate", "setdefault", "sort",
    "symmetric_difference_update", "update",
    "heapify", "heappop", "heappush", "heappushpop", "heapreplace", "insort", "insort_left", "insort_right",
))  # fmt: skip
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


class Calls(ast.NodeTransformer):
    """The walk over a test's expressions. `found` is the source of each call, in order."""

    def __init__(self, source: str, entries: frozenset[str], tree: ast.Module) -> None:
        self.source, self.entries, self.tree = source, entries, tree
        self.one_line = len(source.splitlines()) == 1
        self.formatted = False
        self.found: list[str] = []
        self.locals: dict[str, Local] = {}
        self.aliases: dict[str, tuple[str, str]] = {}
        self.inline: dict[str, ast.expr] = {}
        self.setup: set[str] = set()
        self.bound: list[str] = []
        self.repeated = False
        self.mutated = 0  # the line where a value is changed, perhaps one that the program has too

    # --- names ---------------------------------------------------------------------------------------

    def import_(self, statement: ast.Import | ast.ImportFrom) -> None:
        """Note what an import makes known; raises NotSplit if the judge does not have it."""
        for alias in statement.names:
            name = alias.asname or alias.name
            if isinstance(statement, ast.Import) and alias.name in MODULES:
                self.aliases[name] = (alias.name, "")
            elif isinstance(statement, ast.ImportFrom) and alias.name in MODULES.get(
                statement.module or "", {}
            ):
                self.aliases[name] = (str(statement.module), alias.name)
            elif isinstance(statement, ast.ImportFrom) and alias.name == "*" and statement.module in MODULES:
                self.aliases.update(
                    {public: (statement.module, public) for public in MODULES[statement.module]}
                )
            else:
                raise NotSplit(statement.lineno, f"`{ast.unparse(statement)}` is not available to the judge")

    def is_candidates(self, name: str) -> bool:
        if name in self.bound or name in self.locals or name in self.aliases or name in self.inline:
            return False
        return name in self.entries or name in self.setup or name not in ALL_BUILTINS

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.bound or node.id in self.locals:
            return node
        if node.id in self.aliases:
            module, attribute = self.aliases[node.id]
            if not attribute:
                raise NotSplit(node.lineno, f"the module `{node.id}` is used as a value")
            return ast.Attribute(ast.Name(module, ast.Load()), attribute, ast.Load())
        if node.id in self.inline:
            return self.inline[node.id]
        if node.id in BUILTINS and node.id not in self.entries | self.setup:
            return node
        raise NotSplit(node.lineno, f"`{node.id}` is neither known to the judge nor called")

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        raise NotSplit(node.lineno, "an assignment expression")

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Visit a comparison; of two values that crossed nobody knows whether they were one."""
        sides = [node.left, *node.comparators]
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
            if isinstance(op, ast.Is | ast.IsNot) and not (self._is_one(left) or self._is_one(right)):
                raise NotSplit(node.lineno, "`is` between values, of which only copies are here")
        return self.generic_visit(node)

    def _is_one(self, node: ast.expr) -> bool:
        """Whether what an expression gives is the same object wherever it comes from."""
        match node:
            case ast.Constant(value=value):
                return value is None or value is ... or isinstance(value, bool | int)
            case ast.Name(id=name):
                return name in BUILTINS and not self.is_candidates(name)
            case ast.Attribute():
                return isinstance(node.value, ast.Name) and node.value.id in MODULES
            case ast.Call(func=ast.Name(id="type")):
                return True
        return False

    def visit_Await(self, node: ast.Await) -> ast.expr:
        raise NotSplit(node.lineno, "`await`")

    def visit_Yield(self, node: ast.Yield) -> ast.expr:
        raise NotSplit(node.lineno, "`yield`")

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        raise NotSplit(node.lineno, "`yield from`")

    # --- scopes --------------------------------------------------------------------------------------

    def _inside(self, names: list[str], node: ast.expr) -> ast.AST:
        """Visit the children of a lambda or comprehension, with the names it binds."""
        if "H" in names:
            raise NotSplit(node.lineno, "the name H is the judge's")
        bound, repeated = self.bound, self.repeated
        self.bound, self.repeated = [*bound, *names], True
        try:
            return self.generic_visit(node)
        finally:
            self.bound, self.repeated = bound, repeated

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        arguments = node.args
        rest = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]
        return self._inside([one.arg for one in every], node)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> ast.AST:
        """The first iterable is evaluated once, outside; all the rest once for each item."""
        node.generators[0].iter = self.visit(node.generators[0].iter)
        targets = [part for generator in node.generators for part in ast.walk(generator.target)]
        names = [part.id for part in targets if isinstance(part, ast.Name)]
        first, node.generators[0].iter = node.generators[0].iter, ast.Constant(None)
        self._inside(names, node)
        node.generators[0].iter = first
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    # --- calls ---------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self._chain(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self._chain(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return self._chain(node)

    def _chain(self, node: _Chain) -> ast.AST:
        """Visit `root.a(b)[c]...`: as the candidate's if its root is, up to where the judge takes over."""
        links: list[ast.expr] = [node]
        while isinstance(links[-1], _Chain):
            last = links[-1]
            links.append(last.func if isinstance(last, ast.Call) else last.value)
        root = links.pop()
        if isinstance(root, ast.Name):
            if self.is_candidates(root.id) and not self._is_module_use(root.id, links):
                return self._take(root, links)
            if (
                root.id not in self.bound
                and root.id not in self.locals
                and isinstance(links[-1], ast.Attribute)
            ):
                module = self.aliases.get(root.id, (root.id, ""))
                if module[0] in MODULES and not module[1]:
                    return self._module(module[0], links)
            if root.id in ALL_BUILTINS - BUILTINS and root.id not in {
                *self.bound,
                *self.locals,
                *self.aliases,
            }:
                raise NotSplit(root.lineno, f"`{root.id}` is not a builtin the judge evaluates")
        if isinstance(node, ast.Attribute):
            held = self.locals.get(root.id) if isinstance(root, ast.Name) else None
            foreign = held is not None and held.value is None and node.attr not in VALUE_ATTRIBUTES
            if foreign or not is_plain_attribute(node.attr):
                raise NotSplit(node.lineno, f"the attribute `{node.attr}` is not read in the judge")
        self._note(node)
        return self.generic_visit(node)

    def _note(self, link: ast.expr) -> None:
        """Note that a call in the judge changes a value."""
        if isinstance(link, ast.Call) and isinstance(link.func, ast.Attribute | ast.Name):
            name = link.func.attr if isinstance(link.func, ast.Attribute) else link.func.id
            self.mutated = link.lineno if name in _MUTATORS else self.mutated

    def _is_module_use(self, name: str, links: list[ast.expr]) -> bool:
        return name in MODULES and name not in self.setup and isinstance(links[-1], ast.Attribute)

    def _module(self, module: str, links: list[ast.expr]) -> ast.AST:
        """Visit `module.name...`; the name is looked up in what the judge has of the module."""
        first = links[-1]
        assert isinstance(first, ast.Attribute)
        if first.attr not in MODULES[module]:
            raise NotSplit(first.lineno, f"`{module}.{first.attr}` is not available to the judge")
        first.value = ast.Name(module, ast.Load())
        return self._rest(links[:-1]) if links[1:] else first

    def _take(self, root: ast.Name, links: list[ast.expr]) -> ast.AST:
        """Make a hole of the candidate's part of a chain (links are outermost first), visit what remains."""
        first = max((i for i, link in enumerate(links) if isinstance(link, ast.Call)), default=None)
        if first is None:
            raise NotSplit(root.lineno, f"`{root.id}` is neither known to the judge nor called")
        self._check_root(root, links, first)
        end = self._end(root, links, first)
        hole = self._hole(root, links[end])
        if end == 0:
            return hole
        outer = links[end - 1]
        if isinstance(outer, ast.Call):
            outer.func = hole
        elif isinstance(outer, ast.Attribute | ast.Subscript):
            outer.value = hole
        return self._rest(links[:end])

    def _rest(self, links: list[ast.expr]) -> ast.AST:
        """Visit the judge's part of a chain: methods of plain values, subscripts, and their arguments."""
        for link in reversed(links):
            if isinstance(link, ast.Attribute) and not is_plain_attribute(link.attr):
                raise NotSplit(link.lineno, f"the attribute `{link.attr}` is not read in the judge")
            self._note(link)
            if isinstance(link, ast.Call):
                link.args = [self.visit(one) for one in link.args]
                link.keywords = [self.visit(one) for one in link.keywords]
            elif isinstance(link, ast.Subscript):
                link.slice = self.visit(link.slice)
        return links[0]

    def _check_root(self, root: ast.Name, links: list[ast.expr], first: int) -> None:
        """Refuse helpers that are not the candidate's but would run beside it."""
        if root.id in self.setup:
            raise NotSplit(
                root.lineno, f"`{root.id}` is defined by the setup and would run beside the program"
            )
        through = first + 1 < len(links)
        if through and root.id in FOREIGN:
            raise NotSplit(root.lineno, f"the module `{root.id}` is not available to the judge")
        for part in ast.walk(links[first]) if through else ():
            inside = (
                isinstance(part, ast.Call) and part is not links[first] and isinstance(part.func, ast.Name)
            )
            if inside and self.is_candidates(part.func.id):  # type: ignore[attr-defined]
                raise NotSplit(root.lineno, f"`{root.id}` would be given what the program returned")

    def _end(self, root: ast.Name, links: list[ast.expr], first: int) -> int:
        """Return the index of the outermost link that belongs to the candidate."""
        func = links[first].func if isinstance(links[first], ast.Call) else root  # type: ignore[attr-defined]
        callee = func.attr if isinstance(func, ast.Attribute) else root.id
        if callee[:1].isupper():
            return 0
        end = first
        for i in range(first - 1, -1, -1):
            link = links[i]
            if isinstance(link, ast.Attribute):
                beyond = link.attr not in VALUE_ATTRIBUTES
            else:
                beyond = isinstance(link, ast.Call) and (
                    end == i + 1 or not isinstance(links[i + 1], ast.Attribute)
                )
            end = i if beyond else end
        return end

    def _hole(self, root: ast.Name, node: ast.expr) -> ast.expr:
        if self.repeated:
            raise NotSplit(node.lineno, f"`{root.id}` is called inside a lambda or comprehension of the test")
        names = set()
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                names.add(part.id)
            elif isinstance(part, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
                raise NotSplit(node.lineno, f"the call of `{root.id}` binds a name or awaits")
        entry = root.id if root.id in self.entries else ""
        if entry or names & (self.locals.keys() | self.aliases.keys()):
            self.found.append(Fill(self.tree, self.locals, self.aliases, entry).source(node))
        else:
            self.found.append(self._source(node))
        index = ast.Constant(len(self.found) - 1)
        return ast.Subscript(ast.Name("H", ast.Load()), index, ast.Load())

    def _source(self, node: ast.expr) -> str:
        """Return the call as the test has it where that stands alone, else in other words."""
        if self.formatted or not self.one_line:
            text = ast.get_source_segment(self.source, node) or ""
            try:
                same = ast.dump(ast.parse(text, mode="eval").body) == ast.dump(node)
            except (SyntaxError, ValueError):
                same = False
            return text if same else ast.unparse(node)
        return self.source.encode()[node.col_offset : node.end_col_offset].decode()

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Visit an f-string, inside which Python 3.11 and older do not know where they are."""
        before, self.formatted = self.formatted, True
        try:
            return self.generic_visit(node)
        finally:
            self.formatted = before
