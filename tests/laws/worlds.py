"""What the law tests share.

Small worlds, denoisers given by tables, and the members of each family by listing its directory.
"""

import contextlib
import dataclasses
import importlib
import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.config import build_member
from dlm.core.contracts import Batch, Dense, Layout, Output
from dlm.core.errors import UserError
from dlm.core.families import exposed, member_names
from dlm.oracle.enumeration import all_sequences, alphabet
from dlm.oracle.hmm import Hmm
from dlm.oracle.markov import Markov
from dlm.oracle.tabular import Tabular
from dlm.oracle.world import views
from tests import tiny

V, L = 3, 3
WORLDS = [
    Tabular.random(V, L, seed=0),
    Markov.random(V, L, seed=1),
    Hmm.random(2, V, L, seed=2, spread=2.0),
]
VOCAB = WORLDS[0].vocab
X_XL = all_sequences(V, L)
Z_ZL = alphabet(VOCAB)[all_sequences(V + 1, L)]


# -------------------------------------------------------------------------------------- denoisers


def canvas(z_BL, visibility=None, **arrays):
    return tiny.canvas(z_BL, 1.0, visibility, **arrays)


def law(world):
    """p_X, in float64."""
    p_X = np.exp(
        np.asarray(
            jax.jit(world.log_prob)(all_sequences(world.size, world.length)), np.float64
        )
    )
    return p_X / p_X.sum()


def oracle_table(world):
    return np.asarray(
        jax.jit(lambda c: world.net(c).prediction.logits_BLV)(canvas(Z_ZL))
    )


def random_table(seed):
    """Dense with nothing true in them."""
    table_ZLV = np.full((len(Z_ZL), L, VOCAB.size), -np.inf, np.float32)
    table_ZLV[..., :V] = 2 * np.random.default_rng(seed).normal(size=(len(Z_ZL), L, V))
    return table_ZLV


def table_net(tables_KZLV):
    """A network that reads its logits from table K, as seen through the visibility.

    K is the segment less 1, 0 without segments.
    """

    def net(canvas):
        state_BL = (
            views(canvas, VOCAB.mask) * (V + 1) ** np.arange(L - 1, -1, -1)
        ).sum(-1)
        segments_BL = canvas.layout.segments_BL
        table_BL = jnp.zeros_like(state_BL) if segments_BL is None else segments_BL - 1
        judged_BL = 0.1 * state_BL - 1  # as a judge would say something of every token
        return Output(
            Dense(jnp.asarray(tables_KZLV)[table_BL, state_BL, np.arange(L)]),
            heads=dict(quality=judged_BL),
        )

    return net


# tables 0, 1, 2: the exact posteriors of WORLDS; 3, 4: random
TABLES = np.stack([*map(oracle_table, WORLDS), random_table(3), random_table(4)])
tables = table_net(TABLES)


def for_table(k, rows):
    """A layout that names table k."""
    return Layout(np.full((rows, L), k + 1, np.int32))


def for_tables(count, rows):
    """A layout that names each table for so many rows."""
    return Layout(
        np.repeat(np.arange(1, count + 1, dtype=np.int32), rows)[:, None]
        + np.zeros((1, L), np.int32)
    )


def batch_of(x_BL, layout=None, total=None, **more):
    B = len(x_BL)
    ones = jnp.ones(x_BL.shape)
    layout, total = layout or Layout(), total or B
    return Batch(
        jnp.asarray(x_BL), ones, ones > 0, jnp.arange(B), layout, **more, total=total
    )


def rows(batch, which):
    """Some rows of a batch, in that order; they keep their global sample numbers."""
    return jax.tree.map(lambda a: np.asarray(a)[which], batch)


# ---------------------------------------------------------------------------------------- members


def listed(family):
    """The members of a family, by their files."""
    return member_names(family.replace("/", "."))


def choices(family, method):
    """A config for every member that has this method, at every value of its choices."""
    room = family.replace("/", ".")
    configs = []
    for stem in listed(family):
        module = importlib.import_module(f"dlm.{room}.{stem}")
        for cls in exposed(module.__name__):
            if hasattr(cls, method):
                configs += _configs(cls, f"{room}.{stem}")
    return configs


def _configs(cls, name):
    """A config for every combination of a member's choices."""
    options = {}
    for field in dataclasses.fields(cls):
        values = field_values(cls, field)
        if values:
            options[field.name] = values
    configs = []
    for values in itertools.product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        configs.append(dict(name=name) | chosen)
    return configs


def field_values(cls, field):
    """All values of a field that is a choice or names a noise schedule; of others none."""
    if field.metadata.get("family") == "noise.schedules":
        return listed("noise/schedules")
    hint = typing.get_type_hints(cls)[field.name]
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return ()


def title(config):
    """A test's name: the values of its config."""
    words = []
    for value in config.values():
        word = title(value) if isinstance(value, dict) else str(value)
        words.append(word.removeprefix("objectives."))
    return "-".join(words)


HALF = dict(name="noise.hybrid", uniform=0.5)
CURVED = dict(name="noise.mask", schedule=dict(name="polynomial", power=1.5))
PROCESSES = [*choices("noise", "corrupt"), CURVED, HALF]
LINEAR = [dict(name="noise.mask", schedule=name) for name in ("linear", "cosine")]
UNIFORM = [
    dict(name="noise.uniform", schedule=name) for name in ("linear", "geometric")
]
MIXED = [*LINEAR, *UNIFORM, dict(name="noise.hybrid"), HALF]
ABSORBING = [p for p in PROCESSES if build_member(p, "noise", VOCAB).final]
# The given order has a test of its own, tests/laws/test_exact.py.
RULES = [r for r in choices("samplers/rules", "step") if r.get("order") != "given"]
# Each rule with its first choices.
EACH_RULE = list({r["name"]: r for r in reversed(RULES)}.values())
# These report masked diffusion's bound, as tests/laws/test_relations.py proves.
INHERIT = ("prism", "priority", "proseco", "span")
# Blocks of 3 are another test's, tests/laws/test_relations.py.
SIZES = {"block": [dict(size=1), dict(size=2, context="causal"), dict(size=2)]}
# Blocks of 2 show what schedules and counts do to blocks.
ONCE = SIZES["block"][:2]
# All others are tried under a linear and a curved schedule.
TRIED = {"masked": PROCESSES, "hybrid": MIXED}
NONE = [{}]  # one choice: nothing is set


def objectives():
    """A config for every objective with a bound of its own.

    Each is tried with the processes, patterns of masks and sizes that it accepts.
    """
    for stem in listed("objectives"):
        if stem in INHERIT:
            continue
        name = f"objectives.{stem}"
        fields = dataclasses.fields(build_member(name, "objectives", VOCAB))
        names = {field.name for field in fields}
        processes, patterns = NONE, NONE
        if "process" in names:
            processes = [dict(process=p) for p in TRIED.get(stem, LINEAR)]
        if "pattern" in names:
            patterns = [{}, dict(pattern="count")]
        sizes = SIZES.get(stem, NONE)
        for size, pattern, process in itertools.product(sizes, patterns, processes):
            if size in ONCE and (pattern or process != processes[0]):
                continue
            member = dict(name=name) | process | pattern | size
            # What is refused by name is a test of tests/laws/test_axes.py.
            with contextlib.suppress(UserError):
                build_member(member, "objectives", VOCAB)
                yield member


OBJECTIVES = list(objectives())


PLAINEST = ("ar", "masked", "mask", "ancestral")


def first_of_each(argument, configs):
    """Every config, where each costs seconds of compilation.

    The fast half takes the first of the plainest members.
    """
    plain = [c for c in reversed(configs) if c["name"].split(".")[1] in PLAINEST]
    first = list({c["name"]: c for c in plain}.values())
    parameters = []
    for config in configs:
        fast = any(config is f for f in first)
        marks = () if fast else pytest.mark.slow
        parameters.append(pytest.param(config, id=title(config), marks=marks))
    return pytest.mark.parametrize(argument, parameters)


# One for each way to train, where schedules and sizes do not matter.
INHERITED = [dict(name=f"objectives.{stem}") for stem in INHERIT]
TRAINED = {(c["name"], c.get("pattern")): c for c in [*OBJECTIVES, *INHERITED]}
one_of_each = first_of_each("member", list(TRAINED.values()))


def objective(config, **more):
    return build_member(config | more, "objectives", VOCAB)


def process(config):
    return build_member(config, "noise", VOCAB)


def oracle(k, process):
    """The denoiser with which the bound of this process reaches −log p of WORLDS[k]."""
    return (
        WORLDS[k].under(process)
        if process is not None and not process.final
        else table_net(TABLES[k : k + 1])
    )


def chi_square(counts_X, p_X):
    """Upper-tail probability of the counts under p; cells expected below 5 are pooled."""
    from scipy.stats import chi2

    expected_X = np.asarray(p_X, np.float64) / np.sum(p_X) * counts_X.sum()
    small = expected_X < 5
    counts_X = np.append(counts_X[~small], counts_X[small].sum())
    expected_X = np.append(expected_X[~small], expected_X[small].sum())
    counts_X, expected_X = counts_X[expected_X > 0], expected_X[expected_X > 0]
    return chi2.sf(((counts_X - expected_X) ** 2 / expected_X).sum(), len(counts_X) - 1)


def counts(x_BL):
    return np.bincount(
        (np.asarray(x_BL) * V ** np.arange(L - 1, -1, -1)).sum(1), minlength=V**L
    )
