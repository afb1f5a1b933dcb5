"""Worlds to try samplers in: a law, a network that is its posterior up to an error, what few steps must cost, and what was drawn.

    table    V = 3, L = 4      every sequence can be counted: the law of what is drawn as a whole
    chain    V = 16, L = 64    each token has 4 successors: bigrams that cannot be are seen, and their law is known exactly

The floor is the law of ancestral sampling with the exact posterior, calculated (`exact.ancestral_law`, `gaps.ancestral_bigrams`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts import Canvas, Dense, Output
from dlm.nn.visibility import sees_all
from dlm.nn.visibility.full import Full
from dlm.noise.mask import MaskNoise
from dlm.oracle.enumeration import all_sequences, ancestral_law, total_variation
from dlm.oracle.factorization_gap import ancestral_bigrams
from dlm.oracle.markov import Markov
from dlm.oracle.tabular import Tabular
from dlm.oracle.world import World


class Scene(ABC):
    """A law with masks as its noise; `noise` is the standard deviation of the network's error, nats."""

    def __init__(self, law: World, noise: float = 0.0, seed: int = 0):
        self.law, self.noise, self.seed = law, noise, seed
        self.process = MaskNoise(vocab=law.vocab)
        self._wrong_VV = (
            np.random.default_rng(seed).normal(size=(law.size, law.size)).astype(np.float32)
        )

    @abstractmethod
    def floor(self, steps: Sequence[int]) -> list[dict[str, float]]:
        """What `measured` tends to under ancestral sampling with the exact posterior, for each number of steps."""

    @abstractmethod
    def measured(self, x_BL) -> dict[str, float]:
        """How far what was drawn is from p."""

    def net(self, canvas: Canvas) -> Output:
        """The posterior of each token given all others, also of tokens that stand; `quality` is what the best judge says of those.

        The error is a function of the posterior itself, log p(v) + noise Σ_u W_vu p(u) / ‖p‖ with a fixed normal W: the same
        wherever the same is seen, and another one as soon as something else is seen.
        """
        law, V = self.law, self.law.size
        canvas = replace(
            canvas, t_BL=jnp.full_like(canvas.t_BL, 0.5)
        )  # at time 1 a token that stands would be no evidence
        net = law.under(self.process) if sees_all(canvas.visibility) else law.net
        output = net(canvas)
        if self.noise:
            p_BLV = output.prediction.probs()[..., :V]
            error_BLV = (
                self.noise * p_BLV @ self._wrong_VV / jnp.linalg.norm(p_BLV, axis=-1, keepdims=True)
            )
            output = replace(
                output, prediction=Dense(output.prediction.logits_BLV.at[..., :V].add(error_BLV))
            )
        log_BL = output.prediction.log_prob(
            jnp.where(canvas.z_BL == law.vocab.mask, 0, canvas.z_BL)
        )
        odds_BL = log_BL - jnp.log(-jnp.expm1(jnp.minimum(log_BL, -1e-6)))
        return replace(output, heads=dict(quality=jnp.maximum(odds_BL, -80.0)))

    def own(self, draws: int) -> jax.Array:
        """Draws from p itself: what so few of them make of any law."""
        return jax.jit(lambda key: self.law.sample(key, draws))(
            keys.key(keys.root(self.seed), "own")
        )


class Table(Scene):
    """Total variation from p, and the entropy of what is drawn."""

    def __init__(self, noise: float = 0.0, seed: int = 0, size: int = 3, length: int = 4):
        super().__init__(Tabular.random(size, length, spread=2.0), noise, seed)
        self._p_X = np.exp(np.asarray(self.law.log_prob(all_sequences(size, length)), np.float64))

    def floor(self, steps):
        law = self.law
        return [
            self._measures(ancestral_law(law.net, self.process, Full(), n, law.vocab, law.length))
            for n in steps
        ]

    def measured(self, x_BL):
        V, L = self.law.size, self.law.length
        number_B = (np.asarray(x_BL) * V ** np.arange(L - 1, -1, -1)).sum(1)
        return self._measures(np.bincount(number_B, minlength=V**L) / len(number_B))

    def _measures(self, q_X):
        return dict(tv=total_variation(q_X, self._p_X), entropy=_entropy(q_X) / self.law.length)


class Chain(Scene):
    """Bigrams that cannot be, total variation of the bigrams from p's, and their conditional entropy."""

    def __init__(
        self,
        noise: float = 0.0,
        seed: int = 0,
        size: int = 16,
        length: int = 64,
        ways: int = 4,
        slip: float = 1e-6,
    ):
        super().__init__(Markov.sparse(size, length, ways, slip=slip), noise, seed)
        self._impossible_VV = self.law.step_SS < math.log(2 * slip / (size - ways))

    def floor(self, steps):
        return [self._measures(q_VV) for q_VV in ancestral_bigrams(self.law, self.process, steps)]

    def measured(self, x_BL):
        x_BL, V = np.asarray(x_BL), self.law.size
        pair_BL = x_BL[:, :-1] * V + x_BL[:, 1:]
        q_VV = np.bincount(pair_BL.ravel(), minlength=V * V).reshape(V, V) / pair_BL.size
        wrong_B = self._impossible_VV.ravel()[pair_BL].mean(1)
        return self._measures(q_VV) | dict(
            invalid_se=float(wrong_B.std(ddof=1) / len(wrong_B) ** 0.5)
        )

    def _measures(self, q_VV):
        invalid, nats = (
            float(q_VV[self._impossible_VV].sum()),
            _entropy(q_VV) - _entropy(q_VV.sum(1)),
        )
        return dict(tv=total_variation(q_VV, self.law.bigrams()), invalid=invalid, entropy=nats)


def _entropy(p) -> float:
    return float(-np.sum(p * np.log(np.where(p > 0, p, 1.0))))
