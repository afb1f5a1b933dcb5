"""The oracle worlds agree with brute force over every sequence; everything else here leans on
them.
"""

import inspect

import jax
import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.nn.visibility.block import Block
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.nn.visibility.partition import Partition
from dlm.oracle.enumeration import all_sequences, total_variation
from dlm.oracle.hmm import Hmm
from dlm.oracle.markov import Markov
from dlm.oracle.sampler_worlds import Table
from dlm.oracle.tabular import Tabular
from dlm.oracle.world import views
from dlm.samplers.guidance import guided
from tests import tiny
from tests.laws import worlds as w
from tests.laws.worlds import canvas, chi_square

SOME = [
    Tabular.random(3, 3, seed=5),
    Markov.random(3, 4, seed=6),
    Hmm.random(2, 3, 4, seed=7, spread=2.0),
]
worlds = pytest.mark.parametrize("world", SOME, ids=lambda w: type(w).__name__)


def chain_rule(world):
    """p_X from the definition of the world, one sequence at a time."""
    X_XL = all_sequences(world.size, world.length)
    if isinstance(world, Tabular):
        return np.exp(world.log_p_X.astype(np.float64))
    start_S, step_SS, emit_SV = (
        np.exp(a.astype(np.float64))
        for a in (world.start_S, world.step_SS, world.emit_SV)
    )
    p_X = []
    for x_L in X_XL:
        f_S = start_S * emit_SV[:, x_L[0]]
        for x in x_L[1:]:
            f_S = (f_S @ step_SS) * emit_SV[:, x]
        p_X.append(f_S.sum())
    return np.array(p_X)


@worlds
def test_log_prob_and_entropy(world):
    X_XL, p_X = all_sequences(world.size, world.length), chain_rule(world)
    log_p_X = np.asarray(jax.jit(world.log_prob)(X_XL), np.float64)
    assert abs(np.exp(log_p_X).sum() - 1) < 1e-6
    np.testing.assert_allclose(log_p_X, np.log(p_X), atol=2e-6)
    assert abs(world.entropy() + (p_X * np.log(p_X)).sum()) < 1e-6


@pytest.mark.slow
@worlds
def test_draws(world):
    p_X = chain_rule(world)
    place_L = world.size ** np.arange(world.length - 1, -1, -1)
    draw = jax.jit(
        world.sample,
        static_argnums=1,
        compiler_options={"xla_backend_optimization_level": 1},
    )  # running is what costs here
    drawn_X = np.bincount(
        (np.asarray(draw(jax.random.key(0), 50_000)) * place_L).sum(1),
        minlength=len(p_X),
    )
    assert chi_square(drawn_X, p_X) > 1e-4


@worlds
@pytest.mark.parametrize(
    "mask",
    [Full(), Causal(), Block(size=2)],
    ids=["full", "causal", "block"],
)
def test_posterior_is_the_enumerated_one(world, mask):
    X_XL, p_X = all_sequences(world.size, world.length), chain_rule(world)
    Z_ZL = all_sequences(world.size + 1, world.length)
    got_ZLV = np.asarray(
        jax.jit(lambda c: world.net(c).prediction.probs())(canvas(Z_ZL, mask))
    )
    view_ZLL = np.asarray(views(canvas(Z_ZL, mask), world.vocab.mask))
    for i in range(world.length):
        fits_ZX = (
            (view_ZLL[:, i, None] == X_XL) | (view_ZLL[:, i, None] == world.vocab.mask)
        ).all(-1)
        want_ZV = (fits_ZX * p_X) @ np.eye(world.size)[X_XL[:, i]]
        want_ZV /= want_ZV.sum(-1, keepdims=True)
        np.testing.assert_allclose(got_ZLV[:, i, : world.size], want_ZV, atol=2e-6)
    assert (got_ZLV[..., world.size :] == 0).all()


def sees(mask, two=True, **fields):
    """[L, L] of the positions 0 … 3 as text.

    A letter of z, its capital from the clean stream, a dot for nothing.
    """
    z_1L, clean_1L = np.array([[0, 1, 2, 3]]), np.array([[10, 11, 12, 13]])
    view_LL = np.asarray(
        views(
            canvas(z_1L, mask, clean_BL=clean_1L if two else z_1L, **fields),
            20,
        )
    )[0]
    return [
        "".join(
            "." if v == 20 else "abcd"[v % 10].upper() if v > 9 else "abcd"[v]
            for v in row
        )
        for row in view_LL
    ]


def test_who_sees_what():
    assert sees(Causal(), two=False) == ["....", "a...", "ab..", "abc."]
    assert sees(Block(size=2), two=False) == ["ab..", "ab..", "abcd", "abcd"]
    assert sees(Block(size=2)) == ["ab..", "ab..", "ABcd", "ABcd"]
    assert sees(Block(size=2), positions_BL=np.array([[0, 0, 1, 2]])) == [
        "a...",
        "Abc.",
        "Abc.",
        "ABCd",
    ]
    assert sees(Block(size=1), block_BL=np.array([[2, 0, 3, 1]])) == [
        "aB.D",
        ".b..",
        "ABcD",
        ".B.d",
    ]
    assert sees(Partition(), block_BL=np.array([[0, 1, 1, 0]])) == [
        ".BC.",
        "A..D",
        "A..D",
        ".BC.",
    ]


def test_impossible_evidence_gives_a_uniform_answer_not_nan():
    never = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    with np.errstate(divide="ignore"):
        world = Markov(3, np.log(np.full(3, 1 / 3)), np.log(never))
    z_1L = np.array([[0, 2, world.vocab.mask]])
    probs_LV = np.asarray(
        jax.jit(lambda c: world.net(c).prediction.probs())(canvas(z_1L))
    )[0]
    np.testing.assert_allclose(probs_LV[2, :3], 1 / 3, atol=1e-6)
    assert abs(world.entropy() - np.log(3) - 2 * np.log(2)) < 1e-6


def test_what_cannot_be_enumerated_is_said():
    with pytest.raises(UserError, match="too many"):
        Hmm.random(2, 3, 40).entropy()
    assert Markov.random(3, 40).entropy() > 0
    with pytest.raises(ValueError, match="shape"):
        Tabular(3, 3, np.zeros(26))


def test_total_variation():
    assert (
        total_variation([1, 0], [0, 1]) == 1
        and total_variation([0.5, 0.5], [0.75, 0.25]) == 0.25
    )


def test_every_network_is_called_with_a_canvas_alone():
    process, scene = w.process(dict(name="mask")), Table()
    nets = [tiny.net(tiny.model_config(), {}), w.tables, w.WORLDS[0].net, scene.net]
    nets += [w.WORLDS[0].under(process), guided(w.tables, 1.0, w.VOCAB)]
    for net in nets:
        parameters = inspect.signature(net).parameters.values()
        assert [(p.name, p.kind, p.default) for p in parameters] == [
            ("canvas", inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty)
        ]
