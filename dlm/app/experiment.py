"""From a Run to everything it stands for: tokenizer, data, network, mesh, jitted functions. The one place that knows all rooms."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import axes, keys
from dlm.core.contracts import Batch, Cache, Canvas, Loss, Models, Net, Output, Process, State
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

_ROWS = 16  # samples drawn at a time by an evaluator


class Experiment:
    """A run's config brought to life. Nothing is read or compiled before it is asked for."""

    def __init__(self, run: Run, tokenizer, on=None):
        self.run, self.tokenizer, self.objective = run, tokenizer, run.objective
        self.mesh = on or mesh.make(
            run.mesh
        )  # `on` an imagined mesh programs can be traced and lowered, not run
        self.model = transformer.Transformer(run.nn, self.mesh if run.nn.experts.count else None)
        expert_matmul.check(run.nn.experts.backend)
        self.optimizer = optimizer.transformation(run.optim, run.steps)
        self.root = keys.root(run.seed)
        self._generators: dict = {}
        rows, parts, shares = run.data.batch, run.optim.microbatches, axes.shards(self.mesh.shape)
        if rows % (parts * shares):
            raise UserError(
                f"config.data.batch={rows} must be a multiple of optim.microbatches={parts} × {shares} device(s) on the data axes"
            )

    def net(self, params) -> Net:
        """Returns the network with these parameters, its rows spread over the devices."""
        on_one_device = transformer.net_of(self.model, params)

        def net(canvas: Canvas) -> Output:
            return on_one_device(replace(canvas, z_BL=mesh.spread(self.mesh, canvas.z_BL)))

        return net

    # ------------------------------------------------------------------------------------------------------------ training

    def _fresh(self) -> State:
        params = transformer.initialise(self.model, keys.key(self.root, "init"))
        if own := self.objective.init(keys.key(self.root, "objective")):
            params["objective"] = own
        return create_state(params, self.run.optim, self.optimizer, self.objective.statistics())

    def _shardings(self, abstract):
        return mesh.state_shardings(self.mesh, abstract)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the training state; allocates nothing."""
        return checkpoint.abstract(self._fresh, self._shardings)

    def new_state(self) -> State:
        """The state before the first update, made where it will live; with the parameters of the run that it begins with."""
        # It runs once: compiling it is all it costs. A plugin's compiler need not know XLA's options.
        quick = {} if self.run.mesh.platform else {"xla_backend_optimization_level": 0}
        initial = jax.jit(
            self._fresh,
            out_shardings=self._shardings(jax.eval_shape(self._fresh)),
            compiler_options=quick,
        )()
        if self.run.start is None:
            return initial
        params = warm_start.taken(self.run.start, initial.params)
        return replace(
            initial,
            params=params,
            ema=None if initial.ema is None else jax.tree.map(jnp.copy, params),
        )

    @cached_property
    def update(self):
        """The jitted `update(state, batch) → (state, sums)`; the old state is given up."""
        schedule = optimizer.rate(self.run.optim, self.run.steps)
        given = (
            self.loss,
            self.run.optim,
            self.optimizer,
            schedule,
            self.root,
            self.tokenizer.bytes_V,
            self.run.steps,
        )
        update = make_update(*given, Hooks(time_sampling.updated_costs, self._route))
        return jax.jit(
            update,
            donate_argnums=0,
            out_shardings=(self._shardings(jax.eval_shape(self._fresh)), None),
        )

    def models(self, params, statistics=None, progress: jax.Array | float = 1.0) -> Models:
        """Returns what an objective may call or read beside the batch, with these parameters."""
        return Models(self.net(params), params.get("objective", {}), statistics, progress)

    def loss(
        self, params, batch: Batch, key, statistics=None, progress: jax.Array | float = 1.0
    ) -> Loss:
        """Returns the objective's loss.

        Args:
          params: parameters of the network, and the objective's own.
          batch: packed sequences.
          key: the noise key of the step.
          statistics: what the objective carries from update to update.
          progress: fraction of the updates done.
        """
        return self.objective.loss(self.models(params, statistics, progress), batch, key)

    def _route(self, params, routed):
        """The parameters with their routers' biases moved, and figures for the logs."""
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
        """Batches of updates `step` + 1, `step` + 2, …, on the devices."""
        data = self.run.data
        return map(
            self.put,
            data.batches(
                self.windows, self.run.seed, step, jax.process_index(), jax.process_count()
            ),
        )

    @cached_property
    def windows(self):
        """The windows of the training text."""
        return self.run.data.train_windows(self.tokenizer, self.run.seed)

    def put(self, rows: dict) -> Batch:
        return mesh.put(self.mesh, rows, self.run.data.batch)

    def abstract_batch(self) -> Batch:
        """Shapes, dtypes and shardings of a batch of packed documents; nothing is read."""
        data, ids = self.run.data, np.int32
        kinds = dict(
            tokens_BL=ids,
            segments_BL=ids,
            positions_BL=ids,
            weights_BL=np.float32,
            noisable_BL=bool,
        )
        kinds |= dict(marked_BL=bool) if data.marked_characters else {}
        sizes = {name: ((data.batch, data.length), kind) for name, kind in kinds.items()} | dict(
            index_B=((data.batch,), ids)
        )
        return mesh.batch(
            {name: mesh.abstract(self.mesh, *size) for name, size in sizes.items()}, data.batch
        )

    # ---------------------------------------------------------------------------------------------------------- evaluation

    @functools.lru_cache(maxsize=8)  # noqa: B019 — an experiment lives as long as its process
    def bound(self, samples: int, pattern: str = "count"):
        """The jitted `bound(params, batch, key) → Bound`."""

        def estimate(params, batch, key):
            return self.reported(pattern).bound(self.models(params), batch, key, samples)

        return jax.jit(estimate)

    def reported(self, pattern: str = "count"):
        """The objective by which its bound is estimated (`objectives.Pattern`). A network that is told the time is told another one under a
        count, which makes it another bound: there it is the run's own."""
        return (
            self.objective.counted()
            if pattern == "count" and self.run.nn.time == "none"
            else self.objective
        )

    def empty_cache(self, batch: int, length: int) -> Cache:
        """Returns an empty cache for `length` positions, spread over the devices."""
        return mesh.remembered(self.mesh, transformer.empty_cache(self.model, batch, length))

    def generator(self, params, sampler, *, seed: int = 0, trace: bool = False) -> Generator:
        """Requests to replies with these parameters; one sampler compiles once, whatever the parameters and the seed."""
        if (sampler, trace) not in self._generators:
            visibility, tokenizer = self.objective.visibility, self.tokenizer
            model = Model(self.net, self.empty_cache, self.process_of, visibility, tokenizer)
            sharding = mesh.replicated(self.mesh) if self.mesh.size > 1 else None
            self._generators[sampler, trace] = Generator(
                model, params, sampler, seed=seed, trace=trace, sharding=sharding
            )
        return self._generators[sampler, trace].holding(params, seed)

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def counted(self, count: Callable):
        """The jitted `count(experiment, params, batch, key)` of an evaluator."""
        return jax.jit(functools.partial(count, self))


@dataclass(frozen=True)
class VocabOnlyTokenizer:
    """Stands for a tokenizer where nothing is read: all that a program's shapes need."""

    vocab: Vocab

    @property
    def bytes_V(self) -> np.ndarray:
        return np.ones(self.vocab.size, np.int32)


def check_sampler(run: Run) -> None:
    """Refuses, before it is trained, a sampler that cannot draw from it: an override of the objective leaves the recipe's sampler."""
    process = run.objective.process or MaskNoise(vocab=run.nn.vocab)
    try:
        resolve(run.sampler, process, run.objective.visibility)
    except UserError as error:
        raise UserError(
            f"config.{error}" if str(error).startswith("sampler.") else f"config.sampler: {error}"
        ) from None
