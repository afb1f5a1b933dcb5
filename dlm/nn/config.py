"""The backbone's dimensions, with the parameter and FLOP counts that follow from them. No JAX here."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dlm.core.config import member
from dlm.core.vocab import Vocab
from dlm.nn import heads


@dataclass(frozen=True)
class Latent:
    """Keys and values of all heads from one short vector of each token, and one rotary key that the heads share (`nn.latent_attention`)."""

    kv_rank: int = 0  # R, of that vector; 0: none, ordinary grouped-query attention
    q_rank: int = 0  # Q, of the queries' own; 0: they are read off the width
    nope: int = 128  # of a head's query and key, what does not know where it stands
    rope: int = 64  # of a head's query, and the shared key
    value: int = 128  # of a head

    def __post_init__(self):
        if min(self.q_rank, self.kv_rank) < 0 or min(self.nope, self.value) < 1:
            raise ValueError(
                "latent: q_rank and kv_rank must not be negative, nope and value at least 1"
            )
        if self.q_rank and not self.kv_rank:
            raise ValueError(
                f"latent.q_rank={self.q_rank} needs latent.kv_rank: 0 is ordinary grouped-query attention"
            )
        if self.rope < 2 or self.rope % 2:
            raise ValueError(
                f"latent.rope={self.rope} must be even, since rotary embeddings pair its dimensions"
            )

    def matmul(self, width: int, heads: int) -> int:
        """Parameters of its matrices in a model of that width."""
        asked = (
            (width + heads * (self.nope + self.rope)) * self.q_rank
            if self.q_rank
            else width * heads * (self.nope + self.rope)
        )
        return (
            asked
            + width * (self.kv_rank + self.rope)
            + self.kv_rank * heads * (self.nope + self.value)
            + heads * self.value * width
        )


@dataclass(frozen=True)
class Rope:
    """How fast the dimensions of a head turn with the position (`nn.rope`)."""

    base: float = 10_000.0
    kind: Literal["plain", "linear", "llama3"] = "plain"
    factor: float = 8.0  # by which the others slow down; not read by 'plain'
    low: float = 1.0  # 'llama3': what turns less often within `original` positions is slowed down,
    high: float = 4.0  # and what turns more often is not
    original: int = 8192  # positions of the first training

    def __post_init__(self):
        if self.base <= 0 or self.factor <= 0 or self.original < 1 or not 0 < self.low < self.high:
            raise ValueError(
                "rope: base, factor and original must be positive, and low positive and below high"
            )


@dataclass(frozen=True)
class Norm:
    """Root-mean-square norms: before each sub-layer, or on both sides of it (sandwich; `nn.transformer` says how that starts)."""

    kind: Literal["pre", "sandwich"] = "pre"
    epsilon: float = 1e-6

    def __post_init__(self):
        if not 0 < self.epsilon < 1:
            raise ValueError(f"norm.epsilon={self.epsilon} must be in (0, 1)")


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention: every kv head serves heads / kv_heads query heads. With a `latent`, multi-head latent attention."""

    heads: int = 4
    kv_heads: int = 4  # not read with a latent, like head_size
    head_size: int = 32
    qk_norm: Literal["none", "rms"] = (
        "rms"  # of each head's queries and keys; with a latent, of the low-rank vectors
    )
    bias: Literal["none", "qkv", "all"] = (
        "none"  # of queries, keys and values, or of the output too; not read with a latent
    )
    rope: Rope = field(default_factory=Rope)
    latent: Latent = field(default_factory=Latent)

    @property
    def sizes(self) -> tuple[int, int]:
        """Of a head's query, and of its value."""
        t = self.latent
        return (t.nope + t.rope, t.value) if t.kv_rank else (self.head_size, self.head_size)

    @property
    def rotary(self) -> int:
        """How many dimensions of a head turn with its position."""
        return self.latent.rope if self.latent.kv_rank else self.head_size

    @property
    def memory(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(heads, size) of the two arrays that a cache keeps of a token: keys and values, or the rotary key and the latent."""
        t, own = self.latent, (self.kv_heads, self.head_size)
        return ((1, t.rope), (1, t.kv_rank)) if t.kv_rank else (own, own)

    def matmul(self, width: int) -> int:
        """Parameters of its matrices in a model of that width."""
        if self.latent.kv_rank:
            return self.latent.matmul(width, self.heads)
        return width * self.head_size * (2 * self.heads + 2 * self.kv_heads)

    def biases(self, width: int) -> int:
        """Parameters of its biases."""
        if self.latent.kv_rank or self.bias == "none":
            return 0
        return self.head_size * (self.heads + 2 * self.kv_heads) + (
            width if self.bias == "all" else 0
        )

    @property
    def norms(self) -> int:
        """Parameters of its norms."""
        own = (
            self.latent.q_rank + self.latent.kv_rank if self.latent.kv_rank else 2 * self.head_size
        )
        return own if self.qk_norm == "rms" else 0

    def __post_init__(self):
        if self.heads < 1:
            raise ValueError(f"heads={self.heads} must be at least 1")
        if self.latent.kv_rank:
            return
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_size < 2 or self.head_size % 2:
            raise ValueError(
                f"head_size={self.head_size} must be even, since rotary embeddings pair its dimensions"
            )


@dataclass(frozen=True)
class FFN:
    """'swiglu': (silu(x·gate) ∘ x·up)·down; 'relu2': relu(x·up)²·down, which is faster where exp is slow (CPU)."""

    kind: Literal["swiglu", "relu2", "gelu"] = "swiglu"
    width: int = 384

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width} must be positive")

    def matmul(self, width: int) -> int:
        """Parameters of its matrices in a model of that width."""
        return (3 if self.kind == "swiglu" else 2) * width * self.width


@dataclass(frozen=True)
class Experts:
    """In the place of a dense FFN: `count` small ones, of which a router picks `per_token` for each token, and `shared` that all pass.

    They are of the kind of `nn.ffn`. The first `first_dense` layers have none, and of the others each `period`-th.
    """

    count: int = 0  # E; 0: every layer's FFN is dense
    per_token: int = 8  # K, of each token; the mean where experts choose
    width: int = 128  # F of one expert
    shared: int = 0  # as one dense FFN of shared × width
    first_dense: int = 0
    period: int = 1
    router: Any = member("nn.routers", "moge")
    backend: Literal["loop", "blocks", "ragged", "tokamax"] = (
        "blocks"  # how the same sums are computed (`nn.expert_matmul`)
    )
    block: int = 0  # rows of every expert that 'blocks' takes first; 0: an even load and what chance makes of it

    def __post_init__(self):
        if (
            min(self.count, self.shared, self.first_dense, self.block) < 0
            or min(self.width, self.period) < 1
        ):
            raise ValueError(
                "experts: number, shared, dense and block must not be negative, width and every at least 1"
            )
        if self.count:
            self.router.check(self.count, self.per_token)

    def fit(self, expert: int, tensor: int) -> None:
        """Raises ValueError where they cannot be dealt out over so many devices, or their widths over so many."""
        whole = self.router.groups if self.router.even else self.count
        if whole % expert:
            name = "nn.experts.router.groups" if self.router.even else "nn.experts.count"
            raise ValueError(
                f"mesh.expert={expert} must divide {name}={whole}: a device holds whole groups, else loads would differ"
            )
        if self.width % tensor or self.shared * self.width % tensor:
            raise ValueError(f"mesh.tensor={tensor} must divide nn.experts.width={self.width}")


class Stack(NamedTuple):
    """Layers that are computed by one scan: `count` times a group of layers with (True) and without (False) experts."""

    name: str
    count: int
    kinds: tuple[bool, ...]

    @property
    def layers(self) -> int:
        return self.count * len(self.kinds)

    def folded(self, x_N):
        """What stands along the layers, along the steps of the scan and, where a step has several, its layers."""
        return (
            x_N
            if len(self.kinds) == 1
            else x_N.reshape(self.count, len(self.kinds), *x_N.shape[1:])
        )


@dataclass(frozen=True)
class Compute:
    """How the same function is computed; none of these changes a parameter's shape."""

    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of matmuls and activations; parameters stay float32
    )
    remat: Literal["none", "block", "dots"] = (
        "none"  # 'block' keeps only each layer's input, 'dots' also its matmuls
    )
    unroll: int = 1  # layers per scan step; all of them is fastest on CPU, 1 compiles fastest

    def __post_init__(self):
        if self.unroll < 1:
            raise ValueError(f"unroll={self.unroll} must be at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """One transformer."""

    layers: int = 4
    width: int = 128
    attention: Attention = field(default_factory=Attention)
    ffn: FFN = field(default_factory=FFN)
    experts: Experts = field(default_factory=Experts)
    norm: Norm = field(default_factory=Norm)
    embeddings: Literal["tied", "untied"] = "tied"
    time: Literal["none", "adaln"] = (
        "none"  # masked diffusion does not need the time: the mask ratio is visible
    )
    heads: tuple[
        str, ...
    ] = ()  # beside the prediction; 'quality': is the token that stands here right? (`objectives.prism`)
    mtp_layers: int = 0  # layers behind the last, each predicting from one token further back (`nn.transformer.Ahead`); for `objectives.ar`
    compute: Compute = field(default_factory=Compute)
    vocab: Vocab | None = None

    def __post_init__(self):
        if self.layers < 1 or self.width < 1 or self.mtp_layers < 0:
            raise ValueError(
                f"layers={self.layers} and width={self.width} must be positive, mtp_layers={self.mtp_layers} not negative"
            )
        if unknown := set(self.heads) - set(heads.names()):
            there = ", ".join(map(repr, heads.names()))
            raise ValueError(f"heads={self.heads}: no head {min(unknown)!r}; there is {there}")
        e = self.experts
        if e.count and (self.layers <= e.first_dense or (self.layers - e.first_dense) % e.period):
            raise ValueError(
                f"layers={self.layers} must be experts.first_dense={e.first_dense} and a multiple of experts.period={e.period} more"
            )

    TIME_FEATURES = 64
    TIME_WIDTH = 128

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The layers in their order."""
        e = self.experts
        if not e.count:
            return (Stack("layers", self.layers, (False,)),)
        first = (Stack("first", e.first_dense, (False,)),) if e.first_dense else ()
        return (
            *first,
            Stack(
                "layers",
                (self.layers - e.first_dense) // e.period,
                (False,) * (e.period - 1) + (True,),
            ),
        )

    @property
    def expert_layers(self) -> int:
        return sum(stack.count * sum(stack.kinds) for stack in self.stacks)

    def suits(self, objective, mesh) -> None:
        """Raises ValueError where an objective or a mesh does not go with the layers ahead or the experts."""
        e, visibility = self.experts, objective.visibility
        wanted = getattr(objective, "mtp_weight", None)
        if self.mtp_layers and not wanted:
            only = (
                "is trained by objectives.ar alone"
                if wanted is None
                else "needs objective.mtp_weight, its weight in the loss (0.3)"
            )
            raise ValueError(f"nn.mtp_layers={self.mtp_layers} {only}")
        if wanted and not self.mtp_layers:
            raise ValueError(
                f"objective.mtp_weight={wanted} needs layers that predict from further back: set nn.mtp_layers=1"
            )
        if not e.count:
            return
        looks_ahead = visibility.infills and visibility.streams == 1
        if e.router.competing == "row" and not looks_ahead:
            raise ValueError(
                "nn.experts.router: where experts choose among the tokens of a row they look ahead, so they go with masked diffusion only"
            )
        e.fit(mesh.expert, mesh.tensor)

    # ------------------------------------------------------------------------------------------------------- counts

    def _layer(self, sparse: bool, experts: int) -> int:
        """Parameters of a layer's matrices, of so many of its experts."""
        e, D = self.experts, self.width
        through = (
            e.count * D + (experts + e.shared) * FFN(self.ffn.kind, e.width).matmul(D)
            if sparse
            else self.ffn.matmul(D)
        )
        return self.attention.matmul(D) + through

    def _all_layers(self, experts: int) -> int:
        """The same of all layers, those ahead included, which are of the last one's kind and join two vectors first."""
        dense, sparse = (
            self._layer(False, experts),
            self._layer(True, experts) if self.experts.count else 0,
        )
        ahead = self.mtp_layers * ((sparse or dense) + 2 * self.width**2)
        return (self.layers - self.expert_layers) * dense + self.expert_layers * sparse + ahead

    @property
    def matmul(self) -> int:
        """Parameters of the matrices that one token passes in training: all layers' and the head's, the embedding look-up not."""
        return (
            self._all_layers(self.experts.per_token)
            + (1 + self.mtp_layers) * self.vocab.size * self.width
        )

    @property
    def active_parameters(self) -> int:
        """The parameters less the experts that a token does not pass."""
        return (
            self.parameters
            - self._all_layers(self.experts.count)
            + self._all_layers(self.experts.per_token)
        )

    @property
    def parameters(self) -> int:
        """All parameters: matrices, norms, embeddings, time conditioning."""
        e, D = self.experts, self.width
        norms = (
            (2 if self.norm.kind == "pre" else 4) * D
            + self.attention.norms
            + self.attention.biases(D)
        )
        if self.time == "adaln":
            norms += 4 * self.TIME_WIDTH * D
        others = (self.layers + self.mtp_layers) * norms + self.mtp_layers * 2 * D
        if e.count:
            extra = (e.router.scale == "learned") + (e.router.bias > 0)
            others += (self.expert_layers + self.mtp_layers) * e.count * extra
        if self.time == "adaln":
            others += self.TIME_FEATURES * self.TIME_WIDTH
        others += sum(heads.head(name).parameters(D, self.vocab.size) for name in self.heads)
        return (
            self._all_layers(e.count)
            + (2 if self.embeddings == "untied" else 1) * self.vocab.size * D
            + others
            + D
        )

    def flops_per_token(self, length: int) -> float:
        """Model FLOPs of one training token, forward and backward: 6 per matmul parameter it passes (the head included, the embedding
        look-up not) and 12·H·K·L per layer for scores and values, counted over the whole L × L square for causal masks too."""
        square = (
            6
            * (self.layers + self.mtp_layers)
            * self.attention.heads
            * sum(self.attention.sizes)
            * length
        )
        return 6.0 * self.matmul + square
