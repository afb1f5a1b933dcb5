"""Searches a sweep's points with Optuna instead of running all of them.

Each label is a choice; runs that differ only in their seed are one trial. Where all points have
equally many labels, as those of a product have, each position is a categorical parameter.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from dlm.core.errors import UserError
from dlm.sweeps.grid import Point

# So often in a row may the sampler suggest a trial that was run before it is given a new one.
_IDLE = 20

Labels = tuple[str, ...]
Groups = dict[Labels, list[Point]]
Score = Callable[[list[Point]], float | None]


def search(
    points: Sequence[Point],
    trials: int,
    score: Score,
    maximize: bool = False,
    seed: int = 0,
) -> dict[str, float | None]:
    """Returns {name of the trial: score}, best first.

    Args:
        points: of the sweep
        trials: the number of different trials to run
        score: called with the points of a trial, one for each seed; None counts as a failure
        maximize: whether the largest score is best
        seed: of the sampler

    Raises UserError where Optuna is not installed.
    """
    optuna = _optuna()
    groups = _groups(points)
    # Position i of the labels is one categorical parameter.
    labels = list(zip(*groups, strict=True))
    choices = [sorted(set(position)) for position in labels]
    # A third of the trials is random, before the sampler models the score.
    startup = max(3, trials // 3)
    study = optuna.create_study(
        direction="maximize" if maximize else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
    )
    scores: dict[Labels, float | None] = {}
    idle = 0
    rng = random.Random(seed)
    while len(scores) < min(trials, len(groups)):
        # A sampler that is sure of its optimum would suggest it for ever.
        if idle > _IDLE:
            new = rng.choice([key for key in groups if key not in scores])
            study.enqueue_trial({_parameter(i): label for i, label in enumerate(new)})
        trial = study.ask()
        key = _suggested(trial, choices)
        is_new = key in groups and key not in scores
        idle = 0 if is_new else idle + 1
        if is_new:
            scores[key] = score(groups[key])
        value = scores.get(key)
        # A failure is reported too, so that the sampler avoids its neighbourhood.
        if _good(value):
            study.tell(trial, value)
        else:
            study.tell(trial, None, optuna.trial.TrialState.FAIL)
    return _ordered(scores, maximize)


def _optuna() -> Any:
    # Only a search needs it, so it is no requirement.
    try:
        import optuna
    except ImportError:
        raise UserError("--search needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _parameter(i: int) -> str:
    return f"choice {i}"


def _suggested(trial: Any, choices: list[list[str]]) -> Labels:
    labels = []
    for i, options in enumerate(choices):
        label = trial.suggest_categorical(_parameter(i), options)
        labels.append(label)
    return tuple(labels)


def _ordered(
    scores: dict[Labels, float | None], maximize: bool
) -> dict[str, float | None]:
    """The scores by name, the best first and failures last."""
    sign = -1 if maximize else 1

    def rank(key: Labels) -> tuple[bool, float]:
        value = scores[key]
        if value is None or not math.isfinite(value):
            return True, 0.0
        return False, sign * value

    return {"-".join(key): scores[key] for key in sorted(scores, key=rank)}


def _good(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _groups(points: Sequence[Point]) -> Groups:
    """The points by their labels, without the seed's."""
    groups: Groups = {}
    for point in points:
        labels = [label for label in point.labels if not label.startswith("seed=")]
        key = tuple(labels) or ("run",)
        groups.setdefault(key, []).append(point)
    # Points of unequal length have no positions in common: their whole name is one choice.
    if len({len(key) for key in groups}) > 1:
        return {("-".join(key),): members for key, members in groups.items()}
    return groups
