"""What the law tests share.

Small worlds, denoisers given by tables, and the members of each family by listing its directory.
"""

import dataclasses
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
        np.asarray(jax.jit(world.log_prob)(all_sequences(world.size, world.length)), np.float64)
    )
    return p_X / p_X.sum()


def oracle_table(world):
    return np.asarray(jax.jit(lambda c: world.net(c).prediction.logits_BLV)(canvas(Z_ZL)))


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
        state_BL = (views(canvas, VOCAB.mask) * (V + 1) ** np.arange(L - 1, -1, -1)).sum(-1)
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
    return Batch(jnp.asarray(x_BL), ones, ones > 0, jnp.arange(B), layout, **more, total=total)


def rows(batch, which):
    """Some rows of a batch, in that order; they keep their global sample numbers."""
    return jax.tree.map(lambda a: np.asarray(a)[which], batch)


# ---------------------------------------------------------------------------------------- members


def listed(family):
    """The members of a family, by their files."""
    return member_names(family.replace("/", "."))


def choices(family, method):
    """A config for every member of `family` that has the method `wanted`, at every value of its
    fields that are choices.
    """
    configs = []
    for stem in listed(family):
        module = __import__(f"dlm.{family.replace('/', '.')}.{stem}", fromlist=["_"])
        for cls in exposed(module.__name__):
            if hasattr(cls, method):
                options = {
                    f.name: values
                    for f in dataclasses.fields(cls)
                    if (values := field_values(cls, f))
                }
                for values in itertools.product(*options.values()):
                    chosen = dict(zip(options, values, strict=True))
                    configs.append(dict(name=f"{family.replace('/', '.')}.{stem}") | chosen)
    return configs


def field_values(cls, f):
    """All values of a field that is a choice or names a noise schedule; of any other field none."""
    if f.metadata.get("family") == "noise.schedules":
        return listed("noise/schedules")
    hint = typing.get_type_hints(cls)[f.name]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def title(config):
    return "-".join(
        title(v) if isinstance(v, dict) else str(v).removeprefix("objectives.")
        for v in config.values()
    )


HALF = dict(name="noise.hybrid", uniform=0.5)
PROCESSES = [
    *choices("noise", "corrupt"),
    dict(name="noise.mask", schedule=dict(name="polynomial", power=1.5)),
    HALF,
]
LINEAR = [dict(name="noise.mask", schedule="linear"), dict(name="noise.mask", schedule="cosine")]
ABSORBING = [p for p in PROCESSES if build_member(p, "noise", VOCAB).final]
RULES = [
    r for r in choices("samplers/rules", "step") if r.get("order") != "given"
]  # that one is asked for in tests/laws/test_exact.py
EACH_RULE = list({r["name"]: r for r in reversed(RULES)}.values())  # with its first choices
INHERIT = (
    "prism",
    "priority",
    "proseco",
    "span",
)  # report masked diffusion's bound, as tests/laws/test_relations.py proves
SIZES = {
    "block": [dict(size=1), dict(size=2, context="causal"), dict(size=2)]
}  # of 3: tests/laws/test_relations.py
ONCE = SIZES["block"][:2]  # blocks of 2 tell what schedules and counts do to blocks
MIXED = [
    *LINEAR,
    *({"name": "noise.uniform", "schedule": s} for s in ("linear", "geometric")),
    dict(name="noise.hybrid"),
    HALF,
]
TRIED = {"masked": PROCESSES, "hybrid": MIXED}  # the others under a linear and a curved schedule


def objectives():
    """A config for every member of dlm/objectives with a bound of its own, with processes,
    patterns of masks and sizes that it takes.
    """
    for stem in listed("objectives"):
        name = f"objectives.{stem}"
        has = {f.name for f in dataclasses.fields(build_member(name, "objectives", VOCAB))}
        processes = [dict(process=p) for p in TRIED.get(stem, LINEAR)] if "process" in has else [{}]
        patterns = [{}, dict(pattern="count")] if "pattern" in has else [{}]
        for size, pattern, process in itertools.product(SIZES.get(stem, [{}]), patterns, processes):
            if stem in INHERIT or (size in ONCE and (pattern or process != processes[0])):
                continue
            try:
                build_member(
                    member := dict(name=name) | process | pattern | size, "objectives", VOCAB
                )
            except UserError:  # refused by name: tests/laws/test_axes.py
                continue
            yield member


OBJECTIVES = list(objectives())


PLAINEST = ("ar", "masked", "mask", "ancestral")


def first_of_each(argument, configs):
    """Every config, where each costs seconds of compilation.

    The fast half takes the first of the plainest members.
    """
    first = {
        c["name"]: c for c in reversed(configs) if c["name"].split(".")[1] in PLAINEST
    }.values()
    marks = [() if any(c is f for f in first) else pytest.mark.slow for c in configs]
    return pytest.mark.parametrize(
        argument,
        [pytest.param(c, id=title(c), marks=m) for c, m in zip(configs, marks, strict=True)],
    )


# one for each way to train, where schedules and sizes do not matter
TRAINED = {
    (c["name"], c.get("pattern")): c
    for c in [*OBJECTIVES, *(dict(name=f"objectives.{stem}") for stem in INHERIT)]
}
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
    return np.bincount((np.asarray(x_BL) * V ** np.arange(L - 1, -1, -1)).sum(1), minlength=V**L)
