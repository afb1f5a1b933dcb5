"""Mutated configs: fields are removed, retyped, renamed, negated or swapped.

Each config builds, or is refused in one line that names the field.
"""

import copy
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm.core.config import load_recipe, to_plain
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.drills.fuzzed import ACCEPTED, REFUSED, Cases

KINDS = ("remove", "retype", "rename", "negate", "swap")
# Values of every type that a config or a JSON file may have in the wrong place.
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    "",
    "nothing",
    (),
    (1, 2),
    [],
    {},
    {"name": "nothing"},
    {"a": {"b": 1}},
    b"x",
    10**30,
)
LONGEST = 60.0  # seconds that one case may take
UPDATES = 10  # how many of the configs that build make a real update as well
ROOT = Path(__file__).parents[3]

Place = tuple[
    dict, str, str
]  # a section, the key of a field in it, the field's dotted name


def cases(seed: int, count: int, folder: Path) -> Cases:
    """Yields (mutation, outcome) of `count` mutated recipes.

    The first `UPDATES` that build make a real update, too.
    """
    # Mutations of what is known to build.
    shipped = recipes()
    updates = 0
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        target = rng.choice(sorted(shipped))
        config, mutation = mutated(shipped[target], rng)
        outcome = judged(config)
        if outcome == ACCEPTED and updates < UPDATES:
            outcome = judged(config, real=True)
            updates += 1
        yield f"{target} {mutation}", outcome


def recipes() -> dict[str, dict]:
    """Returns the shipped recipes, but for those with a mesh of many devices.

    Only the small ones: sizes differ in numbers alone.
    """
    shipped = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        config = to_plain(load_recipe(str(path)))
        mesh = build_run(config).mesh
        if max(mesh.fsdp, mesh.tensor, mesh.expert) == 1:
            shipped[str(path)] = config
    return shipped


def mutated(config: dict, rng: random.Random) -> tuple[dict, str]:
    """Returns a copy with one to three mutations, and their description."""
    config = copy.deepcopy(config)
    mutations = []
    for _ in range(rng.randint(1, 3)):
        # Listed again after each mutation, which may remove some.
        places = list(_places(config))
        if not places:
            break
        kind = rng.choice(KINDS)
        place = rng.choice(places)
        mutations.append(f"{kind} {place[2]}")
        if kind == "swap":
            _swap(place, rng.choice(places))
        else:
            _mutate(kind, place, rng)
    return config, ", ".join(mutations)


def _mutate(kind: str, place: Place, rng: random.Random) -> None:
    section, key, _ = place
    match kind:
        case "remove":
            del section[key]
        case "retype":
            section[key] = copy.deepcopy(rng.choice(ODD))
        case "rename":
            # One letter too few, or one too many.
            name = key[:-1] if rng.random() < 0.5 else key + "s"
            section[name] = section.pop(key)
        case "negate":
            section[key] = _negative(section[key])


def _negative(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return -value
    return None


def _swap(a: Place, b: Place) -> None:
    section, key, name = a
    other, other_key, other_name = b
    # A section cannot change places with a field of its own.
    if name.startswith(other_name) or other_name.startswith(name):
        return
    section[key], other[other_key] = other[other_key], section[key]


def _places(config: dict, above: str = "config") -> Iterator[Place]:
    for key in list(config):
        if not isinstance(key, str):
            continue
        # Names as in an override on the command line.
        name = f"{above}.{key}"
        yield config, key, name
        if isinstance(config[key], dict):
            yield from _places(config[key], name)


def judged(config: dict, real: bool = False) -> str:
    """Returns the outcome of building a config and, when `real`, of one update."""
    began = time.perf_counter()
    outcome = _built(config, real)
    seconds = time.perf_counter() - began
    if seconds < LONGEST:
        return outcome
    return f"slow: {seconds:.0f} s, {outcome}"


def _built(config: dict, real: bool) -> str:
    import jax

    from dlm.app.experiment import Experiment

    try:
        run = build_run(config)
        # Shapes alone: nothing is allocated.
        state = Experiment(run, tokenizer=None).abstract_state()
        sizes = [x.size for x in jax.tree.leaves(state.params)]
        assert sum(sizes) > 0
        if real:
            _update(run)
    except UserError as error:
        text = str(error)
        if "\n" not in text and "config" in text:
            return REFUSED
        return f"refused without a field or in several lines: {text!r}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:300]}"
    return ACCEPTED


def _update(run: Run) -> None:
    import jax

    from dlm.app.experiment import Experiment

    # Everything that training does first, with real data.
    documents = run.data.source.documents("train")
    experiment = Experiment(run, run.text.fit(documents))
    batch = next(experiment.batches(0))
    jax.block_until_ready(experiment.update(experiment.new_state(), batch))
