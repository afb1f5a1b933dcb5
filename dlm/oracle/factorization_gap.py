"""The effect of ancestral sampling on neighbours, exactly: the law of a Markov chain's bigrams.

    step n    a · · · · · · b      a gap: two tokens a, b, d apart, with masks between them
              │     u   v   │      ρ_n: the probability with which a mask is revealed
    n + 1     a · · u · v · b      drawn independently, from q_j(u) = p(x_j = u | a, b)

Tokens drawn in one step are independent of each other; that is the only error of few steps. A
chain's posterior depends on the nearest known tokens alone. So gaps do not influence each other,
and the expected number N_n(a, b, d) of gaps follows from N_{n-1}:

    none is revealed        N(a, b, d) (1 − ρ)^(d−1)                                → (a, b, d)
    j is the first          N(a, b, d) ρ (1 − ρ)^(j−1)     q_j(u)                   → (a, u, j)
    j is the last           N(a, b, d) ρ (1 − ρ)^(d−1−j)   q_j(u)                   → (u, b, d − j)
    i, j follow each other  N(a, b, d) ρ² (1 − ρ)^(j−i−1)  q_i(u) q_j(v)            → (u, v, j − i)

It begins with one gap, from before the first token to behind the last, and ends with gaps of
d = 1: N_T(u, v, 1) is the expected number of bigrams u v, after any number of steps and at any
length. Nothing is approximated. Contexts that are impossible under p, from tokens drawn apart, are
counted with the network's answer there. Gaps only shrink, so the longest are followed through all
steps first.

Axes: D gap lengths, T moments before or after a step, A the V tokens and the outside, I positions
inside a gap, P pairs (a, b), K numbers of steps of the chain, U the tokens, before and behind.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from dlm.core.errors import UserError
from dlm.oracle.markov import Markov


def ancestral_bigrams(
    world: Markov,
    process,
    steps: Sequence[int],
) -> list[np.ndarray]:
    """Returns p(x_i = u, x_{i+1} = v), the mean over i, of ancestral sampling with the exact law.

    One array _VV for each number of steps. All numbers are followed at once, one after the other
    along T.
    """
    V, L = world.size, world.length
    if not np.isfinite(world.step_SS).all():
        remedy = "give a chain without, such as Markov.sparse"
        raise UserError(
            f"after an impossible bigram a network has no posterior: {remedy}"
        )

    rho_T, begins = _moments(process, steps)
    # Moments after which the same process goes through another step.
    inside = []
    for n in range(len(rho_T) - 1):
        if n + 1 not in begins:
            inside.append(n)

    # At first one gap from outside to outside, index V of A.
    A = V + 1
    gap_DTAA = np.zeros((L + 2, len(rho_T), A, A))
    gap_DTAA[L + 1, begins[:-1], V, V] = 1.0
    path_KUU = _paths(world)
    # Longer gaps first: a gap only splits into shorter ones.
    for d in range(L + 1, 1, -1):
        gap_TAA = gap_DTAA[d]
        # The gaps in which nothing is revealed stay as they are.
        for n in inside:
            stays = (1 - rho_T[n]) ** (d - 1)
            gap_TAA[n + 1] += gap_TAA[n] * stays
        q_IAAV = _inside(path_KUU, d)
        _split(gap_DTAA, d, q_IAAV, rho_T)

    # The gaps of length 1 between two tokens are bigrams.
    bigram_TVV = gap_DTAA[1, :, :V, :V]
    laws = []
    for begin, end in itertools.pairwise(begins):
        process_TVV = bigram_TVV[begin:end]
        count_VV = process_TVV.sum(0)
        law_VV = count_VV / (L - 1)
        laws.append(law_VV)
    return laws


def _moments(process, steps: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Returns ρ of each moment of each process, and where the next process begins."""
    rho = []
    begins = [0]
    for count in steps:
        for n in range(count + 1):
            rho.append(_revealed(process, count, n))
        begins.append(len(rho))
    return np.array(rho), begins


def _revealed(
    process,
    steps: int,
    n: int,
) -> float:
    """Returns ρ of step n; 0 after the last."""
    if n >= steps:
        return 0.0
    t = (steps - n) / steps
    s = (steps - n - 1) / steps
    return float(process.reveal_prob(t, s))


def _split(
    gap_DTAA: np.ndarray,
    d: int,
    q_IAAV: np.ndarray,
    rho_T: np.ndarray,
) -> None:
    """Adds what becomes of the gaps of length d when something in them is revealed."""
    V = q_IAAV.shape[-1]
    # A step leads from one moment to the next.
    rho_T11 = rho_T[:-1, None, None]
    keep_T11 = 1 - rho_T11
    before_TAA = gap_DTAA[d, :-1]
    after_DTAA = gap_DTAA[:, 1:]

    # The first revealed and the last one.
    right_TAIV = _summed_over_b(before_TAA, q_IAAV)
    mirrored_TAA = before_TAA.swapaxes(1, 2)
    mirrored_IAAV = q_IAAV.swapaxes(1, 2)
    left_TAIV = _summed_over_b(mirrored_TAA, mirrored_IAAV)
    for j in range(1, d):
        first_TAV = right_TAIV[:, :, j - 1]
        last_TAV = left_TAIV[:, :, j - 1]
        last_TVA = last_TAV.swapaxes(1, 2)
        # Of those before it, or behind it, none is revealed.
        before, behind = j - 1, d - 1 - j
        first_T11 = rho_T11 * keep_T11**before
        last_T11 = rho_T11 * keep_T11**behind
        after_DTAA[j, :, :, :V] += first_T11 * first_TAV
        after_DTAA[d - j, :, :V] += last_T11 * last_TVA

    # Two that follow each other, m apart.
    pair_TMVV = _pairs(before_TAA, q_IAAV)
    for m in range(1, d - 1):
        between = m - 1
        both_T11 = rho_T11**2 * keep_T11**between
        pair_TVV = pair_TMVV[:, m - 1]
        after_DTAA[m, :, :V, :V] += both_T11 * pair_TVV


def _summed_over_b(
    before_TAA: np.ndarray,
    q_IAAV: np.ndarray,
) -> np.ndarray:
    """Returns Σ_b N(a, b) q_i(u | a, b) for every a, position i and u, _TAIV."""
    inside, A, _, V = q_IAAV.shape
    # One product of matrices for each a.
    q_AAIV = q_IAAV.transpose(1, 2, 0, 3)
    q_AAW = q_AAIV.reshape(A, A, inside * V)
    before_ATA = before_TAA.swapaxes(0, 1)
    sum_ATW = before_ATA @ q_AAW
    sum_TAW = sum_ATW.swapaxes(0, 1)
    return sum_TAW.reshape(-1, A, inside, V)


def _pairs(
    before_TAA: np.ndarray,
    q_IAAV: np.ndarray,
) -> np.ndarray:
    """Returns Σ_{a, b} N(a, b) Σ_i q_i(u) q_{i+m}(v) for every m, _TMVV."""
    inside, A, _, V = q_IAAV.shape
    moments = len(before_TAA)
    before_TP = before_TAA.reshape(moments, A * A)
    q_IPV = q_IAAV.reshape(inside, A * A, V)
    q_PIV = q_IPV.swapaxes(0, 1)
    # One large product: small ones wait for threads.
    products = [np.zeros((A * A, 0))]
    for m in range(1, inside):
        first_PVI = q_PIV[:, :-m].swapaxes(1, 2)
        second_PIV = q_PIV[:, m:]
        product_PVV = first_PVI @ second_PIV
        product_PW = product_PVV.reshape(A * A, V * V)
        products.append(product_PW)
    all_PW = np.concatenate(products, 1)
    sum_TW = before_TP @ all_PW
    return sum_TW.reshape(moments, inside - 1, V, V)


def _paths(world: Markov) -> np.ndarray:
    """Returns the probability of going from one to another in K steps, _KUU."""
    V, L = world.size, world.length
    # The chain with an outside: V is before the first token, V + 1 behind the last.
    step_UU = np.zeros((V + 2, V + 2))
    log_step_VV = world.step_SS.astype(np.float64)
    log_start_V = world.start_S.astype(np.float64)
    step_UU[:V, :V] = np.exp(log_step_VV)
    step_UU[V, :V] = np.exp(log_start_V)
    # Any token may be the last.
    step_UU[:V, V + 1] = 1.0
    # A gap is at most as long as the text and both its ends.
    powers = []
    for k in range(L + 2):
        power_UU = np.linalg.matrix_power(step_UU, k)
        powers.append(power_UU)
    return np.stack(powers)


def _inside(
    path_KUU: np.ndarray,
    d: int,
) -> np.ndarray:
    """Returns q_j(u) of j = 1 … d − 1 inside a gap (a, b, d), _IAAV; 0 where there is none."""
    V = path_KUU.shape[1] - 2
    # From a to u in j steps, from u to b in the others; a may be before, b behind the text.
    ends = [*range(V), V + 1]
    after_IAV = path_KUU[1:d, : V + 1, :V]
    before_IVU = path_KUU[d - 1 : 0 : -1, :V]
    before_IVA = before_IVU[:, :, ends]
    before_IAV = before_IVA.swapaxes(1, 2)
    # Bayes' rule: a path through u, over all paths.
    joint_IAAV = after_IAV[:, :, None] * before_IAV[:, None]
    total_IAA1 = joint_IAAV.sum(-1, keepdims=True)
    zero_IAAV = np.zeros_like(joint_IAAV)
    possible_IAA1 = total_IAA1 > 0
    return np.divide(joint_IAAV, total_IAA1, out=zero_IAAV, where=possible_IAA1)
