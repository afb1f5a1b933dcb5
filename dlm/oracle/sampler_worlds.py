"""Worlds to try samplers in: a law, a network that is its posterior up to an error, and measures.

    table    V = 3, L = 4      every sequence can be counted: the law of whole samples
    chain    V = 16, L = 64    each token has 4 successors: impossible bigrams are counted, and
                               the law of bigrams is known exactly

The floor is the law of ancestral sampling with the exact posterior, computed without sampling
(`enumeration.ancestral_law`, `factorization_gap.ancestral_bigrams`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Canvas,
    Dense,
    Net,
    Output,
)
from dlm.nn.visibility import sees_all
from dlm.nn.visibility.full import Full
from dlm.noise.mask import MaskNoise
from dlm.oracle.enumeration import (
    all_sequences,
    ancestral_law,
    total_variation,
)
from dlm.oracle.factorization_gap import ancestral_bigrams
from dlm.oracle.markov import Markov
from dlm.oracle.tabular import Tabular
from dlm.oracle.world import World

_LOWEST = -80.0  # log odds of an impossible token

Measures = dict[str, float]


class Scene(ABC):
    """A law with masks as its noise; `noise` is the spread of the network's error, nats."""

    law: World

    def __init__(
        self,
        law: World,
        noise: float = 0.0,
        seed: int = 0,
    ):
        self.law = law
        self.noise = noise
        self.seed = seed
        self.process = MaskNoise(vocab=law.vocab)
        # The direction of the network's error.
        rng = np.random.default_rng(seed)
        wrong_VV = rng.normal(size=(law.size, law.size))
        self._wrong_VV = wrong_VV.astype(np.float32)

    @abstractmethod
    def floor(self, steps: Sequence[int]) -> list[Measures]:
        """Returns the limit of `measured` for each number of steps.

        It is that of many samples by the ancestral sampler with the exact posterior.
        """

    @abstractmethod
    def measured(self, x_BL) -> Measures:
        """Returns how far samples are from p."""

    def net(self, canvas: Canvas) -> Output:
        """Returns the posterior of each token given all others, known tokens included.

        Its head `quality` is the best possible estimate of whether a token is right. The error is
        a function of the posterior itself, log p(v) + noise Σ_u W_vu p(u) / ‖p‖ with a fixed
        normal W: the same for equal contexts, and another one as soon as the context changes.
        """
        # At time 1 a known token would be no evidence.
        half_BL = jnp.full_like(canvas.t_BL, 0.5)
        canvas = replace(canvas, t_BL=half_BL)
        net: Net = self.law.net
        if sees_all(canvas.visibility):
            net = self.law.under(self.process)
        output = self._disturbed(net(canvas))
        # The log odds of the token at each position.
        masked_BL = self.process.undecided(canvas.z_BL)
        token_BL = jnp.where(masked_BL, 0, canvas.z_BL)
        log_BL = output.prediction.log_prob(token_BL)
        below_one_BL = jnp.minimum(log_BL, -1e-6)
        log_not_BL = jnp.log(-jnp.expm1(below_one_BL))
        odds_BL = log_BL - log_not_BL
        quality_BL = jnp.maximum(odds_BL, _LOWEST)
        return replace(output, heads=dict(quality=quality_BL))

    def _disturbed(self, output: Output) -> Output:
        """Adds the network's error."""
        if not self.noise:
            return output
        V = self.law.size
        prediction = output.prediction
        assert isinstance(prediction, Dense)
        p_BLV = prediction.probs()[..., :V]
        # A function of the posterior, so that equal contexts have equal errors.
        size_BL1 = jnp.linalg.norm(p_BLV, axis=-1, keepdims=True)
        error_BLV = self.noise * p_BLV @ self._wrong_VV / size_BL1
        tokens = prediction.logits_BLV.at[..., :V]
        logits_BLV = tokens.add(error_BLV)
        return replace(output, prediction=Dense(logits_BLV))

    def own(self, draws: int) -> Array:
        """Draws from p itself: so few samples measure as imperfect for any law."""
        # Other random numbers than those of a sampler.
        key = keys.key(keys.root(self.seed), "own")
        sample = jax.jit(lambda key: self.law.sample(key, draws))
        return sample(key)


class Table(Scene):
    """Measures the total variation from p, and the entropy of the samples."""

    law: Tabular

    def __init__(
        self,
        noise: float = 0.0,
        seed: int = 0,
        size: int = 3,
        length: int = 4,
    ):
        law = Tabular.random(size, length, spread=2.0)
        super().__init__(law, noise, seed)
        # The law in float64, in the order of `all_sequences`.
        log_p_X = law.log_prob(jnp.asarray(all_sequences(size, length)))
        self._p_X = np.exp(np.asarray(log_p_X, np.float64))

    def floor(self, steps: Sequence[int]) -> list[Measures]:
        """Returns the measures of the enumerated law."""
        law, process = self.law, self.process
        rows = []
        for n in steps:
            settings = law.net, process, Full(), n
            q_X = ancestral_law(*settings, law.vocab, law.length)
            rows.append(self._measures(q_X))
        return rows

    def measured(self, x_BL) -> Measures:
        """Returns the measures of the samples' frequencies."""
        V, L = self.law.size, self.law.length
        place_L = V ** np.arange(L - 1, -1, -1)
        number_B = (np.asarray(x_BL) * place_L).sum(1)
        # Frequencies instead of probabilities.
        counts_X = np.bincount(number_B, minlength=V**L)
        return self._measures(counts_X / len(number_B))

    def _measures(self, q_X: np.ndarray) -> Measures:
        # Nats per token.
        entropy = _entropy(q_X) / self.law.length
        return dict(tv=total_variation(q_X, self._p_X), entropy=entropy)


class Chain(Scene):
    """Measures impossible bigrams, the total variation of bigrams, and their entropy."""

    law: Markov

    def __init__(
        self,
        noise: float = 0.0,
        seed: int = 0,
        size: int = 16,
        length: int = 64,
        ways: int = 4,
        slip: float = 1e-6,
    ):
        law = Markov.sparse(size, length, ways, slip=slip)
        super().__init__(law, noise, seed)
        # Each unlikely successor has the same share of `slip`.
        each = slip / (size - ways)
        self._impossible_VV = law.step_SS < math.log(2 * each)

    def floor(self, steps: Sequence[int]) -> list[Measures]:
        """Returns the measures of the exact law of bigrams."""
        # Computed for all numbers of steps at once.
        laws = ancestral_bigrams(self.law, self.process, steps)
        return [self._measures(q_VV) for q_VV in laws]

    def measured(self, x_BL) -> Measures:
        """Returns the measures of the samples' bigrams, with a standard error."""
        x_BL = np.asarray(x_BL)
        V = self.law.size
        # The number of each pair of neighbours.
        pair_BL = x_BL[:, :-1] * V + x_BL[:, 1:]
        pairs = pair_BL.ravel()
        counts_P = np.bincount(pairs, minlength=V * V)
        q_VV = counts_P.reshape(V, V) / len(pairs)
        # Each sequence is one observation of the share of impossible bigrams.
        impossible_P = self._impossible_VV.ravel()
        wrong_B = impossible_P[pair_BL].mean(1)
        spread = wrong_B.std(ddof=1)
        error = float(spread / len(wrong_B) ** 0.5)
        return self._measures(q_VV) | dict(invalid_se=error)

    def _measures(self, q_VV: np.ndarray) -> Measures:
        impossible = q_VV[self._impossible_VV]
        invalid = float(impossible.sum())
        # Of the second token given the first.
        entropy = _entropy(q_VV) - _entropy(q_VV.sum(1))
        # Against the bigrams of p.
        variation = total_variation(q_VV, self.law.bigrams())
        return dict(tv=variation, invalid=invalid, entropy=entropy)


def _entropy(p: np.ndarray) -> float:
    # 0 log 0 is 0.
    log_p = np.log(np.where(p > 0, p, 1.0))
    return float(-np.sum(p * log_p))
