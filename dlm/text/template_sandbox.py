"""Untrusted templates: jinja2's sandbox with a bound on the work of a rendering.

    a step of a loop, a call, a filter     STEP, and the characters of its result
    a text that is joined, multiplied, compared or written
                                           its characters; of a list or a dictionary, those of
                                           everything in it

Work is charged before it is done. The sandbox of jinja2 protects the interpreter, but not the
machine: a template may write a gigabyte (`'a' * 10**9`) or never end (loops in loops). The bound is
far above any chat: WORK characters, 10⁶ steps of loops.
"""

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator, Sized
from types import BuiltinMethodType, MethodType, MethodWrapperType
from typing import Any

from jinja2 import Template, ext, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import _PassArg
from jinja2.visitor import NodeTransformer

WORK = 10**8  # characters
STEP = 100  # characters that one step costs
LARGEST = 10**6  # characters of a template
_LARGEST_RESULT = 10 * LARGEST  # characters that one rendering may write
_LARGEST_INDENT = 32
_NODE = 64  # work for a value, however small
_OVERHEAD = 8  # characters that a small result costs
_GLOBALS = ("range", "dict", "namespace", "joiner", "cycler")

# Filters that do not look inside the elements of a list, so its length is what they cost.
_SHALLOW = frozenset(
    [
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
    ]
)
# A field of a width of four digits or more, or of one that is computed.
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)|\{[^{}]*:[^{}]*(\d{4}|\{)")
_FORMATTING = ("format", "format_map", "%", "translate")
_SEARCHES = ("startswith", "endswith", "get")
_METHODS = (BuiltinMethodType, MethodType, MethodWrapperType)


class Sandbox(ImmutableSandboxedEnvironment):
    """Runs a template within a bound on its work.

    Blocks are trimmed and `{% break %}` exists, as chat templates expect.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **names: Callable):
        """`names` are functions that templates may call besides jinja2's harmless ones."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # the optimizer would compute constants while it compiles
            extensions=[ext.loopcontrols, _Generation],
            finalize=self._weighed,
        )
        self._meter = threading.local()
        del self.filters["tojson"]
        for name, function in list(self.filters.items()):
            self.filters[name] = self._metered(name, function)
        self.filters["tojson"] = self._metered("tojson", _tojson)
        # `_Counted` writes these into the template.
        self.filters["spent"] = self._weighed
        self.filters["joined"] = self._joined
        self.filters["step"] = self._step
        known = {name: self.globals[name] for name in _GLOBALS if name in self.globals}
        self.globals = {**known, **names}

    def read(self, source: str) -> Template:
        """Compile the template, with all its loops counted."""
        if len(source) > LARGEST:
            raise TemplateError(f"it has {len(source)} characters, and at most {LARGEST} are read")
        self._meter.left = WORK
        code = self.compile(_Counted().visit(self.parse(source)))
        return self.template_class.from_code(self, code, self.make_globals(None), None)

    def sought(self, source: str) -> list[str]:
        """List the texts that a template compares its data with.

        Those are operands of ==, in, …, what a text is to begin or end with, and keys.
        """
        texts = []
        for node in _comparands(self.parse(source)):
            parts = node.items if isinstance(node, nodes.List | nodes.Tuple) else [node]
            constants = [part.value for part in parts if isinstance(part, nodes.Const)]
            texts += [value for value in constants if isinstance(value, str)]
        return texts

    def render(self, template: Template, values: dict) -> str:
        """Render the template; raises SecurityError above the bounds."""
        self._meter.left = WORK
        parts = []
        size = 0
        for part in template.generate(values):
            parts.append(part)
            size += len(part)
            if size > _LARGEST_RESULT:
                raise SecurityError(f"it makes more than {_LARGEST_RESULT} characters")
        return "".join(parts)

    # ----------------------------------------------------------------------------------- the meter

    def _spend(self, amount: int) -> None:
        self._meter.left -= amount
        if self._meter.left < 0:
            raise SecurityError(f"it does more work than {WORK} characters or {WORK // STEP} steps")

    def _step(self, amount: int) -> bool:
        self._spend(amount)
        return True

    def _weight(self, *values: Any) -> int:
        """Estimates the characters of values as text.

        They are spent while they are counted, since a list may contain another many times over.
        """
        total = 0
        stack = list(values)
        while stack:
            value = stack.pop()
            size = _size(value)
            self._spend(size + _NODE)
            total += size + 1
            if isinstance(value, Sized) and not isinstance(value, str | bytes | range):
                stack += _elements(value)
        return total

    def _weighed(self, value: Any) -> Any:
        self._weight(value)
        return value

    def _joined(self, values: list) -> str:
        self._weight(values)
        return "".join(map(str, values))

    def _charge_result(self, name: str, value: Any, args: tuple) -> tuple:
        """Spends the result of a method of a text, or of a filter, before it exists.

        Returns the arguments, as a list where they were an iterator that can only be read once.
        """
        if name == "join":
            if args and not isinstance(args[0], Sized):
                args = (list(args[0]), *args[1:])
            pieces = len(args[0]) if args else 1
            self._spend(pieces * len(str(value)))
        elif name == "replace" and len(args) > 1:
            text, old, new = str(value), str(args[0]), str(args[1])
            self._spend(text.count(old) * len(new))
        elif name in _FORMATTING:
            text = str(value)
            if _WIDE.search(text):
                raise SecurityError(f"it formats with a width that is not plain: {text[:40]!r}")
            self._spend(len(text) * self._weight(*args))
        # Any number may be a width or a count.
        numbers = [abs(arg) for arg in args if isinstance(arg, int)]
        size = len(value) if isinstance(value, Sized) else 1
        self._spend(STEP + (size + _OVERHEAD) * max([1, *numbers]))
        return args

    def _metered(self, name: str, function: Callable) -> Callable:
        """Wraps a filter so that its work is spent before it runs."""
        # Some filters get the context or the environment before the value.
        at = 1 if _PassArg.from_obj(function) is not None else 0

        @functools.wraps(function)
        def metered(*args, **kwargs):
            value = args[at]
            rest = args[at + 1 :]
            options = (*rest, *kwargs.values())
            if name == "join":
                value = value if isinstance(value, Sized) else list(value)
                separator = "".join(map(str, options))
                self._charge_result("join", separator, (value,))
            else:
                method = name if name in ("format", "replace") else ""
                self._charge_result(method, value, options)
            if name not in _SHALLOW:
                self._weight(value)
            return function(*args[:at], value, *rest, **kwargs)

        return metered

    # ----------------------------------------------------------------------- overridden by jinja2

    # The names are mangled, so that any name may be a keyword of the template's call.
    def call(__self, __context, __obj, *args, **kwargs):
        """Call a function for the template; methods of texts are charged for their result."""
        __self._spend(10 * STEP)
        if isinstance(__obj, _METHODS) and isinstance(__obj.__self__, str | bytes):
            options = (*args, *kwargs.values())
            charged = __self._charge_result(__obj.__name__, __obj.__self__, options)
            args = charged[: len(args)]
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` for the template, after its work is spent."""
        if operator == "%" and isinstance(left, str | bytes):
            self._charge_result("%", left, (right,))
        else:
            self._spend(_binop_work(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable | None:
        """Replace `str.format` in the sandbox."""
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def metered(*args, **kwargs):
            self._charge_result("format", value.__self__, (*args, *kwargs.values()))
            return formatted(*args, **kwargs)

        return metered

    def unsafe_undefined(self, obj: Any, attribute: str):
        """Refuse an attribute that leads to the interpreter."""
        raise SecurityError(f"it may not read {attribute!r} of a {type(obj).__name__}")


def _size(value: Any) -> int:
    """Characters of a value as text, without its elements."""
    if isinstance(value, Sized):
        return len(value)
    # A decimal digit has more than three bits.
    return value.bit_length() // 3 if isinstance(value, int) else 1


def _elements(value: Any) -> list:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value)


def _binop_work(operator: str, left: Any, right: Any) -> int:
    """Characters that `left operator right` may have."""
    if operator == "+":
        return sum(len(side) if isinstance(side, Sized) else _OVERHEAD for side in (left, right))
    if isinstance(right, int) and operator in ("*", "**"):
        if isinstance(left, Sized):
            return (len(left) + _OVERHEAD) * abs(right)
        bits = left.bit_length() + 1 if isinstance(left, int) else 1
        return bits * abs(right) if operator == "**" else bits + right.bit_length()
    if operator == "*" and isinstance(right, Sized):
        return (len(right) + _OVERHEAD) * abs(left) if isinstance(left, int) else 1
    return 0


def _comparands(tree: nodes.Template) -> Iterator[nodes.Expr]:
    """Expressions that a template compares data with, in the order of the template."""
    for node in tree.find_all((nodes.Compare, nodes.Getitem, nodes.Call)):
        if isinstance(node, nodes.Compare):
            yield node.expr
            yield from (operand.expr for operand in node.ops)
        elif isinstance(node, nodes.Getitem):
            yield node.arg
        elif isinstance(node, nodes.Call):
            method = node.node
            if isinstance(method, nodes.Getattr) and method.attr in _SEARCHES:
                yield from node.args[:1]


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Writes JSON as it is: jinja2's own filter writes for web pages, with < as \\u003c."""
    if isinstance(indent, int) and indent > _LARGEST_INDENT:
        raise SecurityError(f"it indents JSON by {indent}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _Generation(ext.Extension):
    """Keeps the content of {% generation %} … {% endgeneration %}.

    The tag marks a model's own words for training.
    """

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Counted(NodeTransformer):
    """Makes a template spend.

    Every step of a loop and every body of a macro does, and so does everything that grows or is
    searched without a call.
    """

    def visit_For(self, node):
        self.generic_visit(node)
        node.body.insert(0, self._step(node))
        # The filter of a loop runs for elements that never reach its body.
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
        texts = self._node(nodes.List, node, node.nodes)
        return self._filter(node, texts, "joined")

    def visit_Compare(self, node):
        self.generic_visit(node)
        node.expr = self._filter(node, node.expr, "spent")
        for operand in node.ops:
            operand.expr = self._filter(node, operand.expr, "spent")
        return node

    def visit_Getitem(self, node):
        self.generic_visit(node)
        # A slice copies, an element does not.
        if isinstance(node.arg, nodes.Slice):
            node.node = self._filter(node, node.node, "spent")
        return node

    def _step(self, node):
        """The statement that spends for one step, and for the text written in it."""
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        amount = self._node(nodes.Const, node, STEP + written)
        return self._node(nodes.ExprStmt, node, self._filter(node, amount, "step"))

    def _filter(self, at, value, name: str):
        return self._node(nodes.Filter, at, value, name, [], [], None, None)

    def _node(self, kind, at, *fields):
        return kind(*fields, lineno=at.lineno, environment=at.environment)
