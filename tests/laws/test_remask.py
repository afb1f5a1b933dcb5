"""Tokens that come back as masks.

How many masks there are at each time, what the law tends to, and that wrong rates are seen.
"""

import dataclasses
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Canvas
from dlm.nn.visibility.full import Full
from dlm.oracle.enumeration import total_variation
from dlm.samplers import generator
from dlm.samplers.plan import Sampler
from dlm.samplers.remask.cap import Cap
from dlm.samplers.remask.loop import Loop
from tests.laws import worlds as w

REMASKS = [
    r for r in w.choices("samplers/remask", "sigma") if "quality" not in r["name"]
]  # that one needs a network that judges
NOISE = w.process(dict(name="mask"))
N = 8000
T = 12


def built(config):
    return build_member(config, "samplers.remask")


@cache
def drawn(remask, steps=T, table=1):
    """(x_BL, the share of tokens [T] that stand after each step, the share [T] of those before it
    that it masks) from blank canvases,

    by default under the oracle of the second world.
    """
    sampler = Sampler(
        rule=build_member("ancestral", "samplers.rules"), remask=remask, steps=steps
    )
    z_BL = jnp.full((N, w.L), w.VOCAB.mask, jnp.int32)
    canvas = Canvas(
        z_BL, jnp.ones(z_BL.shape), z_BL < 0, Full(), w.for_table(table, len(z_BL))
    )

    def run(canvas, key_B):
        return generator.generate(w.tables, sampler, NOISE, canvas, key_B, trace=True)

    done = jax.jit(run, compiler_options={"xla_backend_optimization_level": 1})(
        canvas, keys.per_sample(keys.root(0), jnp.arange(N))
    )
    z_TBL, _, _, count = done.trace
    stands_TBL = (
        np.concatenate([canvas.z_BL[None], z_TBL[: int(count)]]) != w.VOCAB.mask
    )
    remasked_T = (stands_TBL[:-1] & ~stands_TBL[1:]).sum((1, 2)) / np.maximum(
        stands_TBL[:-1].sum((1, 2)), 1
    )
    return np.asarray(done.canvas.z_BL), stands_TBL[1:].mean((1, 2)), remasked_T


PLAIN_T = 1 - np.arange(T - 1, -1, -1) / T  # α_s after each step


def excess(shares_T):
    """By how many standard errors the shares lie off those of the plain process, at most."""
    spread_T = np.sqrt(np.maximum(PLAIN_T * (1 - PLAIN_T), 1e-9) / (N * w.L))
    return (np.abs(shares_T - PLAIN_T)[:-1] / spread_T[:-1]).max()


@pytest.mark.slow
@pytest.mark.parametrize("config", REMASKS, ids=w.title)
def test_the_share_of_masks_is_that_of_the_plain_process_or_is_said_to_differ(config):
    strong = (
        dict(eta=0.5)
        if "eta" in {f.name for f in dataclasses.fields(built(config))}
        else dict(threshold=0.35)
    )
    remask = built(config | strong)
    x_BL, shares_T, _ = drawn(
        remask, table=3 if "threshold" in strong else 1
    )  # an oracle never doubts what stands
    assert (x_BL < w.V).all(), "no mask is left"
    off = excess(shares_T)
    assert off < 4.5 if remask.marginals == "kept" else off > 6
    if remask.marginals == "kept":
        plain_X = w.counts(drawn(None)[0]) / N
        p_X = w.law(w.WORLDS[1])
        assert (
            total_variation(w.counts(x_BL) / N, p_X)
            < total_variation(plain_X, p_X) + 0.01
        ), "with an oracle it does no harm"


@pytest.mark.slow
def test_by_how_much_the_share_of_masks_differs():
    """conf at σ_max.

    Two tokens in five fewer stand half-way, of three positions; loop: within its window the share
    is held at α.
    """
    _, conf_T, _ = drawn(built("confidence"))
    gap_T = PLAIN_T - conf_T
    assert 0.35 < gap_T.max() < 0.45
    assert (gap_T > -0.01).all()
    held = Loop(eta=0.5, begin=0.7, end=0.2, alpha=0.6)
    _, loop_T, _ = drawn(held, steps=20)
    inside = [
        k for k, s in enumerate(range(19, -1, -1)) if 0.2 <= s / 20 <= 0.7 - 1 / 20
    ]
    np.testing.assert_allclose(loop_T[inside], 0.6, atol=0.02)


def sigma(config, t, s):
    """σ of a step by its definition, with η = 0.5; α = 1 − t.

    None where it depends on the tokens.
    """
    kind = config["name"].rpartition(".")[2]
    strategy = config.get("strategy")
    most = min(1.0, s / max(1 - t, 1e-9))
    if kind == "switch":
        return sigma(dict(name=f".{strategy}"), t, s) if t <= 0.55 else 0.0
    if kind == "loop":  # α stands still at 0.9
        return 0.1 / 0.9 if t <= 0.55 and s >= 0.05 else 0.0
    return dict(cap=min(0.5, most), rescale=0.5 * most).get(kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [r for r in REMASKS if sigma(r, 0.5, 0.4) is not None], ids=w.title
)
def test_as_many_tokens_come_back_in_each_step_as_the_rule_says(config):
    _, shares_T, remasked_T = drawn(built(config | dict(eta=0.5)))
    want_T = [sigma(config, k / T, (k - 1) / T) for k in range(T, 0, -1)]
    stood_T = N * w.L * np.append(0, shares_T)[:-1]
    np.testing.assert_array_less(
        np.abs(remasked_T - want_T), 4 / np.sqrt(np.maximum(4 * stood_T, 1)) + 1e-6
    )
    assert (remasked_T[1:][np.array(want_T)[1:] == 0] == 0).all()
    assert max(want_T) > 0.1


@dataclass(frozen=True)
class Forgetful(Cap):
    """The mistake: tokens come back, and masks are revealed at the plain rate as if none did."""

    marginals = "kept"

    def sigma(self, output, view):
        return jnp.where(view.undecided(), 0.0, super().sigma(output, view))


@dataclass(frozen=True)
class Greedy(Cap):
    """Another: more than σ_max, so that reveal probabilities go past 1."""

    marginals = "kept"

    def sigma(self, output, view):
        return jnp.full_like(view.t_B[:, None], self.eta)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [Forgetful(0.3), Greedy(0.9)], ids=lambda r: type(r).__name__
)
def test_a_wrong_rate_is_seen(wrong):
    assert excess(drawn(wrong)[1]) > 6


@pytest.mark.slow
def test_rules_that_count_reveal_as_many_more_as_come_back():
    """Of 3 positions 1, 2, 3 stand after 3 steps, with every token coming back that may."""
    for rule in ("ordered", dict(name="confident", confidence="top")):
        sampler = Sampler(
            rule=build_member(rule, "samplers.rules"), remask=Cap(1.0), steps=3
        )
        z_BL = jnp.full((64, w.L), w.VOCAB.mask, jnp.int32)
        canvas = Canvas(
            z_BL, jnp.ones(z_BL.shape), z_BL < 0, Full(), w.for_table(1, len(z_BL))
        )

        run = partial(generator.generate, w.tables, sampler, NOISE, trace=True)
        done = jax.jit(run)(canvas, keys.per_sample(keys.root(0), jnp.arange(64)))
        z_TBL = np.asarray(done.trace[0])
        assert ((z_TBL != w.VOCAB.mask).sum(-1) == np.array([1, 2, 3])[:, None]).all()
        remasked_TBL = (z_TBL[:-1] != w.VOCAB.mask) & (z_TBL[1:] == w.VOCAB.mask)
        assert (remasked_TBL[0].sum(1) == 1).all()
