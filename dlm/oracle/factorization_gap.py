"""What ancestral sampling does to neighbours, exactly: the law of a Markov chain's bigrams after any number of steps, at any length.

    step n    a · · · · · · b      a gap: two tokens a, b that stand, d apart, and masks between them; ρ_n: what a mask is revealed with
              │     u   v   │
    n + 1     a · · u · v · b      all that is drawn in it is drawn independently, from q_j(u) = p(x_j = u | a, b)

Tokens drawn in one step know nothing of each other, and that is all that few steps get wrong. A chain's posterior hangs on the nearest
tokens that stand alone, so each gap goes its own way, and the expected number N_n(a, b, d) of gaps follows from N_{n-1}:

    none is revealed        N(a, b, d) (1 − ρ)^(d−1)                                  → (a, b, d)
    j is the first          N(a, b, d) ρ (1 − ρ)^(j−1)     q_j(u)                     → (a, u, j)
    j is the last           N(a, b, d) ρ (1 − ρ)^(d−1−j)   q_j(u)                     → (u, b, d − j)
    i, j follow each other  N(a, b, d) ρ² (1 − ρ)^(j−i−1)  q_i(u) q_j(v)              → (u, v, j − i)

It begins with one gap, from before the first token to behind the last, and ends with gaps of d = 1: N_T(u, v, 1) is the expected number of
bigrams u v. Nothing is approximated; contexts that p does not know, made of tokens drawn apart, are counted with what the denoiser
answers there. Gaps only shrink, so the longest are followed through all steps first.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from dlm.core.errors import UserError
from dlm.oracle.markov import Markov


def ancestral_bigrams(world: Markov, process, steps: Sequence[int]) -> list[np.ndarray]:
    """p(x_i = u, x_{i+1} = v), the mean over i, of ancestral sampling with the exact denoiser: an array _VV for each number of steps.

    A row T of what follows is a moment before or after a step of one of these processes, one process after the other.
    """
    V, L = world.size, world.length
    if not np.isfinite(world.step_SS).all():
        raise UserError(
            "after an impossible bigram a denoiser has no posterior: give a chain without, such as Markov.sparse"
        )
    rho_T = np.array([_revealed(process, s, n) for s in steps for n in range(s + 1)])
    begins = np.cumsum([0, *(s + 1 for s in steps)])
    path_KUU = _paths(world)
    gap_DTAA = np.zeros(
        (L + 2, len(rho_T), V + 1, V + 1)
    )  # A: the tokens, and last what is before the first or behind the last
    gap_DTAA[L + 1, begins[:-1], V, V] = 1.0
    for d in range(L + 1, 1, -1):
        for n in (n for n in range(len(rho_T) - 1) if n + 1 not in begins):
            gap_DTAA[d, n + 1] += gap_DTAA[d, n] * (1 - rho_T[n]) ** (d - 1)
        _split(gap_DTAA, d, _inside(path_KUU, d), rho_T[:-1, None, None])
    return [gap_DTAA[1, a:b, :V, :V].sum(0) / (L - 1) for a, b in itertools.pairwise(begins)]


def _revealed(process, steps: int, n: int) -> float:
    """ρ of step n; 0 after the last."""
    return (
        float(process.reveal_prob((steps - n) / steps, (steps - n - 1) / steps))
        if n < steps
        else 0.0
    )


def _split(gap_DTAA, d: int, q_IAAV, rho_T):
    """Adds what becomes of the gaps of d when something in them is revealed."""
    I, A, _, V = q_IAAV.shape
    keep_T, before_TAA = 1 - rho_T, gap_DTAA[d, :-1]
    rightward = before_TAA.swapaxes(0, 1) @ q_IAAV.transpose(1, 2, 0, 3).reshape(
        A, A, -1
    )  # sums over b, then over a
    leftward = before_TAA.transpose(2, 0, 1) @ q_IAAV.transpose(2, 1, 0, 3).reshape(A, A, -1)
    for j in range(1, d):
        here = np.s_[:, :, (j - 1) * V : j * V]
        gap_DTAA[j, 1:, :, :V] += rho_T * keep_T ** (j - 1) * rightward[here].swapaxes(0, 1)
        gap_DTAA[d - j, 1:, :V, :] += (
            rho_T * keep_T ** (d - 1 - j) * leftward[here].transpose(1, 2, 0)
        )
    here_TP, q_PIV = before_TAA.reshape(len(rho_T), -1), q_IAAV.reshape(I, A * A, V).swapaxes(0, 1)
    pairs = [
        (q_PIV[:, :-m].swapaxes(1, 2) @ q_PIV[:, m:]).reshape(A * A, V * V) for m in range(1, d - 1)
    ]
    inner_TW = here_TP @ np.concatenate(
        [np.zeros((A * A, 0)), *pairs], 1
    )  # one large product: small ones wait for threads
    for m in range(1, d - 1):
        inner_TVV = inner_TW[:, (m - 1) * V * V : m * V * V].reshape(-1, V, V)
        gap_DTAA[m, 1:, :V, :V] += rho_T**2 * keep_T ** (m - 1) * inner_TVV


def _paths(world: Markov) -> np.ndarray:
    """[K, U, U]: the probability of going from one to another in K steps; U: the tokens, before the first, behind the last."""
    V, L = world.size, world.length
    step_UU = np.zeros((V + 2, V + 2))
    step_UU[:V, :V] = np.exp(world.step_SS.astype(np.float64))
    step_UU[V, :V] = np.exp(world.start_S.astype(np.float64))
    step_UU[:V, V + 1] = 1.0  # whatever stands last
    return np.stack([np.linalg.matrix_power(step_UU, k) for k in range(L + 2)])


def _inside(path_KUU: np.ndarray, d: int) -> np.ndarray:
    """q_j(u) of j = 1 … d − 1 inside a gap (a, b, d), as _IAAV; 0 where there is no such gap."""
    V = path_KUU.shape[1] - 2
    after_IAV, before_IVA = (
        path_KUU[1:d, : V + 1, :V],
        path_KUU[d - 1 : 0 : -1, :V][:, :, [*range(V), V + 1]],
    )
    joint_IAAV = after_IAV[:, :, None, :] * before_IVA.swapaxes(1, 2)[:, None]
    total_IAA1 = joint_IAAV.sum(-1, keepdims=True)
    return np.divide(joint_IAAV, total_IAA1, out=np.zeros_like(joint_IAAV), where=total_IAA1 > 0)
