"""A row is drawn as if it were alone: neither longer nor shorter rows beside it change it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.nn import cache as kv_cache
from dlm.nn.masks import Mask
from dlm.run import keys, spec
from dlm.run.contracts import Canvas, Logits, Output
from dlm.samplers import loop, reading
from dlm.samplers.config import Cache, Sampler
from tests import tiny

PROCESS = spec.build("mask", "noise", tiny.VOCAB)
MASK = tiny.VOCAB.mask


def built(rule="ancestral", remask=None, kind="auto", **settings):
    remask = remask and spec.build(remask, "samplers.remask")
    return Sampler(spec.build(rule, "samplers"), remask, cache=Cache(kind), **settings)


rng = np.random.default_rng(0)
PLACE_LV, TOKEN_VV, TIME_V = (jnp.asarray(2 * rng.normal(size=size), jnp.float32) for size in ((64, 16), (20, 16), (16,)))


def told(canvas, *, mask, cache=None, carry=None):
    """A denoiser that hears its place, its time and the mean of the row, or of what a cache knows of it; padding is not heard.

    What it leaves in a cache depends on what was there before, so it is seen if a position is read more often.
    """
    said_BLV, seat = TOKEN_VV[canvas.z_BL], cache and cache.seat
    fields, place_BL = (canvas.fields, jnp.arange(canvas.z_BL.shape[1])[None]) if cache is None else (seat.fields, seat.place_BL)
    length = canvas.z_BL.shape[1] if cache is None else cache.k_NBMJK.shape[2]
    real_BM = fields.get("segments_BL", jnp.ones((len(canvas.z_BL), length)))
    mean = lambda known_BMV: jnp.einsum("bmv,bm->bv", known_BMV, real_BM / real_BM.sum(1, keepdims=True))[:, None]  # noqa: E731
    if cache is not None:
        memory_BMJK = kv_cache.write(cache.k_NBMJK[0], (said_BLV + mean(cache.k_NBMJK[0, :, :, 0]))[:, :, None], seat)
        said_BLV, cache = memory_BMJK[:, :, 0], replace(cache, k_NBMJK=memory_BMJK[None], seat=None)
    mean_B1V = mean(said_BLV)
    logits_BLV = PLACE_LV[place_BL % 64] + mean_B1V + canvas.t_BL[..., None] * TIME_V
    return Output(Logits(jnp.pad(logits_BLV, ((0, 0), (0, 0), (0, 4)), constant_values=-jnp.inf)), cache=cache)


def canvas(lengths, L, prompts):
    """Rows of these lengths, each after a prompt; what is left of a row is padding, a segment of its own."""
    lengths, i_L = np.array(lengths)[:, None], np.arange(L)
    z_BL = np.where(i_L < lengths, MASK, tiny.VOCAB.pad)
    for b, n in enumerate(prompts):
        z_BL[b, :n] = tiny.tokens(1, n, seed=n)[0]
    fields = dict(segments_BL=jnp.asarray(i_L < lengths, jnp.int32)) if lengths.min() < L else {}
    return Canvas(jnp.asarray(z_BL, jnp.int32), jnp.ones(z_BL.shape), jnp.asarray(z_BL != MASK), fields)


def draw(sampler, mask, start, index):
    rows, L = start.z_BL.shape
    memory = None if reading.kind(sampler, mask) == "none" else kv_cache.empty(1, rows, L, ((1, 16), (1, 1)), jnp.float32)
    memory = None if hasattr(sampler.rule, "drive") else memory
    run = jax.jit(partial(loop.generate, told, sampler, PROCESS, mask, memory=memory, stop=True))
    return jax.tree.map(np.asarray, run(start, keys.per_sample(jax.random.key(5), jnp.asarray(index))))


BLOCKS = Mask("block", size=8)
CASES = dict(
    remasked=(built(block=8, steps=4, remask=dict(name="rescale", eta=0.6)), Mask()),
    second=(built("confident", block=4, steps=2, then=built("correcting", block=8, steps=2, reopen=0.5)), Mask()),
    sliding=(built("confident", block=16, steps=5, edge="sliding"), Mask()),
    exact=(built(block=8, steps=3), BLOCKS),
    dual=(built("maskgit", block=8, steps=3, kind="dual"), Mask()),
    prefix=(built(block=4, steps=2, kind="prefix"), Mask()),
    delayed=(built("confident", block=0, steps=6, kind="delayed"), Mask()),
    speculative=(built("speculative", block=16, steps=3), BLOCKS),
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_row_is_the_same_alone_beside_longer_rows_and_beside_shorter_ones(case):
    """14 tokens are no multiple of a block, and fewer than the largest has; the larger canvas is none either."""
    alone = draw(*CASES[case], canvas([14] * 2, 14, [3, 3]), [7, 9])
    among = draw(*CASES[case], canvas([14, 29, 14, 5], 29, [3, 2, 3, 1]), [7, 1, 9, 2])
    for b, c in ((0, 0), (1, 2)):
        tiny.identical(among.canvas.z_BL[c, :14], alone.canvas.z_BL[b])
        np.testing.assert_allclose(among.logprob_BL[c, :14], alone.logprob_BL[b], atol=1e-5)
