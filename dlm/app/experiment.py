"""Building everything that a run's config describes: data, network, mesh, jitted functions.

This is the one place that knows all rooms.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import axes, keys
from dlm.core.contracts import (
    Batch,
    Cache,
    Canvas,
    Loss,
    Models,
    Net,
    Output,
    Process,
    State,
)
from dlm.core.errors import UserError
from dlm.core.run import Run
from dlm.core.vocab import Vocab
from dlm.machine import mesh
from dlm.nn import expert_matmul, router_metrics, transformer
from dlm.noise import time_sampling
from dlm.noise.mask import MaskNoise
from dlm.runs import checkpoint, warm_start
from dlm.samplers.generator import Generator, Model
from dlm.samplers.plan import resolve
from dlm.training import optimizer
from dlm.training.update import Hooks, create_state, make_update


class Experiment:
    """The objects that a run's config describes; nothing is read or compiled before its use."""

    def __init__(self, run: Run, tokenizer, on=None):
        """Build the network and the optimizer of a run.

        On an abstract mesh `on` programs can be traced and lowered, but not run.
        """
        self.run = run
        self.tokenizer = tokenizer
        self.objective = run.objective
        self.mesh = on or mesh.make(run.mesh)
        self.model = transformer.Transformer(
            run.nn, self.mesh if run.nn.experts.count else None
        )
        expert_matmul.check(run.nn.experts.backend)
        self.optimizer = optimizer.transformation(run.optim, run.steps)
        self.root = keys.root(run.seed)
        self._generators: dict = {}
        rows, parts, shares = (
            run.data.batch,
            run.optim.microbatches,
            axes.shards(self.mesh.shape),
        )
        if rows % (parts * shares):
            divisor = (
                f"optim.microbatches={parts} × {shares} device(s) on the data axes"
            )
            raise UserError(f"config.data.batch={rows} must be a multiple of {divisor}")

    def net(self, params) -> Net:
        """Returns the network with these parameters, its rows spread over the devices."""
        on_one_device = transformer.net_of(self.model, params)

        def net(canvas: Canvas) -> Output:
            return on_one_device(
                replace(canvas, z_BL=mesh.spread(self.mesh, canvas.z_BL))
            )

        return net

    # ------------------------------------------------------------------------------------ training

    def _fresh(self) -> State:
        params = transformer.initialise(self.model, keys.key(self.root, "init"))
        if own := self.objective.init(keys.key(self.root, "objective")):
            params["objective"] = own
        return create_state(
            params, self.run.optim, self.optimizer, self.objective.statistics()
        )

    def _shardings(self, abstract):
        return mesh.state_shardings(self.mesh, abstract)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the training state; allocates nothing."""
        return checkpoint.abstract(self._fresh, self._shardings)

    def new_state(self) -> State:
        """Returns the state before the first update, created on the devices where it stays.

        A run that begins with another one (`Run.start`) receives its parameters.
        """
        # It runs once, so all its cost is compilation. A plugin may not know XLA's options.
        quick = {} if self.run.mesh.platform else {"xla_backend_optimization_level": 0}
        shardings = self._shardings(jax.eval_shape(self._fresh))
        create = jax.jit(self._fresh, out_shardings=shardings, compiler_options=quick)
        initial = create()
        if self.run.start is None:
            return initial
        params = warm_start.taken(self.run.start, initial.params)
        ema = None
        if initial.ema is not None:
            ema = jax.tree.map(jnp.copy, params)
        return replace(initial, params=params, ema=ema)

    @cached_property
    def update(self):
        """The jitted `update(state, batch) → (state, sums)`; it donates the old state."""
        update = make_update(
            self.loss,
            self.run.optim,
            self.optimizer,
            schedule=optimizer.rate(self.run.optim, self.run.steps),
            root_key=self.root,
            bytes_V=self.tokenizer.bytes_V,
            steps=self.run.steps,
            hooks=Hooks(time_sampling.updated_costs, self._route),
        )
        shardings = self._shardings(jax.eval_shape(self._fresh))
        return jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))

    def models(
        self, params, statistics=None, progress: jax.Array | float = 1.0
    ) -> Models:
        """Returns all that an objective may call or read beside the batch."""
        return Models(
            self.net(params), params.get("objective", {}), statistics, progress
        )

    def loss(
        self,
        params,
        batch: Batch,
        key,
        statistics=None,
        progress: jax.Array | float = 1.0,
    ) -> Loss:
        """Returns the objective's loss.

        Args:
          params: parameters of the network, and the objective's own.
          batch: packed sequences.
          key: the noise key of the step.
          statistics: running sums that the objective carries from update to update.
          progress: fraction of the updates done.
        """
        return self.objective.loss(
            self.models(params, statistics, progress), batch, key
        )

    def _route(self, params, routed):
        """Returns the parameters with updated router biases, and metrics for the logs."""
        e = self.run.nn.experts
        devices = router_metrics.devices(e, self.mesh.shape["expert"])
        metrics = router_metrics.means(routed, e.per_token, devices)
        if e.router.bias:
            params = router_metrics.updated_biases(params, routed, e.router.bias)
        return params, metrics

    def process_of(self, params) -> Process:
        """Returns the process with the objective's own parameters; masks where there is none."""
        # Without parameters the process is the one that training begins with.
        own = params.get("objective", {}) if params else {}
        return self.objective.process_of(own) or MaskNoise(vocab=self.run.nn.vocab)

    def batches(self, step: int) -> Iterator[Batch]:
        """Returns the batches of updates `step` + 1, `step` + 2, …, on the devices."""
        # Each process reads its own rows.
        share = (jax.process_index(), jax.process_count())
        rows = self.run.data.batches(self.windows, self.run.seed, step, *share)
        return map(self.put, rows)

    @cached_property
    def windows(self):
        """The windows of the training text."""
        return self.run.data.train_windows(self.tokenizer, self.run.seed)

    def put(self, rows: dict) -> Batch:
        """Returns a batch on the devices, from arrays on the host."""
        return mesh.put(self.mesh, rows, self.run.data.batch)

    def abstract_batch(self) -> Batch:
        """Returns shapes, dtypes and shardings of a batch of packed documents; nothing is read."""
        data = self.run.data
        integers = ("tokens_BL", "segments_BL", "positions_BL")
        dtypes: dict[str, type] = dict.fromkeys(integers, np.int32)
        dtypes |= dict(weights_BL=np.float32, noisable_BL=bool)
        # Only some data mark characters.
        if data.marked_characters:
            dtypes["marked_BL"] = bool
        shape = (data.batch, data.length)
        rows = {
            name: mesh.abstract(self.mesh, shape, dtype)
            for name, dtype in dtypes.items()
        }
        rows["index_B"] = mesh.abstract(self.mesh, (data.batch,), np.int32)
        return mesh.batch(rows, data.batch)

    # ---------------------------------------------------------------------------------- evaluation

    @functools.lru_cache(maxsize=8)  # noqa: B019 — an experiment lives as long as its process
    def bound(self, samples: int, pattern: str = "count"):
        """The jitted `bound(params, batch, key) → Bound`."""

        def estimate(params, batch, key):
            return self.reported(pattern).bound(
                self.models(params), batch, key, samples
            )

        return jax.jit(estimate)

    def reported(self, pattern: str = "count"):
        """Returns the objective by which the bound is estimated (`core.contracts.Pattern`).

        A network conditioned on the time would receive another time under a fixed count, which
        makes it another bound, so its own noise is used.
        """
        if pattern == "count" and self.run.nn.time == "none":
            return self.objective.counted()
        return self.objective

    def empty_cache(self, batch: int, length: int) -> Cache:
        """Returns an empty cache for `length` positions, spread over the devices."""
        return mesh.remembered(
            self.mesh, transformer.empty_cache(self.model, batch, length)
        )

    def generator(
        self, params, sampler, *, seed: int = 0, trace: bool = False
    ) -> Generator:
        """Returns the function from requests to replies with these parameters.

        A sampler is compiled once, whatever the parameters and the seed.
        """
        key = (sampler, trace)
        if key not in self._generators:
            visibility, tokenizer = self.objective.visibility, self.tokenizer
            model = Model(
                self.net, self.empty_cache, self.process_of, visibility, tokenizer
            )
            sharding = mesh.replicated(self.mesh) if self.mesh.size > 1 else None
            self._generators[key] = Generator(
                model, params, sampler, seed=seed, trace=trace, sharding=sharding
            )
        return self._generators[key].holding(params, seed)

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def counted(self, count: Callable):
        """The jitted `count(experiment, params, batch, key)` of an evaluator."""
        return jax.jit(functools.partial(count, self))


@dataclass(frozen=True)
class VocabOnlyTokenizer:
    """Replaces a tokenizer where no text is read and only shapes matter."""

    vocab: Vocab

    @property
    def bytes_V(self) -> np.ndarray:
        return np.ones(self.vocab.size, np.int32)


def check_sampler(run: Run) -> None:
    """Raises UserError where the config's sampler cannot sample from the model.

    An override of the objective leaves the recipe's sampler as it was, which would only be noticed
    after training.
    """
    process = run.objective.process or MaskNoise(vocab=run.nn.vocab)
    try:
        resolve(run.sampler, process, run.objective.visibility)
    except UserError as error:
        # Some errors name their field, others only the problem.
        names_field = str(error).startswith("sampler.")
        place = "config." if names_field else "config.sampler: "
        raise UserError(f"{place}{error}") from None
