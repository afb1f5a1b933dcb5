"""The dimensions of attention: heads, rotary positions, latents. No JAX here."""

from dataclasses import dataclass, field
from typing import Literal

Sizes = tuple[int, int]  # (heads, size of each)


@dataclass(frozen=True)
class Rope:
    """How fast the dimensions of a head turn with the position (`nn.rope`)."""

    base: float = 10_000.0
    kind: Literal["plain", "linear", "llama3"] = "plain"
    # Slow frequencies are divided by it; 'plain' does not read it.
    factor: float = 8.0
    # Of 'llama3', in turns within `original` positions: a frequency below `low` is divided by
    # the factor, one above `high` is not.
    low: float = 1.0
    high: float = 4.0
    original: int = 8192  # length of the first training

    def __post_init__(self):
        positive = self.base > 0 and self.factor > 0 and self.original >= 1
        if not positive or not 0 < self.low < self.high:
            rule = "base, factor and original must be positive"
            raise ValueError(f"rope: {rule}, and low positive and below high")


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: keys and values of all heads from one short vector of a token.

    The heads share one rotary key (`nn.latent_attention`).
    """

    # R, size of that vector; 0: ordinary grouped-query attention.
    kv_rank: int = 0
    # Q, size of the vector that the queries are computed from; 0: they are computed from h.
    q_rank: int = 0
    # Sizes of a head: the part of queries and keys that is independent of the position, the part
    # that turns with it, and the value.
    nope: int = 128
    rope: int = 64
    value: int = 128

    def __post_init__(self):
        if min(self.q_rank, self.kv_rank) < 0 or min(self.nope, self.value) < 1:
            rule = "q_rank and kv_rank must not be negative, nope and value at least 1"
            raise ValueError(f"latent: {rule}")
        if self.q_rank and not self.kv_rank:
            cause = "needs latent.kv_rank: 0 is ordinary grouped-query attention"
            raise ValueError(f"latent.q_rank={self.q_rank} {cause}")
        if self.rope < 2 or self.rope % 2:
            cause = "must be even, since rotary embeddings pair its dimensions"
            raise ValueError(f"latent.rope={self.rope} {cause}")

    def matmul(self, width: int, heads: int) -> int:
        """Returns the number of parameters of its matrices in a model of this width."""
        query = heads * (self.nope + self.rope)
        queries = width * query
        if self.q_rank:
            queries = (width + query) * self.q_rank
        down = width * (self.kv_rank + self.rope)
        up = self.kv_rank * heads * (self.nope + self.value)
        output = heads * self.value * width
        return queries + down + up + output


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention: every kv head serves heads / kv_heads query heads.

    With a `latent`, multi-head latent attention.
    """

    heads: int = 4
    kv_heads: int = 4  # not read with a latent, like head_size
    head_size: int = 32
    # Norms of each head's queries and keys; with a latent, of the low-rank vectors.
    qk_norm: Literal["none", "rms"] = "rms"
    # Of queries, keys and values, or of the output too; not read with a latent.
    bias: Literal["none", "qkv", "all"] = "none"
    rope: Rope = field(default_factory=Rope)
    latent: Latent = field(default_factory=Latent)

    def __post_init__(self):
        if self.heads < 1:
            raise ValueError(f"heads={self.heads} must be at least 1")
        if self.latent.kv_rank:
            return
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}"
            )
        if self.head_size < 2 or self.head_size % 2:
            cause = "must be even, since rotary embeddings pair its dimensions"
            raise ValueError(f"head_size={self.head_size} {cause}")

    @property
    def sizes(self) -> tuple[int, int]:
        """The sizes of a head's query and of its value."""
        t = self.latent
        if t.kv_rank:
            return t.nope + t.rope, t.value
        return self.head_size, self.head_size

    @property
    def rotary(self) -> int:
        """The number of dimensions of a head that turn with the position."""
        return self.latent.rope if self.latent.kv_rank else self.head_size

    @property
    def memory(self) -> tuple[Sizes, Sizes]:
        """The sizes of the two arrays of a token in the cache.

        They are keys and values or, with a latent, the rotary key and the latent.
        """
        t = self.latent
        if t.kv_rank:
            return (1, t.rope), (1, t.kv_rank)
        own = self.kv_heads, self.head_size
        return own, own

    def matmul(self, width: int) -> int:
        """Returns the number of parameters of its matrices in a model of this width."""
        if self.latent.kv_rank:
            return self.latent.matmul(width, self.heads)
        # The output projection is as large as that of the queries, values are like keys.
        return width * self.head_size * 2 * (self.heads + self.kv_heads)

    def biases(self, width: int) -> int:
        """Returns the number of parameters of its biases."""
        if self.latent.kv_rank or self.bias == "none":
            return 0
        inward = self.head_size * (self.heads + 2 * self.kv_heads)
        return inward + (width if self.bias == "all" else 0)

    @property
    def norms(self) -> int:
        """The number of parameters of its norms."""
        if self.qk_norm == "none":
            return 0
        if self.latent.kv_rank:
            return self.latent.q_rank + self.latent.kv_rank
        return 2 * self.head_size
