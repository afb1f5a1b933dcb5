"""The exact law of a chain's bigrams under ancestral sampling.

That of the enumerated law, for any schedule and number of steps.
"""

import dataclasses

import numpy as np
import pytest

from dlm.core.errors import UserError
from dlm.nn.visibility.full import Full
from dlm.oracle.enumeration import all_sequences, ancestral_law
from dlm.oracle.factorization_gap import ancestral_bigrams
from dlm.oracle.markov import Markov
from tests.laws import worlds as w

STEPS = (1, 2, 5)


def bigrams(law_X, world):
    """The mean over i of the law of (x_i, x_{i+1})."""
    x_XL, laws_VV = (
        all_sequences(world.size, world.length),
        np.zeros((world.size, world.size)),
    )
    for i in range(world.length - 1):
        np.add.at(laws_VV, (x_XL[:, i], x_XL[:, i + 1]), law_X / (world.length - 1))
    return laws_VV


@pytest.mark.parametrize(
    "schedule", ["linear", pytest.param("cosine", marks=pytest.mark.slow)]
)
def test_bigrams_are_those_of_the_enumerated_law(schedule):
    world, process = (
        Markov.random(3, 4, seed=1, spread=2.0),
        w.process(dict(name="mask", schedule=schedule)),
    )
    process = dataclasses.replace(process, vocab=world.vocab)
    laws = ancestral_bigrams(world, process, STEPS)
    for steps, laws_VV in zip(STEPS, laws, strict=True):
        law_X = ancestral_law(
            world.net, process, Full(), steps, world.vocab, world.length
        )
        np.testing.assert_allclose(laws_VV, bigrams(law_X, world), atol=2e-6)
    assert np.abs(laws[0] - world.bigrams()).max() > 0.01, (
        "one step is seen to differ, else this test sees nothing"
    )


def test_many_steps_lead_to_the_chain_itself():
    world = Markov.sparse(5, 12, ways=2, seed=0)
    process = type(w.process(dict(name="mask")))(vocab=world.vocab)
    few, many = ancestral_bigrams(world, process, (4, 400))
    impossible_VV = world.bigrams() < 1e-5
    np.testing.assert_allclose(
        [few.sum(), many.sum(), world.bigrams().sum()], 1, atol=1e-6
    )
    assert (
        impossible_VV.sum() == 15
        and few[impossible_VV].sum() > 0.05 > 0.01 > many[impossible_VV].sum()
    )
    hard = Markov(
        world.length,
        world.start_S,
        np.where(impossible_VV, -np.inf, world.step_SS).astype(np.float32),
    )
    with pytest.raises(UserError, match="give a chain without"):
        ancestral_bigrams(hard, process, (4,))
    with pytest.raises(UserError, match="ways=5"):
        Markov.sparse(5, 12, ways=5)
