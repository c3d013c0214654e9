"""Write a candidate's call so that it stands alone: the test's own names in it become what they stand for.

Used by `calls` only. A call goes to the jail as text; the test's assignments and imports are not there.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from typing import NamedTuple


class NotSplit(Exception):
    """This test cannot be taken apart: the line, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


class Local(NamedTuple):
    """A name the test assigns. `value` is None if it holds something of the candidate's."""

    value: ast.expr | None
    immutable: bool


class Fill(ast.NodeTransformer):
    """Replace names in one call.

    tree     the whole test, to see who else uses a name
    locals   the names the test assigns
    aliases  the names imports make known: (module, attribute), no attribute for the module itself
    entry    a builtin that must be the candidate's own here, or empty
    """

    def __init__(
        self,
        tree: ast.Module,
        locals: Mapping[str, Local],
        aliases: Mapping[str, tuple[str, str]],
        entry: str,
    ) -> None:
        self.tree, self.locals, self.aliases, self.entry = tree, locals, aliases, entry

    def source(self, call: ast.expr) -> str:
        """Return the call's text, all replaced; raises NotSplit where that would change its meaning."""
        for part in ast.walk(call):
            bound = part.arg if isinstance(part, ast.arg) else ""
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                bound = part.id
            if bound and (bound in self.locals or bound in self.aliases or bound == self.entry):
                raise NotSplit(call.lineno, f"a call binds `{bound}`, which means something else outside it")
        return ast.unparse(ast.fix_missing_locations(self.visit(copy.deepcopy(call))))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.locals:
            filled: ast.expr = self.visit(self._value(node))
            return filled
        if node.id in self.aliases:
            module, attribute = self.aliases[node.id]
            imported = _call("__import__", ast.Constant(module))
            return ast.Attribute(imported, attribute, ast.Load()) if attribute else imported
        if node.id == self.entry:
            return ast.Subscript(_call("globals"), ast.Constant(node.id), ast.Load())
        return node

    def _value(self, name: ast.Name) -> ast.expr:
        """Return what a local stands for, if nobody else could see the call change it."""
        value, immutable = self.locals[name.id]
        if value is None:
            raise NotSplit(
                name.lineno, f"`{name.id}` holds what the program returned and is passed back to it"
            )
        uses = [part for part in ast.walk(self.tree) if isinstance(part, ast.Name) and part.id == name.id]
        if not immutable and len(uses) > 2:
            raise NotSplit(name.lineno, f"`{name.id}` can be changed by the call and is used again")
        return copy.deepcopy(value)


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])
