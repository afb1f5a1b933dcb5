"""Mutated recipe files: lines cut, names misspelt, odd values, exceptions, wrong types, imports.

Each is read as train and sweep read it.
"""

import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from dlm.core.config import load_recipe, to_json
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import ACCEPTED, GOOD, REFUSED, Cases, joint
from dlm.sweeps import grid

# Expressions, as they may be in a recipe.
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
    "StopIteration",
    "OSError(28, 'full')",
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')",
    "AssertionError",
    "GeneratorExit()",
)
# An exception that cannot be printed.
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
# Points of a sweep that are wrong: one of these or, more often, one of the others.
POINTS = (
    "point('..', {})",
    "point(3, {})",
    "point('logs', {})",
    "over('optim.lr')",
    "over('optim.lr', '')",
    "over('', 1)",
    "point('a', 3)",
)
MORE_POINTS = (
    "over('optim..lr', 1)",
    "over('steps.x', 1)",
    "repeat([], seeds=2)",
    "[3]",
    "over('data.batch', float('nan'))",
    "over(3, 1)",
)
FILE_NAMES = ("r.py", "r.py", "a:b.py", "r\u00e9.py", "r b.py", "r")
ARGUMENTS = ("", "", ":size=tiny", ":")

Mutation = Callable[[list[str], random.Random], str]


def cases(seed: int, count: int, folder: Path) -> Cases:
    """Yields (mutation, outcome) of `count` recipe files."""
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        # Two modules beside the recipe, one of which is broken.
        place = Path(folder) / f"case {n}"
        place.mkdir(parents=True)
        (place / "helper.py").write_text("VALUE = 3\n")
        (place / "broken.py").write_text("VALUE = (3\n")
        text, mutation = mutated(rng)
        name = rng.choice(FILE_NAMES)
        (place / name).write_bytes(text)
        before = _content(place)
        outcome = judged(str(place / name) + rng.choice(ARGUMENTS))
        # Reading a recipe must not write beside it.
        if outcome in GOOD and _content(place) != before:
            outcome = "something in the recipe's folder was changed"
        yield f"{name}: {mutation}", outcome
        shutil.rmtree(place)


def mutated(rng: random.Random) -> tuple[bytes, str]:
    """Returns a recipe with one to three mutations, as bytes, and their description."""
    # HEAD gives the odd values what they need.
    lines = [*HEAD.splitlines(), *RECIPE.splitlines()]
    mutations = []
    for _ in range(rng.randint(1, 3)):
        mutate = rng.choice(MUTATIONS)
        name = mutate.__name__.strip("_")
        mutations.append(f"{name} {mutate(lines, rng)}")
    text = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        mutations.append("bytes that are no UTF-8")
        text = text.replace(b"bytes", b"\xff\xfe")
    if rng.random() < 0.03:
        mutations.append("a NUL")
        text += b"\0"
    return text, ", ".join(mutations)


def judged(target: str) -> str:
    """Returns the outcome of reading a recipe as a run, then as a sweep."""
    # A recipe of a sweep is a recipe of a run, too.
    as_run = _outcome(lambda: to_json(build_run(load_recipe(target))))
    as_sweep = _outcome(lambda: grid.load(target))
    return joint([as_run, as_sweep])


def _outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except UserError as error:
        text = str(error)
        if text.isprintable() and len(text) < 2000:
            return REFUSED
        return f"not one line: {text[:400]!r}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a recipe may raise SystemExit
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:200]}"
        return f"traceback: {text} in {place.name}, line {place.lineno}"
    return ACCEPTED


def _content(folder: Path) -> dict[str, bytes]:
    """Reads every file but what Python itself writes for imported ones."""
    content = {}
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            content[str(path)] = path.read_bytes()
    return content


# -------------------------------------------------------------------------------------- mutations


def _at(lines: list[str], rng: random.Random) -> int:
    return rng.randrange(len(HEAD.splitlines()), len(lines))


def _cut(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    line = lines[at]
    length = rng.randint(0, len(line))
    lines[at] = line[:length]
    return f"{line!r} after {length}"


def _typo(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    # One letter is lost, doubled or another.
    letters = list(lines[at])
    if not letters:
        return "of nothing"
    where = rng.randrange(len(letters))
    others = ("", "x", "'", ",", "(", ":", "\u00e9", letters[where] * 2)
    letters[where] = rng.choice(others)
    lines[at] = "".join(letters)
    return repr(lines[at])


def _odd(lines: list[str], rng: random.Random) -> str:
    fields = [i for i, line in enumerate(lines) if "': " in line]
    at = rng.choice(fields or [_at(lines, rng)])
    name = lines[at].partition(": ")[0]
    lines[at] = f"{name}: {rng.choice(ODD)},"
    return lines[at].strip()


def _raise(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    error = rng.choice(RAISED)
    line = lines[at]
    indent = line[: len(line) - len(line.lstrip())]
    # The class must be defined before it is raised, once.
    defined = any(line.startswith("class Odd") for line in lines)
    if "Odd" in error and not defined:
        definition = BEFORE.splitlines()
        lines[:0] = definition
        at += len(definition)
    lines.insert(at, f"{indent}raise {error}")
    return error


def _return(lines: list[str], rng: random.Random) -> str:
    returns = []
    for i, line in enumerate(lines):
        if line.lstrip().startswith("return "):
            returns.append(i)
    # Drawn in any case: the later draws do not depend on the lines.
    value = rng.choice(ODD)
    if returns:
        lines[rng.choice(returns)] = f"    return {value}"
    return value


def _import(lines: list[str], rng: random.Random) -> str:
    line = rng.choice(IMPORTS)
    lines.insert(0, line)
    return line


def _dedent(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    line = lines[at]
    lines[at] = line.lstrip() if rng.random() < 0.5 else "   " + line
    return repr(lines[at])


def _twice(lines: list[str], rng: random.Random) -> str:
    at = _at(lines, rng)
    lines.insert(at, lines[at])
    return repr(lines[at])


def _point(lines: list[str], rng: random.Random) -> str:
    first = rng.choice(POINTS)
    point = rng.choice((first, *MORE_POINTS))
    lines[-1] = f"    return {point}"
    return point


MUTATIONS: list[Mutation] = [
    _cut,
    _typo,
    _odd,
    _raise,
    _return,
    _import,
    _dedent,
    _twice,
    _point,
]
