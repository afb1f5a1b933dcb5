"""What a compiled program costs, read off XLA: its memory, its FLOPs, and the bytes that its collectives move.

Over n devices each of which holds (all-gather: ends with, others: begins with) S bytes, a device sends, in the algorithms that send least,

    all-gather, reduce-scatter, all-to-all   (n − 1)/n · S            all-reduce   2 (n − 1)/n · S         collective-permute   S
"""

import math
import re
from collections import defaultdict

_BITS = dict(
    pred=8,
    s4=4,
    u4=4,
    s8=8,
    u8=8,
    bf16=16,
    f16=16,
    s16=16,
    u16=16,
    f32=32,
    s32=32,
    u32=32,
    f64=64,
    s64=64,
    u64=64,
)
_KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "all-reduce",
    "collective-permute",
    "ragged-all-to-all",
)
_CALL = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\(")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")  # its first line
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, float]:
    """Bytes that each device sends, by the kind of collective. What stands in a loop's body is counted once."""
    total: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if parsed := _CALL.search(line):
            n, kind = _group(line), parsed["kind"]
            size = _bytes(_ends_with(parsed["result"]) if parsed["start"] else parsed["result"])
            whole = size * n if kind == "reduce-scatter" else size
            share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(
                kind, (n - 1) / n
            )
            total[kind] += share * whole
    return dict(total)


def _ends_with(result: str) -> str:
    """The part of an asynchronous start's result, (operands, results, …), that holds the results."""
    parts = (
        re.findall(r"\((?:[^()]|\([^()]*\))*\)|\w+\[[\d,]*\]", result[1:-1])
        if result.startswith("(")
        else [result]
    )
    return parts[1] if len(parts) > 1 else parts[0]


def of_loops(text: str) -> tuple[str, str]:
    """(the lines outside of all loops, those of their bodies and of whatever these call)."""
    parts: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if parsed := _COMPUTATION.match(line):
            parts[name := parsed[1]] = []
        parts[name].append(line)
    inside, todo = (
        set(),
        [body for line in text.splitlines() for body in re.findall(r"\bbody=%?([\w.-]+)", line)],
    )
    while todo:
        if (name := todo.pop()) not in inside and name in parts:
            inside.add(name)
            todo += [
                c
                for line in parts[name]
                for c in re.findall(r"\b(?:calls|body|to_apply)=%?([\w.-]+)", line)
            ]
    return tuple(
        "\n".join(line for name in parts if (name in inside) == within for line in parts[name])
        for within in (False, True)
    )


def memory(compiled) -> dict[str, int] | None:
    """Bytes per device of arguments, results and temporaries; None where the backend does not say."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    names = dict(
        arguments="argument_size_in_bytes",
        results="output_size_in_bytes",
        temporaries="temp_size_in_bytes",
    )
    return {name: int(getattr(stats, attribute)) for name, attribute in names.items()} | dict(
        aliased=int(stats.alias_size_in_bytes)
    )


def flops(compiled) -> float:
    """FLOPs per device as XLA counts them: what stands in a loop's body is counted once."""
    parsed = compiled.cost_analysis()
    parsed = parsed[0] if isinstance(parsed, list) else parsed
    return float((parsed or {}).get("flops", math.nan))


def _bytes(shapes: str) -> int:
    return sum(
        _BITS[kind] * math.prod(int(n) for n in sizes.split(",") if n) // 8
        for kind, sizes in _SHAPE.findall(shapes)
        if kind in _BITS
    )


def _group(line: str) -> int:
    """Devices that take part in one exchange."""
    if parsed := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(parsed[1])
    if parsed := re.search(
        r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line
    ):  # axes with their sizes, and those it goes over
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", parsed[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", parsed[2]))
    parsed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(parsed[1].split(",")) if parsed and parsed[1] else 1
