"""Mutate every shipped config (remove, retype, rename, negate, swap): each either builds or is refused in one line that names the field.

python -m dlm.bench fuzz [--cases=2000] [--real=10] [--seed=N] [--json]
"""

import copy
import random
import time
from collections import Counter
from pathlib import Path

from dlm.run import cli, spec
from dlm.run.cli import Flag, say
from dlm.run.spec import UserError

FLAGS = [
    Flag("cases", "mutated configs", default=2000, type=int),
    Flag("real", "how many of those that build make a real update as well", default=10, type=int),
    Flag("seed", "of the mutations", default=0, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]
KINDS = ("remove", "retype", "rename", "negate", "swap")
ODD = (None, True, -1, 0, 1.5, float("nan"), "", "nothing", (), (1, 2), [], {}, {"name": "nothing"}, {"a": {"b": 1}}, b"x", 10**30)
GOOD = ("builds", "makes an update", "refused")
LONGEST = 60.0  # seconds that one case may take
ROOT = Path(__file__).parents[2]


def main(argv: list[str] | None = None) -> int:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if args.cases < 1:
        raise UserError(f"--cases={args.cases} must be at least 1")
    shipped, outcomes, faults = recipes(), Counter(), []
    for n in range(args.cases):
        rng = random.Random(f"{args.seed} {n}")
        target = rng.choice(sorted(shipped))
        config, done = mutated(shipped[target], rng)
        outcome = judged(config)
        if outcome == "builds" and outcomes["makes an update"] < args.real:
            outcome = judged(config, real=True)
        outcomes[outcome.split(":")[0]] += 1
        if outcome not in GOOD:
            faults.append(f"{target} {done}: {outcome}")
            say(faults[-1])
    say(f"{args.cases} cases: " + ", ".join(f"{n} {k}" for k, n in outcomes.most_common()))
    if args.json:
        cli.emit(dict(cases=args.cases, outcomes=dict(outcomes), faults=faults))
    return int(bool(faults))


def recipes() -> dict[str, dict]:
    """Every shipped recipe, the small ones; sizes differ in numbers only. Those with a mesh of many devices are left out."""
    shipped = {str(p): spec.plain(spec.recipe(str(p))) for p in sorted((ROOT / "configs").glob("*.py"))}
    mesh = {name: spec.run(config).mesh for name, config in shipped.items()}
    return {name: config for name, config in shipped.items() if max(mesh[name].fsdp, mesh[name].tensor, mesh[name].expert) == 1}


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
            parent[key] = (not value) if isinstance(value, bool) else -value if isinstance(value, (int, float)) else None
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
    """'builds' (or, when `real`, 'makes an update'), 'refused' (one line that names a field), or what is wrong with the answer."""
    import jax

    from dlm.run.assemble import Experiment

    began = time.perf_counter()
    try:
        run = spec.run(config)
        state = Experiment(run, tokenizer=None).abstract_state()
        assert sum(x.size for x in jax.tree.leaves(state.params)) > 0
        outcome = "builds"
        if real:
            experiment = Experiment(run, run.text.fit(run.data.source.documents("train")))
            jax.block_until_ready(experiment.update(experiment.new_state(), next(experiment.batches(0))))
            outcome = "makes an update"
    except UserError as error:
        words = str(error)
        outcome = "refused" if "\n" not in words and "config" in words else f"refused without a field or in several lines: {words!r}"
    except Exception as error:
        outcome = f"traceback: {type(error).__name__}: {str(error)[:300]}"
    seconds = time.perf_counter() - began
    return outcome if seconds < LONGEST else f"slow: {seconds:.0f} s, {outcome}"
