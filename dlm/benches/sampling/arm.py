"""A sampler of ours as one compiled program, for requests of one shape."""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlm import benches
from dlm.app.experiment import Experiment
from dlm.core import keys
from dlm.core.contracts import Canvas
from dlm.noise.mask import MaskNoise
from dlm.samplers import generator, plan
from dlm.samplers.plan import Sampler


class Arm:
    """Draws rows of one length by one sampler, and counts its passes."""

    def __init__(
        self,
        experiment: Experiment,
        params: Any,
        args: argparse.Namespace,
        sampler: Sampler,
    ):
        self.experiment = experiment
        self.params = params
        self.rows, self.length = args.rows, args.length
        self.sampler = sampler
        self.nfe = 0

    def draw(self, seed: int = 0) -> list[np.ndarray]:
        """Returns the ids of all rows.

        Ends of text do not end them, so that all arms write as many tokens.
        """
        # Each sample has its own key, whatever the batch.
        index_B = seed * self.rows + jnp.arange(self.rows)
        key_B = keys.per_sample(keys.root(0), index_B)
        sampled = self._generate(self.params, key_B)
        # Known after a call: it depends on the samples.
        self.nfe = int(sampled.nfe)
        return list(np.asarray(jax.block_until_ready(sampled.canvas.z_BL)))

    def seconds(self) -> float:
        return sum(benches.seconds_each(self.draw, 1))

    @functools.cached_property
    def _generate(self) -> Callable:
        experiment, shape = self.experiment, (self.rows, self.length)
        visibility = experiment.objective.visibility
        # An autoregressive model has no process: its canvas is masks all the same.
        vocab = experiment.run.nn.vocab
        process = experiment.objective.process or MaskNoise(vocab=vocab)
        sampler = plan.resolve(self.sampler, process, visibility)
        # Which sampler has a cache depends on the visibility.
        cached = plan.cache_kind(sampler, visibility) != "none"

        @jax.jit
        def generate(params, key_B):
            z_BL = jnp.full(shape, process.vocab.mask, jnp.int32)
            canvas = Canvas(z_BL, jnp.ones(shape), jnp.zeros(shape, bool), visibility)
            if cached:
                canvas = replace(canvas, cache=experiment.empty_cache(*shape))
            net = experiment.net(params)
            return generator.generate(net, sampler, process, canvas, key_B)

        return generate
