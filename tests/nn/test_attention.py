"""Attention and rotary positions against their definitions, one number at a time."""

import numpy as np

from dlm.nn import attention, norms, rope


def test_attend_is_the_loop():
    rng = np.random.default_rng(0)
    B, L, M, H, J, K = 2, 3, 5, 4, 2, 4
    q, k, v = (rng.normal(size=s).astype(np.float32) for s in ((B, L, H, K), (B, M, J, K), (B, M, J, K)))
    allowed = rng.random((B, L, M)) < 0.6
    allowed[..., 0] = True
    want = np.zeros((B, L, H, K))
    for b, i, h in np.ndindex(B, L, H):
        j = h // (H // J)  # the query heads of a kv head are adjacent
        scores = np.array([q[b, i, h] @ k[b, m, j] / K**0.5 if allowed[b, i, m] else -np.inf for m in range(M)])
        weights = np.exp(scores - scores.max())
        want[b, i, h] = weights / weights.sum() @ v[b, :, j]
    np.testing.assert_allclose(attention.attend(q, k, v, allowed), want, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q_K, k_K = rng.normal(size=(2, 8)).astype(np.float32)
    positions_BL = np.array([[0, 1, 7, 40, 41, 47]])
    cos, sin = rope.angles(positions_BL, 8, 100.0)
    q_LK, k_LK = (np.asarray(rope.rotate(np.tile(x, (1, 6, 1, 1)), cos, sin))[0, :, 0] for x in (q_K, k_K))
    scores_LL = q_LK @ k_LK.T
    np.testing.assert_allclose(scores_LL[:3, :3], scores_LL[3:, 3:], atol=1e-4)
    assert abs(scores_LL[0, 1] - scores_LL[0, 2]) > 1e-2 and abs(scores_LL[0, 1] - scores_LL[1, 0]) > 1e-2
    angle = 7 * 100.0 ** (-2 * 1 / 8)  # position 7, pair 1 is (1, 5)
    np.testing.assert_allclose(q_LK[2, 1], q_K[1] * np.cos(angle) - q_K[5] * np.sin(angle), atol=1e-5)


def test_rms_norm():
    x_BD, gain_D = np.array([[3.0, -4.0]], np.float32), np.array([0.0, 1.0], np.float32)
    np.testing.assert_allclose(norms.rms(x_BD, gain_D), [[3 / 12.5**0.5, -8 / 12.5**0.5]], rtol=1e-5)
