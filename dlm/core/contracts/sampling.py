"""What a sampling rule receives and returns."""

from typing import Any, Literal, Protocol

import jax

from dlm.core.contracts.canvas import Canvas
from dlm.core.contracts.diffusion import Process
from dlm.core.contracts.network import Output

Ends = Literal["unmasked", "unchanged", "late"]


class Rule(Protocol):
    """Which positions are decided in a step, and how."""

    @property
    def claims(self) -> str:
        """The law of what is sampled, in words."""

    @property
    def order_randomness(self) -> str | None:
        """How the positions depend on sampled tokens, if they do."""

    @property
    def edits_tokens(self) -> bool:
        """Whether decided tokens may change although the process is final."""

    @property
    def always_progresses(self) -> bool:
        """Whether each step decides at least one position."""

    @property
    def ends(self) -> Ends:
        """When a row is finished."""

    def init(self, canvas: Canvas) -> Any:
        """Returns the rule's state before the first step, one entry for each row."""

    def time(self, state: Any, t_B: jax.Array, process: Process) -> jax.Array:
        """Returns the time that the network is given, float32_B."""

    def step(
        self, key_B: jax.Array, output: Output, canvas: Canvas, view: Any, state: Any
    ) -> tuple[Canvas, Any]:
        """Returns the canvas at time s and the new state; only active positions may change."""


class Remask(Protocol):
    """Which decided tokens become masks again."""

    @property
    def marginals(self) -> Literal["kept", "changed"]:
        """Whether the share of masks at each time is that of the plain process."""

    @property
    def ends(self) -> Ends:
        """When a row is finished."""

    def clock(self, u: jax.Array, process: Process) -> jax.Array:
        """Returns the time of the noise when a share u of the steps is left."""

    def rate(
        self,
        output: Output,
        canvas: Canvas,
        view: Any,
        alpha_t_B1: jax.Array,
        alpha_s_B1: jax.Array,
    ) -> jax.Array:
        """Returns the probability that a token becomes a mask in this step, float32_BL."""
