"""What sampling passes around: the view of a step, and the parts that decide what it does.

Shapes: B rows, L positions, R of them in the window of a step. T: recorded passes.
"""

from typing import Any, Literal, NamedTuple, Protocol

from jax import Array

from dlm.core.contracts.canvas import Canvas
from dlm.core.contracts.diffusion import Process
from dlm.core.contracts.network import Net, Output
from dlm.core.contracts.prediction import Prediction
from dlm.core.pytree import pytree

# When a row needs no further step in its block: without undecided positions; if the last step
# changed nothing either; or only after all steps.
StopsWhen = Literal["decided", "unchanged", "out_of_steps"]


class Trace(NamedTuple):
    """The passes that were recorded, of which the first `passes` are valid."""

    states_TBL: Array  # tokens after each pass
    log_prob_TBL: Array
    times_T: Array  # share of the steps that are left
    passes: Array


@pytree
class Sampled:
    """A canvas, and how it was filled so far."""

    canvas: Canvas
    log_prob_BL: Array  # of each token when it was decided, nats; 0 at anchors
    nfe: Array  # calls of the network, the same for every row
    trace: Trace | None = None


class StepView(Protocol):
    """A step from time t to s, at the R positions of its window."""

    @property
    def canvas(self) -> Canvas:
        """The window; its layout is complete."""

    @property
    def process(self) -> Process:
        """How tokens were destroyed."""

    @property
    def active_BR(self) -> Array:
        """The positions that may change, bool."""

    @property
    def t_B(self) -> Array:
        """The time at which the step begins."""

    @property
    def s_B(self) -> Array:
        """The time at which it ends, less than t."""

    @property
    def log_prob_BR(self) -> Array:
        """The log-probability of each token when it was decided."""

    @property
    def sigma_BR(self) -> Array | float:
        """The probability with which a token becomes a mask in this step."""

    @property
    def remasked_BR(self) -> Array | None:
        """The tokens that become masks in this step, bool; None: none."""

    def undecided(self) -> Array:
        """Returns the active positions that are still to be filled, bool_BR."""

    def first(self, undecided_BR: Array, score_BR: Array) -> Array:
        """Returns the share (t − s)/t of the positions, at least one, with the highest scores."""


class Rule(Protocol):
    """Which positions are decided in a step, and how."""

    @property
    def claims(self) -> str:
        """The law of the samples, in words."""

    @property
    def order_randomness(self) -> str | None:
        """How the positions depend on sampled tokens; None: they do not."""

    @property
    def fixed_order(self) -> str | None:
        """The name of the order of positions, where the rule has one that is fixed."""

    @property
    def edits_tokens(self) -> bool:
        """Whether decided tokens may change although the process is final."""

    @property
    def always_progresses(self) -> bool:
        """Whether each step decides at least one position."""

    @property
    def needs_final(self) -> bool:
        """Whether the rule works only where decided tokens never change."""

    @property
    def needs_schedule(self) -> bool:
        """Whether the rule works only with one noise schedule for all tokens."""

    @property
    def stops_when(self) -> StopsWhen:
        """When a row needs no further step in its block."""

    # Each rule has a state of its own type, so it is Any here.
    def init(self, canvas: Canvas) -> Any:
        """Returns the rule's state before the first step, one entry for each row."""

    def time(self, state: Any, t_B: Array, process: Process) -> Array:
        """Returns the time that the network is given, float32_B."""

    def choose(self, prediction: Prediction, view: StepView) -> Array:
        """Returns the positions to decide, bool_BR; deterministic rules only."""

    def step(
        self, key_B: Array, output: Output, view: StepView, state: Any
    ) -> tuple[Array, Any]:
        """Returns the tokens z_BR at time s, and the new state."""


class Remask(Protocol):
    """Which decided tokens become masks again."""

    @property
    def marginals(self) -> Literal["kept", "changed"]:
        """Whether the share of masks at each time is that of the plain process."""

    @property
    def stops_when(self) -> StopsWhen:
        """When a row needs no further step in its block."""

    def clock(self, u: Array, process: Process) -> Array:
        """Returns the time of the noise when a share u of the steps is left."""

    def sigma(self, output: Output, view: StepView) -> Array:
        """Returns the probability that a token becomes a mask in this step, float32_BR."""


class Recorder(Protocol):
    """Keeps a frame of every pass, or nothing."""

    def frame(
        self, trace: Trace | None, z_BL: Array, log_prob_BL: Array, left: Any
    ) -> Trace | None:
        """Returns the trace with a further frame; `left` is the share of the steps left."""

    def left(self, step: Any) -> Any:
        """Returns the share of all steps that is left after this one of the current pass."""


class Driver(Protocol):
    """The outer loop of sampling."""

    @property
    def claims(self) -> str:
        """The law of the samples, in words."""

    @property
    def order_randomness(self) -> str | None:
        """How the positions decided depend on random draws, whatever the rule; None: not."""

    @property
    def needs_final(self) -> bool:
        """Whether the driver works only where decided tokens never change."""

    @property
    def drafts(self) -> bool:
        """Whether `block` and `steps` are those of a draft, and no rule is used."""

    def run(
        self,
        net: Net,
        plan: Any,
        process: Process,
        start: Sampled,
        key_B: Array,
        recorder: Recorder,
        *,
        stop: bool = False,
        prefill: int = 0,
    ) -> Sampled:
        """Fills the canvas of `start`, in whose cache there may be room for keys and values.

        Args:
          net: the network.
          plan: the settings (`samplers.plan.Sampler`), resolved for the model.
          process: how tokens were destroyed.
          start: the canvas, and the passes over it so far.
          key_B: one key for each row.
          recorder: keeps the trace.
          stop: whether a row is finished at its end of text.
          prefill: leading positions, all of them anchors, that are computed in one pass.
        """
