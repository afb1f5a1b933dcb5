"""Mutated configs: fields removed, retyped, renamed, negated or swapped. Each builds or is refused in one line that names the field."""

import copy
import random
import time
from collections.abc import Iterator
from pathlib import Path

from dlm.core.config import load_recipe, to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import ACCEPTED, REFUSED

KINDS = ("remove", "retype", "rename", "negate", "swap")
ODD = (
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


def cases(seed: int, count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (mutation, outcome) of `count` mutated recipes; the first `UPDATES` that build also make a real update."""
    shipped, updates = recipes(), 0
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        target = rng.choice(sorted(shipped))
        config, done = mutated(shipped[target], rng)
        outcome = judged(config)
        if outcome == ACCEPTED and updates < UPDATES:
            outcome = judged(config, real=True)
            updates += 1
        yield f"{target} {done}", outcome


def recipes() -> dict[str, dict]:
    """Every shipped recipe, the small ones; sizes differ in numbers only. Those with a mesh of many devices are left out."""
    shipped = {
        str(p): to_plain(load_recipe(str(p))) for p in sorted((ROOT / "configs").glob("*.py"))
    }
    mesh = {name: build_run(config).mesh for name, config in shipped.items()}
    return {
        name: config
        for name, config in shipped.items()
        if max(mesh[name].fsdp, mesh[name].tensor, mesh[name].expert) == 1
    }


def mutated(config: dict, rng: random.Random) -> tuple[dict, str]:
    """A copy with one to three mutations, and what they were."""
    config, told = copy.deepcopy(config), []
    for _ in range(rng.randint(1, 3)):
        places = list(_places(config))
        if not places:
            break
        kind, (parent, key, dotted) = rng.choice(KINDS), rng.choice(places)
        told.append(f"{kind} {dotted}")
        if kind == "remove":
            del parent[key]
        elif kind == "retype":
            parent[key] = copy.deepcopy(rng.choice(ODD))
        elif kind == "rename":
            parent[key[:-1] if rng.random() < 0.5 else key + "s"] = parent.pop(key)
        elif kind == "negate":
            value = parent[key]
            parent[key] = (
                (not value)
                if isinstance(value, bool)
                else -value
                if isinstance(value, (int, float))
                else None
            )
        else:
            other, name, at = rng.choice(places)
            if not (dotted.startswith(at) or at.startswith(dotted)):
                parent[key], other[name] = other[name], parent[key]
    return config, ", ".join(told)


def _places(config: dict, above: str = "config"):
    for key in list(config):
        if isinstance(key, str):
            yield config, key, f"{above}.{key}"
            if isinstance(config[key], dict):
                yield from _places(config[key], f"{above}.{key}")


def judged(config: dict, real: bool = False) -> str:
    """Whether a config builds and, when `real`, makes an update; or is refused in one line that names a field; or what is wrong."""
    import jax

    from dlm.app.experiment import Experiment

    began = time.perf_counter()
    try:
        run = build_run(config)
        state = Experiment(run, tokenizer=None).abstract_state()
        assert sum(x.size for x in jax.tree.leaves(state.params)) > 0
        outcome = ACCEPTED
        if real:
            experiment = Experiment(run, run.text.fit(run.data.source.documents("train")))
            jax.block_until_ready(
                experiment.update(experiment.new_state(), next(experiment.batches(0)))
            )
    except UserError as error:
        words = str(error)
        outcome = (
            REFUSED
            if "\n" not in words and "config" in words
            else f"refused without a field or in several lines: {words!r}"
        )
    except Exception as error:
        outcome = f"traceback: {type(error).__name__}: {str(error)[:300]}"
    seconds = time.perf_counter() - began
    return outcome if seconds < LONGEST else f"slow: {seconds:.0f} s, {outcome}"
