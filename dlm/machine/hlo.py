"""Read the cost of a compiled program off XLA: memory, FLOPs, bytes that its collectives send.

Let each of n devices hold S bytes (of an all-gather: afterwards; of others: before). In the
algorithms that send least, a device sends

    all-gather, reduce-scatter, all-to-all   (n − 1)/n · S
    all-reduce                               2 (n − 1)/n · S
    collective-permute                       S
"""

import math
import re
from collections import defaultdict

from jax.stages import Compiled

_BITS_OF_TYPE = (
    (8, "pred s8 u8"),
    (4, "s4 u4"),
    (16, "bf16 f16 s16 u16"),
    (32, "f32 s32 u32"),
    (64, "f64 s64 u64"),
)
_BITS = {name: bits for bits, names in _BITS_OF_TYPE for name in names.split()}
_KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "all-reduce",
    "collective-permute",
    "ragged-all-to-all",
)
_CALL = re.compile(
    rf"= (?P<result>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\("
)
_FIRST_LINE = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")  # of a computation
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_CALLED = re.compile(r"\b(?:calls|body|to_apply)=%?([\w.-]+)")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_TUPLE_PART = re.compile(r"\((?:[^()]|\([^()]*\))*\)|\w+\[[\d,]*\]")


def collectives(text: str) -> dict[str, float]:
    """Return the bytes that each device sends, by kind of collective.

    The body of a loop counts once.
    """
    total: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if call := _CALL.search(line):
            devices, kind = _group_size(line), call["kind"]
            result = (
                _results_of_start(call["result"]) if call["start"] else call["result"]
            )
            size = _bytes(result)
            if kind == "reduce-scatter":
                size *= devices  # the result is one of the parts
            total[kind] += _share_sent(kind, devices) * size
    return dict(total)


def _share_sent(kind: str, devices: int) -> float:
    if kind == "collective-permute":
        return 1.0
    share = (devices - 1) / devices
    return 2 * share if kind == "all-reduce" else share


def _results_of_start(result: str) -> str:
    """Return the results in an asynchronous start's value (operands, results, …)."""
    if not result.startswith("("):
        return result
    parts = _TUPLE_PART.findall(result[1:-1])
    return parts[1] if len(parts) > 1 else parts[0]


def of_loops(text: str) -> tuple[str, str]:
    """Split a program into (lines outside of loops, lines of loop bodies and what these call)."""
    computations = _computations(text)
    inside: set[str] = set()
    todo = _BODY.findall(text)
    while todo:
        name = todo.pop()
        if name not in inside and name in computations:
            inside.add(name)
            todo += _CALLED.findall("\n".join(computations[name]))
    outer = [
        line
        for name, lines in computations.items()
        if name not in inside
        for line in lines
    ]
    inner = [
        line for name, lines in computations.items() if name in inside for line in lines
    ]
    return "\n".join(outer), "\n".join(inner)


def _computations(text: str) -> dict[str, list[str]]:
    """Group the lines of a program by computation; '' holds those before the first."""
    parts: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if first := _FIRST_LINE.match(line):
            name = first[1]
            parts[name] = []
        parts[name].append(line)
    return parts


def memory(compiled: Compiled) -> dict[str, int] | None:
    """Return bytes per device of arguments, results and temporaries; None if unknown."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return dict(
        arguments=int(stats.argument_size_in_bytes),
        results=int(stats.output_size_in_bytes),
        temporaries=int(stats.temp_size_in_bytes),
        aliased=int(stats.alias_size_in_bytes),
    )


def flops(compiled: Compiled) -> float:
    """Return FLOPs per device as XLA counts them: the body of a loop counts once."""
    costs = compiled.cost_analysis()
    if isinstance(costs, list):  # older versions of JAX give one dictionary per program
        costs = costs[0]
    return float((costs or {}).get("flops", math.nan))


def _bytes(shapes: str) -> int:
    total = 0
    for kind, sizes in _SHAPE.findall(shapes):
        if kind in _BITS:
            elements = math.prod(int(n) for n in sizes.split(",") if n)
            total += _BITS[kind] * elements // 8
    return total


def _group_size(line: str) -> int:
    """Return how many devices take part in one exchange."""
    if groups := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(groups[1])
    # The mesh form lists axes with their sizes, then the axes of the exchange.
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    first = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(first[1].split(",")) if first and first[1] else 1
