"""The one generation loop: blocks × steps × rule.

    canvas   p r o m p t _ _ _ _ _ _ _ _      frozen anchors may stand anywhere in it
    block            └─ 1 ─┘└─ 2 ─┘└ …        1 position: AR · the whole canvas: full diffusion · between: semi-autoregressive
    step     t = 1 ──> s ──> … ──> 0          denoise, then the rule moves the active positions from t to s

A bidirectional network sees the whole canvas at every step. A causal one decodes position by position with a cache of keys and
values; it is told the time 0 it was trained at. Positions outside the block, and anchors, never change.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dlm.nn import masks
from dlm.nn.masks import Mask
from dlm.run import keys
from dlm.run.contracts import Canvas, Output, Prediction
from dlm.samplers import rounds
from dlm.samplers.config import Sampler


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled:
    """The finished canvas, and how it came about."""

    canvas: Canvas
    logprob_BL: jax.Array  # log-probability of each token when it was committed, nats; 0 on anchors
    nfe: jax.Array  # forward passes, the same for every row
    trace: Any = None  # (z [T, B, L], logprob [T, B, L], the share t [T] of passes left) after each pass; the first nfe are valid


@dataclass(frozen=True)
class _Tempered:
    """A prediction that draws at the sampler's temperature and answers everything else as it is."""

    base: Prediction
    sampler: Sampler

    def draw(self, key_B):
        return self.base.draw(key_B, self.sampler.temperature, self.sampler.top_p)

    def tempered(self):
        return self.base.tempered(self.sampler.temperature, self.sampler.top_p)

    def at(self, position_BR):
        return _Tempered(self.base.at(position_BR), self.sampler)

    def __getattr__(self, name):
        return getattr(self.base, name)


def generate(denoise, sampler: Sampler, process, mask: Mask, canvas: Canvas, key_B, *, cache=None, prefill=0, trace=False) -> Sampled:
    """Fill the masks of `canvas`. One key per row, so a row does not depend on its batch.

    With a `cache` (causal masks, block 1) only new positions are computed; the first `prefill` positions, all of them anchors,
    are read in one pass. `trace` records every pass.
    """
    run = _uncached if cache is None else partial(_cached, cache=cache, prefill=prefill)
    return run(denoise, sampler, process, mask, canvas, key_B, trace=trace)


def _uncached(denoise, sampler, process, mask, canvas, key_B, *, trace) -> Sampled:
    B, L = canvas.z_BL.shape
    size = sampler.block or L
    blocks, steps = -(-L // size), sampler.steps
    fields = canvas.fields if mask.kind == "block" else {}  # a block-causal network's blocks begin anew in each segment of a packed row
    block_BL = masks.blocks(size, fields, L) // size
    record = _Recorder(blocks * steps if trace else 0)

    def following(canvas, n):
        """The next pass: another step of this block while it has masks, else the first block that has some.

        Under noise that leaves no masks every step of every block is made."""
        if not process.absorbing:
            return n + 1
        open_BL = canvas.z_BL == process.vocab.mask
        here = (open_BL & (block_BL == n // steps)).any()
        return jnp.where(here, n + 1, jnp.where(open_BL, block_BL, blocks).min() * steps)

    def step(carry):
        n, nfe, canvas, state, logprob_BL, tape = carry
        b, i = n // steps, n % steps
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        t_BL = jnp.where(block_BL == b, t, block_BL > b) * (mask.kind != "causal")
        seen = replace(canvas, t_BL=jnp.broadcast_to(t_BL, (B, L)).astype(jnp.float32))
        active_BL = (block_BL == b) & ~canvas.frozen_BL
        output = denoise(seen, mask=mask)
        canvas, state, logprob_BL = _advance(sampler, process, key_B, n, output, seen, active_BL, t, s, state, logprob_BL)
        return (
            following(canvas, n),
            nfe + 1,
            canvas,
            state,
            logprob_BL,
            record(tape, nfe, canvas.z_BL, logprob_BL, 1 - (n + 1) / (blocks * steps)),
        )

    if not process.absorbing:  # a hole is what is left of any text at t = 1
        noise_B = jax.vmap(lambda k: keys.key(k, "prior"))(key_B)
        canvas = replace(canvas, z_BL=jnp.where(canvas.frozen_BL, canvas.z_BL, process.prior(noise_B, (B, L))))
    start = following(canvas, jnp.int32(-1))
    carry = (start, jnp.int32(0), canvas, sampler.rule.init(canvas), jnp.zeros((B, L)), record.blank(B, L))
    _, nfe, canvas, _, logprob_BL, tape = jax.lax.while_loop(lambda c: c[0] < blocks * steps, step, carry)
    return Sampled(canvas, logprob_BL, nfe, tape)


def _cached(denoise, sampler, process, mask, canvas, key_B, *, cache, prefill, trace) -> Sampled:
    B, L = canvas.z_BL.shape
    record = _Recorder(L if trace else 0)
    tape, one = record.blank(B, L), jnp.ones((B, 1))
    canvas = replace(canvas, t_BL=jnp.zeros((B, L)))
    if prefill:
        cache = denoise(jax.tree.map(lambda x: x[:, :prefill], canvas), mask=mask, cache=cache).cache
        tape = record(tape, 0, canvas.z_BL, jnp.zeros((B, L)), 1 - prefill / L)

    def step(carry):
        i, nfe, canvas, cache, state, logprob_BL, ended_B, tape = carry
        seen = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i, 1, 1), canvas)
        output = denoise(seen, mask=mask, cache=cache)
        active_B1 = ~seen.frozen_BL & ~ended_B[:, None]  # a row that has ended does not wait for the others with tokens of its own
        new, state, new_logprob_B1 = _advance(sampler, process, key_B, i, output, seen, active_B1, 1.0, 0.0, state, 0 * one)
        canvas = replace(canvas, z_BL=jax.lax.dynamic_update_slice_in_dim(canvas.z_BL, new.z_BL, i, 1))
        logprob_BL = jax.lax.dynamic_update_slice_in_dim(logprob_BL, new_logprob_B1, i, 1)
        ended_B |= (new.z_BL[:, 0] == process.vocab.eos) & ~seen.frozen_BL[:, 0]
        cache = replace(output.cache, before_B=new.z_BL[:, 0])  # what was read as a mask has been drawn by now
        return i + 1, nfe + 1, canvas, cache, state, logprob_BL, ended_B, record(tape, nfe, canvas.z_BL, logprob_BL, 1 - (i + 1) / L)

    carry = (jnp.int32(prefill), jnp.int32(prefill > 0), canvas, cache, sampler.rule.init(canvas))
    carry += (jnp.zeros((B, L)), jnp.zeros(B, bool), tape)
    end = jnp.where(canvas.z_BL == process.vocab.mask, jnp.arange(1, L + 1), 0).max()
    carry = jax.lax.while_loop(lambda c: (c[0] < end) & ~c[6].all(), step, carry)
    _, nfe, canvas, _, _, logprob_BL, _, tape = carry
    after_eos_BL = canvas.z_BL == process.vocab.mask
    return Sampled(replace(canvas, z_BL=jnp.where(after_eos_BL, process.vocab.pad, canvas.z_BL)), logprob_BL, nfe, tape)


def _advance(sampler, process, key_B, n, output: Output, canvas, active_BL, t, s, state, logprob_BL):
    """One step of the rule, and the log-probability of what it has newly committed."""
    full_B = jnp.ones(canvas.z_BL.shape[0])
    tempered = replace(output, prediction=_Tempered(output.prediction, sampler))
    step_key_B = jax.vmap(jax.random.fold_in, (0, None))(key_B, n)
    new, state = sampler.rule.step(step_key_B, tempered, canvas, active_BL, t * full_B, s * full_B, state, process)

    def score(logprob_BL, position_BR, valid_BR, n):
        scored_BR = output.prediction.at(position_BR).log_prob(rounds.take(new.z_BL, position_BR))
        return rounds.put(logprob_BL, position_BR, jnp.where(valid_BR, scored_BR, rounds.take(logprob_BL, position_BR)))

    logprob_BL = rounds.over(new.z_BL != canvas.z_BL, score, logprob_BL)
    return new, state, jnp.where(new.z_BL == process.vocab.mask, 0.0, logprob_BL)


@dataclass(frozen=True)
class _Recorder:
    """Writes one row per pass into preallocated arrays, or nothing when `passes` is 0."""

    passes: int

    def blank(self, B, L):
        T = self.passes
        return (jnp.zeros((T, B, L), jnp.int32), jnp.zeros((T, B, L)), jnp.zeros(T)) if T else None

    def __call__(self, tape, n, *row):
        if tape is None:
            return None
        return tuple(column.at[n].set(value) for column, value in zip(tape, row, strict=True))
