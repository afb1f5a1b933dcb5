"""Attention and rotary positions against their definitions, one number at a time."""

import jax
import numpy as np

from dlm.nn import attention, norms, rope
from dlm.nn.attend.dense import DenseAttention
from dlm.nn.config import Attention, Rope
from tests import tiny


def test_attend_is_the_loop():
    rng = np.random.default_rng(0)
    B, L, M, H, J, K = 2, 3, 5, 4, 2, 4
    q, k, v = (
        rng.normal(size=s).astype(np.float32)
        for s in ((B, L, H, K), (B, M, J, K), (B, M, J, K))
    )
    allowed = rng.random((B, L, M)) < 0.6
    allowed[..., 0] = True
    want = np.zeros((B, L, H, K))
    for b, i, h in np.ndindex(B, L, H):
        j = h // (H // J)  # the query heads of a kv head are adjacent
        scores = np.array(
            [
                q[b, i, h] @ k[b, m, j] / K**0.5 if allowed[b, i, m] else -np.inf
                for m in range(M)
            ]
        )
        weights = np.exp(scores - scores.max())
        want[b, i, h] = weights / weights.sum() @ v[b, :, j]
    got = DenseAttention().attend(q, k, v, allowed, K**-0.5)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q_K, k_K = rng.normal(size=(2, 8)).astype(np.float32)
    positions_BL = np.array([[0, 1, 7, 40, 41, 47]])
    cos, sin = rope.angles(positions_BL, 8, Rope(100.0))
    q_LK, k_LK = (
        np.asarray(rope.rotate(np.tile(x, (1, 6, 1, 1)), cos, sin))[0, :, 0]
        for x in (q_K, k_K)
    )
    scores_LL = q_LK @ k_LK.T
    np.testing.assert_allclose(scores_LL[:3, :3], scores_LL[3:, 3:], atol=1e-4)
    assert (
        abs(scores_LL[0, 1] - scores_LL[0, 2]) > 1e-2
        and abs(scores_LL[0, 1] - scores_LL[1, 0]) > 1e-2
    )
    angle = 7 * 100.0 ** (-2 * 1 / 8)  # position 7, pair 1 is (1, 5)
    np.testing.assert_allclose(
        q_LK[2, 1], q_K[1] * np.cos(angle) - q_K[5] * np.sin(angle), atol=1e-5
    )


def test_rms_norm():
    x_BD, gain_D = np.array([[3.0, -4.0]], np.float32), np.array([1.0, 2.0], np.float32)
    np.testing.assert_allclose(
        norms.rms(x_BD, gain_D), [[3 / 12.5**0.5, -8 / 12.5**0.5]], rtol=1e-5
    )


def test_slower_rotations_are_those_of_llama_3_1():
    """Each frequency follows the published rule: unchanged, divided, or between the two.

    The rule is that of `rope_type: llama3`; with 'linear' all are divided.
    """
    llama3 = Rope(500_000.0, "llama3", factor=8.0, low=1.0, high=4.0, original=8192)
    theta_K = 500_000.0 ** (-np.arange(0, 64, 2) / 64)
    want = []
    for theta in theta_K:
        length = 2 * np.pi / theta  # positions of one turn
        share = (8192 / length - 1.0) / (4.0 - 1.0)
        between = (1 - share) * theta / 8 + share * theta
        want.append(
            theta if length < 8192 / 4 else theta / 8 if length > 8192 else between
        )
    assert len({round(w / t, 3) for w, t in zip(want, theta_K, strict=True)}) > 3
    one = np.array([[1]])
    np.testing.assert_allclose(
        np.arcsin(rope.angles(one, 64, llama3)[1][0, 0, 0, 1:]), want[1:], rtol=1e-4
    )
    np.testing.assert_allclose(
        rope.angles(8 * one, 64, Rope(500_000.0, "linear", factor=8.0))[0],
        rope.angles(one, 64, Rope(500_000.0))[0],
    )


def test_biases_are_added_before_the_rotation_and_behind_the_heads():
    """Biases equal the weights of one more input coordinate, which is 1."""
    rng, (D, H, K) = np.random.default_rng(2), (6, 2, 4)
    x_BLD = rng.normal(size=(1, 5, D)).astype(np.float32)
    inputs = tiny.layer_inputs(*rope.angles(np.arange(5)[None], K, Rope()), None)
    biased = attention.SelfAttention(
        Attention(H, H, K, qk_norm="none", bias="all"), D, 1
    )
    p = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32),
        biased.init(jax.random.key(0), x_BLD, None, inputs)["params"],
    )
    names = [("q_DHK", "q_bias_HK"), ("k_DJK", "k_bias_JK"), ("v_DJK", "v_bias_JK")]
    wider = {name: np.concatenate([p[name], p[bias][None]]) for name, bias in names}
    wider["o_HKD"] = np.concatenate([p["o_HKD"], np.zeros((H, K, 1), np.float32)], -1)
    plain = attention.SelfAttention(Attention(H, H, K, qk_norm="none"), D + 1, 1)
    want, _ = plain.apply(
        {"params": wider},
        np.concatenate([x_BLD, np.ones((1, 5, 1), np.float32)], -1),
        None,
        inputs,
    )
    got, _ = biased.apply({"params": p}, x_BLD, None, inputs)
    np.testing.assert_allclose(got, want[..., :D] + p["o_bias_D"], rtol=1e-4, atol=1e-4)
