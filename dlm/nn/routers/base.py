"""What all routers share: scores, options of the losses, checks.

JAX is imported inside the methods, so that a config with routers can be read without it.

    S = softmax(x W) over all E experts (or sigmoid, each expert on its own)
    pick K of E by S + bias;   weight = S, or S / Σ picked S

Losses act on the gradient only (`nn.experts`), so what an objective reports keeps its claim:

    balance   α Σ_i f_i p_i,  f_i = E/(K·T) #{tokens that pick i},  p_i the mean of S_i:
              α at perfect balance (arXiv:2101.03961, 2505.21411)
    z         ζ mean (log Σ_i exp logit_i)²  (ST-MoE, arXiv:2202.08906)
    bias      no loss: after each update b_i += rate · sign(mean load − load_i), for the
              selection only (arXiv:2408.15664)
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import jax

# Whether a token's experts depend on others: 'batch': on earlier tokens of its batch;
# 'row': on all tokens of its row.
Competing = Literal["never", "batch", "row"]
Weights = Literal["plain", "renormalised"]


@dataclass(frozen=True)
class Balance:
    """The balance loss: its α, the tokens that f and p are taken over, the competing experts."""

    weight: float = 0.0
    # Tokens of the whole batch, of an expert-parallel group, or of each device.
    pool: Literal["all", "expert", "device"] = "all"
    # group: the mean over the groups of each group's own loss.
    within: Literal["all", "group"] = "all"

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"balance.weight={self.weight} must not be negative")


@dataclass(frozen=True)
class Router:
    """The options of all rules; a member says how experts are picked."""

    score: Literal["softmax", "sigmoid"] = "softmax"
    # A factor for each expert, as in Pangu Pro's released code (its start: `nn.experts`).
    scale: Literal["none", "learned"] = "learned"
    z: float = 0.0

    even: ClassVar[bool] = False  # whether every group is picked from equally often

    @property
    def competing(self) -> Competing:
        """Whether a token's experts depend on other tokens."""
        return "never"

    @property
    def capacity(self) -> float:
        """Of an expert, in multiples of an even load; 0: no limit."""
        return 0.0

    @property
    def groups(self) -> int:
        """Number of groups that the experts are divided into."""
        return 1

    @property
    def weights(self) -> Weights:
        """Whether the weights of the picked experts are made to sum to 1."""
        return "plain"

    @property
    def balance(self) -> Balance:
        """The balance loss."""
        return Balance()

    @property
    def bias(self) -> float:
        """Rate of the balancing bias; 0: there is none."""
        return 0.0

    def __post_init__(self):
        if self.z < 0:
            raise ValueError(f"z={self.z} must not be negative")

    def check(self, experts: int, active: int) -> None:
        """Raises ValueError where so many experts cannot be routed to like this."""
        if experts % self.groups:
            raise ValueError(
                f"router.groups={self.groups} must divide experts.count={experts}"
            )
        if not 0 < active <= experts:
            limit = f"between 1 and experts.count={experts}"
            raise ValueError(f"experts.per_token={active} must be {limit}")

    def scores(self, logits_TE: "jax.Array") -> "jax.Array":
        """Returns S, float32."""
        import jax
        import jax.numpy as jnp

        logits_TE = logits_TE.astype(jnp.float32)
        if self.score == "softmax":
            return jax.nn.softmax(logits_TE, -1)
        return jax.nn.sigmoid(logits_TE)

    def shares(self, scores_TE: "jax.Array", groups: int = 0) -> "jax.Array":
        """Returns S as a distribution over what competes in the loss.

        These are all experts, or those of each of so many groups (0: as the balance loss says).
        """
        if not groups:
            groups = self.groups if self.balance.within == "group" else 1
        s_TGX = scores_TE.reshape(len(scores_TE), groups, -1)
        total_TG1 = s_TGX.sum(-1, keepdims=True)
        return (s_TGX / total_TG1 / groups).reshape(scores_TE.shape)


@dataclass(frozen=True)
class TokenChoice(Router):
    """Each token picks its experts: a member says which."""

    weights: Weights = "plain"
    balance: Balance = Balance()
    bias: float = 0.0  # rate of the balancing bias; 0: there is none

    def __post_init__(self):
        super().__post_init__()
        if self.bias < 0:
            raise ValueError(f"bias={self.bias} must not be negative")

    @abstractmethod
    def pick(self, select_TE: "jax.Array", active: int) -> "jax.Array":
        """Returns the ids of each token's experts, [T, K], best first within what competes."""

    def weigh(self, scores_TE: "jax.Array", expert_TK: "jax.Array") -> "jax.Array":
        """Returns the weight of each pick."""
        import jax.numpy as jnp

        weight_TK = jnp.take_along_axis(scores_TE, expert_TK, 1)
        if self.weights == "renormalised":
            return weight_TK / weight_TK.sum(1, keepdims=True)
        return weight_TK


def largest(x: "jax.Array", k: int) -> "jax.Array":
    """Returns the places of the k largest along the last axis, largest first.

    The earlier of equals goes first. Where k is small there is no sort.
    """
    import jax
    import jax.numpy as jnp

    if k > 2:
        return jax.lax.top_k(x, k)[1]
    first = jnp.argmax(x, -1, keepdims=True)
    if k == 1:
        return first
    is_first = jnp.arange(x.shape[-1]) == first
    rest = jnp.where(is_first, -jnp.inf, x)
    second = jnp.argmax(rest, -1, keepdims=True)
    return jnp.concatenate([first, second], -1)
