"""Recipe files as text: lines cut, names misspelt, odd values, exceptions, wrong types, imports; read as train and sweep read them."""

import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from dlm.core.config import load_recipe, to_json
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import ACCEPTED, REFUSED
from dlm.sweeps import grid

ODD = (
    "None",
    "True",
    "-1",
    "0",
    "1e999",
    "float('nan')",
    "''",
    "'~'",
    "()",
    "[1, 'a']",
    "{}",
    "{1: 2}",
    "b'x'",
    "10**400",
    "object()",
)
ODD += (
    "set()",
    "lambda: 3",
    "...",
    "'\\ud800'",
    "print",
    "open",
    "1j",
    "range(3)",
    "Path('x')",
    "['a'] * 9999",
    "deep",
)
HEAD = """from pathlib import Path
deep = []
for _ in range(5000):
    deep = [deep]
"""
RAISED = (
    "ValueError('boom')",
    "KeyError(3)",
    "SystemExit(0)",
    "RecursionError",
    "MemoryError('none')",
    "Exception('two\\nlines')",
    "Odd()",
)
RAISED += (
    "StopIteration",
    "OSError(28, 'full')",
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')",
    "AssertionError",
    "GeneratorExit()",
)
BEFORE = "class Odd(Exception):\n    def __str__(self):\n        return 1 / 0\n"
IMPORTS = (
    "import not_there",
    "from helper import VALUE",
    "from helper import NOTHING",
    "import broken",
    "from . import helper",
    "import dlm.not_there",
)
RECIPE = """from dlm.sweeps.grid import over, point, product, repeat, chain

def get_config(arg=None):
    config = {
        'steps': 4,
        'seed': 1,
        'text': 'bytes',
        'objective': {'name': 'masked'},
        'optim': {'lr': 1e-3, 'warmup': 2},
        'data': {'batch': 8, 'length': 32},
        'sampler': {'steps': 4},
        'evals': {'bound': {'samples': 2}},
        'start': None,
    }
    return config

def sweep(arg=None):
    return repeat(product(over('optim.lr', 1e-3, 2e-3), point('a', {'nn.width': 16})), seeds=2)
"""


def cases(seed: int, count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """(what was done to a recipe, what came of reading it)."""
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        place = Path(folder) / f"case {n}"
        place.mkdir(parents=True)
        (place / "helper.py").write_text("VALUE = 3\n")
        (place / "broken.py").write_text("VALUE = (3\n")
        text, done = mutated(rng)
        name = rng.choice(("r.py", "r.py", "a:b.py", "r\u00e9.py", "r b.py", "r"))
        (place / name).write_bytes(text)
        before = _content(place)
        outcome = judged(str(place / name) + rng.choice(("", "", ":size=tiny", ":")))
        if outcome in (ACCEPTED, REFUSED) and _content(place) != before:
            outcome = "something in the recipe's folder was changed"
        yield f"{name}: {done}", outcome
        shutil.rmtree(place)


def mutated(rng: random.Random) -> tuple[bytes, str]:
    """A recipe with one to three mutations, as bytes, and what they were."""
    lines, done = [*HEAD.splitlines(), *RECIPE.splitlines()], []
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice([_cut, _typo, _odd, _raise, _return, _import, _dedent, _twice, _point])
        done.append(f"{kind.__name__.strip('_')} {kind(lines, rng)}")
    text = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        done.append("bytes that are no UTF-8")
        text = text.replace(b"bytes", b"\xff\xfe")
    if rng.random() < 0.03:
        done.append("a NUL")
        text += b"\0"
    return text, ", ".join(done)


def judged(target: str) -> str:
    """What comes of the recipe as a run, then of its sweep."""
    outcomes = [
        _read(lambda: to_json(build_run(load_recipe(target)))),
        _read(lambda: grid.load(target)),
    ]
    return next(
        (o for o in outcomes if o not in (ACCEPTED, REFUSED)),
        REFUSED if REFUSED in outcomes else ACCEPTED,
    )


def _read(read: Callable) -> str:
    try:
        read()
    except UserError as error:
        said = str(error)
        return (
            REFUSED if said.isprintable() and len(said) < 2000 else f"not one line: {said[:400]!r}"
        )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__}: {str(error)[:200]} in {place.name}, line {place.lineno}"
    return ACCEPTED


def _content(folder: Path) -> dict[str, bytes]:
    """Every file but what Python itself keeps of imported ones."""
    return {
        str(p): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


# ------------------------------------------------------------------------------------------------------------- mutations


def _at(lines: list[str], rng: random.Random) -> int:
    return rng.randrange(len(HEAD.splitlines()), len(lines))


def _cut(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    line, keep = lines[at], rng.randint(0, len(lines[at]))
    lines[at] = line[:keep]
    return f"{line!r} after {keep}"


def _typo(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    letters = list(lines[at])
    if not letters:
        return "of nothing"
    where = rng.randrange(len(letters))
    letters[where] = rng.choice(("", "x", "'", ",", "(", ":", "\u00e9", letters[where] * 2))
    lines[at] = "".join(letters)
    return repr(lines[at])


def _odd(lines: list[str], rng: random.Random) -> str:
    at = rng.choice([i for i, line in enumerate(lines) if "': " in line] or [_at(lines, rng)])
    name, value = lines[at].partition(": ")[0], rng.choice(ODD)
    lines[at] = f"{name}: {value},"
    return lines[at].strip()


def _raise(lines: list[str], rng: random.Random) -> str:
    at, what = _at(lines, rng), rng.choice(RAISED)
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    if "Odd" in what and not any(line.startswith("class Odd") for line in lines):
        lines[:0] = BEFORE.splitlines()
        at += len(BEFORE.splitlines())
    lines.insert(at, f"{indent}raise {what}")
    return what


def _return(lines: list[str], rng: random.Random) -> str:
    returns, value = (
        [i for i, line in enumerate(lines) if line.lstrip().startswith("return ")],
        rng.choice(ODD),
    )
    if returns:
        lines[rng.choice(returns)] = f"    return {value}"
    return value


def _import(lines: list[str], rng: random.Random) -> str:
    what = rng.choice(IMPORTS)
    lines.insert(0, what)
    return what


def _dedent(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    lines[at] = lines[at].lstrip() if rng.random() < 0.5 else "   " + lines[at]
    return repr(lines[at])


def _twice(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    lines.insert(at, lines[at])
    return repr(lines[at])


def _point(lines: list[str], rng: random.Random) -> str:
    made = rng.choice(
        (
            "point('..', {})",
            "point(3, {})",
            "point('logs', {})",
            "over('optim.lr')",
            "over('optim.lr', '')",
            "over('', 1)",
            "point('a', 3)",
        )
    )
    made = rng.choice(
        (
            made,
            "over('optim..lr', 1)",
            "over('steps.x', 1)",
            "repeat([], seeds=2)",
            "[3]",
            "over('data.batch', float('nan'))",
            "over(3, 1)",
        )
    )
    lines[-1] = f"    return {made}"
    return made
