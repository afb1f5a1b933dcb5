"""Search among a sweep's points with Optuna instead of running all: every label is a choice, runs that differ in their seed are one try.

Where all points have equally many labels, as those of a product have, each position is a categorical parameter of its own.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from dlm.core.errors import UserError
from dlm.sweeps.grid import Point

_IDLE = 20  # tries already made that the sampler may suggest in a row before it is handed a new one


def search(
    points: Sequence[Point],
    tries: int,
    score: Callable[[list[Point]], float | None],
    maximize: bool = False,
    seed: int = 0,
) -> dict:
    """{name of the try: score}, best first; `score` gets the points of a try, one for each seed, and None counts as failed.

    Raises UserError where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("--search needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    groups = _groups(points)
    same = len({len(key) for key in groups}) == 1
    keys = (
        groups
        if same
        else {("-".join(key),): chosen_points for key, chosen_points in groups.items()}
    )
    choices = [sorted(set(labels)) for labels in zip(*keys, strict=True)]
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, tries // 3))
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    scores, idle, rng = {}, 0, random.Random(seed)
    while len(scores) < min(tries, len(keys)):
        if idle > _IDLE:
            new = rng.choice([key for key in keys if key not in scores])
            study.enqueue_trial({f"choice {i}": label for i, label in enumerate(new)})
        trial = study.ask()
        key = tuple(
            trial.suggest_categorical(f"choice {i}", labels) for i, labels in enumerate(choices)
        )
        idle = idle + 1 if key in scores or key not in keys else 0
        if key in keys and key not in scores:
            scores[key] = score(keys[key])
        value = scores.get(key)
        study.tell(trial, *([value] if _good(value) else [None, optuna.trial.TrialState.FAIL]))
    order = sorted(
        scores,
        key=lambda key: (
            not _good(scores[key]),
            (scores[key] if _good(scores[key]) else 0) * (-1 if maximize else 1),
        ),
    )
    return {"-".join(key): scores[key] for key in order}


def _good(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _groups(points: Sequence[Point]) -> dict[tuple[str, ...], list[Point]]:
    """The points by their labels, but for the seed's."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for p in points:
        groups[
            tuple(label for label in p.labels if not label.startswith("seed=")) or ("run",)
        ].append(p)
    return dict(groups)
