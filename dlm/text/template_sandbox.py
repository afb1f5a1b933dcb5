"""Templates that nobody has read: jinja2's sandbox, with a bound on all the work of a rendering, counted before it is done.

    a step of a loop, a call, a filter     STEP, and the characters that it may make
    a text that is joined, multiplied, compared or put out      its characters; of a list or a dictionary those of all that is in it

The sandbox keeps a template from the interpreter, and not from writing a gigabyte (`'a' * 10**9`) or going on for ever (loops in loops).
What it may do is far beyond any chat: WORK characters, 10⁶ steps of loops.
"""

import functools
import json
import re
import threading
from collections.abc import Callable, Sized
from typing import Any

from jinja2 import Template, ext, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

WORK, STEP, LARGEST = (
    10**8,
    100,
    10**6,
)  # characters; of a step; of a template, and of what it puts out in one rendering the tenfold
_NODE = 64  # of work, for a value however small
_SHALLOW = {
    "length",
    "count",
    "first",
    "last",
    "list",
    "map",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "default",
    "d",
    "items",
}
_SHALLOW |= {
    "dictsort",
    "attr",
    "sort",
    "unique",
    "reverse",
    "batch",
    "slice",
    "groupby",
    "min",
    "max",
    "random",
    "spent",
}
_WIDE = re.compile(
    r"%[^a-zA-Z%]*(\d{4}|\*)|\{[^{}]*:[^{}]*(\d{4}|\{)"
)  # a field as wide as the template likes


class Sandbox(ImmutableSandboxedEnvironment):
    """Blocks are trimmed and `{% break %}` known, as chat templates expect."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **names: Callable):
        options = dict(
            trim_blocks=True, lstrip_blocks=True, optimized=False
        )  # nothing is computed while it is compiled
        super().__init__(
            **options, extensions=[ext.loopcontrols, _Generation], finalize=self._weighed
        )
        self._meter = threading.local()
        self.filters = {
            name: self._metered(name, function)
            for name, function in self.filters.items()
            if name != "tojson"
        }
        self.filters |= dict(
            tojson=self._metered("tojson", _tojson),
            spent=self._weighed,
            joined=self._joined,
            step=self._step,
        )
        self.globals = {
            k: v
            for k, v in self.globals.items()
            if k in ("range", "dict", "namespace", "joiner", "cycler")
        } | names

    def read(self, source: str) -> Template:
        """The template, with all its loops counted."""
        if len(source) > LARGEST:
            raise TemplateError(f"it has {len(source)} characters, and at most {LARGEST} are read")
        self._meter.left = WORK
        code = self.compile(_Counted().visit(self.parse(source)))
        return self.template_class.from_code(self, code, self.make_globals(None), None)

    def sought(self, source: str) -> list[str]:
        """The texts that a template compares its data with: operands of ==, in, …, what a text is to begin or end with, and keys."""
        tree, asked = self.parse(source), []
        for node in tree.find_all((nodes.Compare, nodes.Getitem, nodes.Call)):
            if isinstance(node, nodes.Compare):
                asked += [node.expr, *(operand.expr for operand in node.ops)]
            elif isinstance(node, nodes.Getitem):
                asked.append(node.arg)
            elif isinstance(node.node, nodes.Getattr) and node.node.attr in (
                "startswith",
                "endswith",
                "get",
            ):
                asked += node.args[:1]
        asked = [
            part
            for node in asked
            for part in (node.items if isinstance(node, nodes.List | nodes.Tuple) else [node])
        ]
        return [
            node.value
            for node in asked
            if isinstance(node, nodes.Const) and isinstance(node.value, str)
        ]

    def render(self, template: Template, values: dict) -> str:
        self._meter.left, parts, size = WORK, [], 0
        for part in template.generate(values):
            parts.append(part)
            size += len(part)
            if size > 10 * LARGEST:
                raise SecurityError(f"it makes more than {10 * LARGEST} characters")
        return "".join(parts)

    # --------------------------------------------------------------------------------------------------------------- the meter

    def _spend(self, amount: int) -> None:
        self._meter.left -= amount
        if self._meter.left < 0:
            raise SecurityError(f"it does more work than {WORK} characters or {WORK // STEP} steps")

    def _step(self, amount: int) -> bool:
        self._spend(amount)
        return True

    def _weight(self, *values: Any) -> int:
        """Characters of the values as text, about; spent as they are counted, since a list may hold another many times over."""
        total, stack = 0, list(values)
        while stack:
            value = stack.pop()
            size = (
                len(value)
                if isinstance(value, Sized)
                else value.bit_length() // 3
                if isinstance(value, int)
                else 1
            )
            self._spend(size + _NODE)
            total += size + 1
            if not isinstance(value, str | bytes | range) and isinstance(value, Sized):
                stack += [*value, *(value.values() if isinstance(value, dict) else ())]
        return total

    def _weighed(self, value: Any) -> Any:
        self._weight(value)
        return value

    def _joined(self, values: list) -> str:
        self._weight(values)
        return "".join(map(str, values))

    def _charge_result(self, name: str, value: Any, args: tuple) -> tuple:
        """Spends what a method of a text, or a filter, may make of it; the arguments, of which none can be read only once."""
        numbers = [abs(a) for a in args if isinstance(a, int)]
        if name == "join":
            args = (*[list(a) if not isinstance(a, Sized) else a for a in args[:1]], *args[1:])
            self._spend((len(args[0]) if args else 1) * len(str(value)))
        elif name == "replace" and len(args) > 1:
            text, old, new = str(value), str(args[0]), str(args[1])
            self._spend(text.count(old) * len(new))
        elif name in ("format", "format_map", "%", "translate"):
            if _WIDE.search(str(value)):
                raise SecurityError(
                    f"it formats with a width that is not plain: {str(value)[:40]!r}"
                )
            self._spend(len(str(value)) * self._weight(*args))
        size = len(value) if isinstance(value, Sized) else 1
        self._spend(STEP + (size + 8) * max([1, *numbers]))
        return args

    def _metered(self, name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def metered(*args, **kwargs):
            given = 1 if hasattr(function, "jinja_pass_arg") else 0
            value, rest = args[given], args[given + 1 :]
            if name == "join":
                value = value if isinstance(value, Sized) else list(value)
                self._charge_result("join", "".join(map(str, [*rest, *kwargs.values()])), (value,))
            elif name in ("format", "replace"):
                self._charge_result(name, value, (*rest, *kwargs.values()))
            else:
                self._charge_result("", value, (*rest, *kwargs.values()))
            if name not in _SHALLOW:
                self._weight(value)
            return function(*args[:given], value, *rest, **kwargs)

        return metered

    # --------------------------------------------------------------------------------------------------- what the sandbox asks

    def call(__self, __context, __obj, *args, **kwargs):  # so that any name may be a keyword
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        __self._spend(10 * STEP)
        if isinstance(owner, str | bytes):
            args = __self._charge_result(name, owner, (*args, *kwargs.values()))[: len(args)]
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            self._charge_result("%", left, (right,))
        elif operator in ("*", "**") and isinstance(right, int):
            sized = (
                len(left) + 8
                if isinstance(left, Sized)
                else left.bit_length() + 1
                if isinstance(left, int)
                else 1
            )
            self._spend(
                sized * abs(right)
                if isinstance(left, Sized) or operator == "**"
                else sized + right.bit_length()
            )
        elif operator == "*" and isinstance(right, Sized):
            self._spend((len(right) + 8) * abs(left) if isinstance(left, int) else 1)
        elif operator == "+":
            self._spend(sum(len(side) if isinstance(side, Sized) else 8 for side in (left, right)))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable | None:
        """What stands for `str.format` in the sandbox."""
        formatted = super().wrap_str_format(value)

        def metered(*args, **kwargs):
            self._charge_result("format", value.__self__, (*args, *kwargs.values()))
            return formatted(*args, **kwargs)

        return metered if formatted else None

    def unsafe_undefined(self, obj: Any, attribute: str):
        raise SecurityError(f"it may not read {attribute!r} of a {type(obj).__name__}")


def _tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """JSON as it is: jinja2's own filter writes for web pages, with < as \\u003c."""
    if isinstance(indent, int) and indent > 32:
        raise SecurityError(f"it indents JSON by {indent}")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Generation(ext.Extension):
    """{% generation %} … {% endgeneration %} marks what a model wrote, for training; here it is what stands in it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


class _Counted(NodeTransformer):
    """Every step of a loop and every body of a macro spends, and so does what grows or is searched without a call."""

    def visit_For(self, node):
        self.generic_visit(node)
        node.body.insert(0, self._step(node))
        if node.test is not None:
            node.test = self._node(nodes.And, node, self._step(node).node, node.test)
        return node

    def visit_Macro(self, node):
        self.generic_visit(node)
        node.body.insert(0, self._step(node))
        return node

    visit_CallBlock = visit_Macro

    def visit_Concat(self, node):
        self.generic_visit(node)
        return self._filter(node, self._node(nodes.List, node, node.nodes), "joined")

    def visit_Compare(self, node):
        self.generic_visit(node)
        node.expr = self._filter(node, node.expr, "spent")
        for operand in node.ops:
            operand.expr = self._filter(node, operand.expr, "spent")
        return node

    def visit_Getitem(self, node):
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._filter(node, node.node, "spent")
        return node

    def _step(self, node):
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        return self._node(
            nodes.ExprStmt,
            node,
            self._filter(node, self._node(nodes.Const, node, STEP + written), "step"),
        )

    def _filter(self, at, value, name: str):
        return self._node(nodes.Filter, at, value, name, [], [], None, None)

    def _node(self, kind, at, *fields):
        return kind(*fields, lineno=at.lineno, environment=at.environment)
