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
from collections.abc import Callable, Sized
from types import BuiltinMethodType, MethodType, MethodWrapperType
from typing import Any

from jinja2 import Template, ext, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import _PassArg

from dlm.text.template_tree import STEP, Counted, Generation, comparands

WORK = 10**8  # characters
LARGEST = 10**6  # characters of a template
_LARGEST_RESULT = 10 * LARGEST  # characters that one rendering may write
_LARGEST_INDENT = 32
_NODE = 64  # work for a value, however small
_OVERHEAD = 8  # characters that a small result costs
_GLOBALS = frozenset({"range", "dict", "namespace", "joiner", "cycler"})

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
            extensions=[ext.loopcontrols, Generation],
            finalize=self._weighed,
        )
        self._meter = threading.local()
        # Every filter is replaced by one that spends.
        del self.filters["tojson"]
        for name, function in list(self.filters.items()):
            self.filters[name] = self._metered(name, function)
        self.filters["tojson"] = self._metered("tojson", _tojson)
        # `Counted` writes these into the template.
        self.filters["spent"] = self._weighed
        self.filters["joined"] = self._joined
        self.filters["step"] = self._step
        for name in self.globals.keys() - _GLOBALS:
            del self.globals[name]
        self.globals.update(names)

    def read(self, source: str) -> Template:
        """Compile the template, with all its loops counted."""
        if len(source) > LARGEST:
            raise TemplateError(
                f"it has {len(source)} characters, and at most {LARGEST} are read"
            )
        self._meter.left = WORK
        tree = Counted().visit(self.parse(source))
        code = self.compile(tree)
        names = self.make_globals(None)
        return self.template_class.from_code(self, code, names, None)

    def sought(self, source: str) -> list[str]:
        """List the texts that a template compares its data with.

        Those are operands of ==, in, …, what a text is to begin or end with, and keys.
        """
        texts = []
        for node in comparands(self.parse(source)):
            parts = [node]
            if isinstance(node, nodes.List | nodes.Tuple):
                parts = node.items
            for part in parts:
                value = part.value if isinstance(part, nodes.Const) else None
                if isinstance(value, str):
                    texts.append(value)
        return texts

    def render(self, template: Template, values: dict) -> str:
        """Render the template; raises SecurityError above the bounds."""
        self._meter.left = WORK
        # Part by part, so that a long result is refused before it is joined.
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
            raise SecurityError(
                f"it does more work than {WORK} characters or {WORK // STEP} steps"
            )

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
            old, new = map(str, args[:2])
            count = str(value).count(old)
            self._spend(count * len(new))
        elif name in _FORMATTING:
            text = str(value)
            if _WIDE.search(text):
                raise SecurityError(
                    f"it formats with a width that is not plain: {text[:40]!r}"
                )
            self._spend(len(text) * self._weight(*args))
        # Any number may be a width or a count.
        numbers = [abs(arg) for arg in args if isinstance(arg, int)]
        largest = max([1, *numbers])
        size = len(value) if isinstance(value, Sized) else 1
        self._spend(STEP + (size + _OVERHEAD) * largest)
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
            options = (*args, *kwargs.values())
            self._charge_result("format", value.__self__, options)
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


def _length(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else _OVERHEAD


def _elements(value: Any) -> list:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value)


def _binop_work(operator: str, left: Any, right: Any) -> int:
    """Characters that `left operator right` may have."""
    if operator == "+":
        return _length(left) + _length(right)
    if isinstance(right, int) and operator in ("*", "**"):
        if isinstance(left, Sized):
            return (len(left) + _OVERHEAD) * abs(right)
        bits = left.bit_length() + 1 if isinstance(left, int) else 1
        if operator == "**":
            return bits * abs(right)
        return bits + right.bit_length()
    if operator == "*" and isinstance(right, Sized):
        return (len(right) + _OVERHEAD) * abs(left) if isinstance(left, int) else 1
    return 0


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
