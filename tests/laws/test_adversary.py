"""No network there could be spends more than one.

An adversary maximises Σ_x exp(−bound(x)) over a free table of logits.

It also proves that the ascent climbs, since what is a bound is reached; and it sees planted wrong
members, each at its own exact value.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import pytest

from dlm.core.config import build_member
from dlm.core.contracts import Canvas
from dlm.core.vocab import Vocab
from dlm.nn.visibility.full import Full
from dlm.noise.schedules.geometric import Geometric
from dlm.objectives.masked import Masked
from dlm.oracle.adversary import spent
from tests.laws import worlds as w

SMALL = Vocab(
    size=5, bos=3, eos=1, pad=4, mask=2
)  # two tokens: noise on tokens has many states
NODES = {Geometric(): 48}  # so steep that 12 points in time miss a part of its cost


@w.first_of_each("member", w.OBJECTIVES)
def test_no_network_spends_more_than_one(member):
    absorbing = member.get("process") is None or w.objective(member).process.final
    vocab = w.VOCAB if absorbing else SMALL
    objective = build_member(member, "objectives", vocab)
    schedule = None if objective.process is None else objective.process.schedule
    value = spent(objective, vocab, w.L, nodes=NODES.get(schedule, 12))
    assert 0.98 <= value <= 1 + (1e-4 if objective.claims == "exact" else 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "block"])
def test_nor_one_that_knows_the_time(name):
    member = next(c for c in w.OBJECTIVES if c["name"] == f"objectives.{name}")
    assert 0.98 <= spent(w.objective(member), w.VOCAB, w.L, timed=True) <= 1.002


@dataclass(frozen=True)
class DividedByMasked(Masked):
    """The mean over masked positions instead of their weighted sum."""

    def bound_nats(self, models, batch, z_BL, t_BL):
        masked_B1 = (z_BL == self.vocab.mask).sum(-1, keepdims=True)
        return super().bound_nats(models, batch, z_BL, t_BL) / jnp.maximum(masked_B1, 1)


@dataclass(frozen=True)
class Leaking(Masked):
    """The clean tokens reach the network in an array that no attention mask guards."""

    visibility: ClassVar = Full()

    def read(self, models, batch, z_BL, t_BL):
        target = dict(target_BL=batch.tokens_BL)
        return models.student(Canvas.of(batch, z_BL, t_BL, self.visibility, **target))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "value"), [(DividedByMasked, 3.6028), (Leaking, 27.0)]
)
def test_planted_wrong_members_are_seen_at_their_value(wrong, value):
    objective = wrong(process=w.process(w.LINEAR[0]), vocab=w.VOCAB)
    assert spent(objective, w.VOCAB, w.L) == pytest.approx(value, rel=0.02)
