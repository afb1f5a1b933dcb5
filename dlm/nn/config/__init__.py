"""The backbone's dimensions, with the counts of parameters and FLOPs that follow. No JAX here."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from dlm.core.vocab import Vocab
from dlm.nn import heads
from dlm.nn.config.attention import Attention, Latent, Rope
from dlm.nn.config.experts import Experts
from dlm.nn.config.stacks import Stack

if TYPE_CHECKING:  # the contracts load JAX
    from dlm.core.contracts import Objective

__all__ = [
    "FFN",
    "Attention",
    "Compute",
    "Experts",
    "Kind",
    "Latent",
    "ModelConfig",
    "Norm",
]
__all__ += ["Rope", "Stack"]

Kind = Literal["swiglu", "relu2", "gelu"]


@dataclass(frozen=True)
class Norm:
    """Root-mean-square norms: before each sub-layer, or on both sides of it (`nn.layer`)."""

    kind: Literal["pre", "sandwich"] = "pre"
    epsilon: float = 1e-6

    def __post_init__(self):
        if not 0 < self.epsilon < 1:
            raise ValueError(f"norm.epsilon={self.epsilon} must be in (0, 1)")


@dataclass(frozen=True)
class FFN:
    """The feed-forward layer of each token.

    'swiglu': (silu(x·gate) ∘ x·up)·down; 'relu2': relu(x·up)²·down, which is faster where exp is
    slow (CPU); 'gelu': gelu(x·up)·down.
    """

    kind: Kind = "swiglu"
    width: int = 384

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width} must be positive")

    def matmul(self, width: int) -> int:
        """Returns the number of parameters of its matrices in a model of this width."""
        matrices = 3 if self.kind == "swiglu" else 2
        return matrices * width * self.width


@dataclass(frozen=True)
class Compute:
    """How the same function is computed; none of these changes a parameter's shape."""

    # Of matmuls and activations; parameters stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # 'block' stores only each layer's input for the backward pass, 'dots' also its matmuls.
    remat: Literal["none", "block", "dots"] = "none"
    # Layers of one scan step: all of them is fastest on CPU, 1 compiles fastest.
    unroll: int = 1

    def __post_init__(self):
        if self.unroll < 1:
            raise ValueError(f"unroll={self.unroll} must be at least 1")


@runtime_checkable
class TrainsFurtherTokens(Protocol):
    """An objective that can train the layers of `mtp_layers`."""

    @property
    def mtp_weight(self) -> float:
        """Their weight in the loss."""


class MeshSizes(Protocol):
    """The axes of a mesh that divide experts."""

    @property
    def expert(self) -> int:
        """Devices that experts are divided over."""

    @property
    def tensor(self) -> int:
        """Devices that the width of each expert is divided over."""


@dataclass(frozen=True)
class ModelConfig:
    """One transformer."""

    TIME_FEATURES: ClassVar[int] = 64
    TIME_WIDTH: ClassVar[int] = 128

    layers: int = 4
    width: int = 128
    attention: Attention = field(default_factory=Attention)
    ffn: FFN = field(default_factory=FFN)
    experts: Experts = field(default_factory=Experts)
    norm: Norm = field(default_factory=Norm)
    embeddings: Literal["tied", "untied"] = "tied"
    # Masked diffusion does not need the time: the mask ratio is visible.
    time: Literal["none", "adaln"] = "none"
    # Beside the prediction; 'quality': is the token at this position right? (`objectives.prism`)
    heads: tuple[str, ...] = ()
    # Layers behind the last, each predicting from one token further back (`nn.multi_token`);
    # `objectives.ar` trains them.
    mtp_layers: int = 0
    compute: Compute = field(default_factory=Compute)
    vocab: Vocab | None = None  # from the tokenizer, never from a config

    def __post_init__(self):
        if self.layers < 1 or self.width < 1 or self.mtp_layers < 0:
            sizes = f"layers={self.layers} and width={self.width} must be positive"
            raise ValueError(f"{sizes}, mtp_layers={self.mtp_layers} not negative")
        if unknown := set(self.heads) - set(heads.names()):
            known = ", ".join(map(repr, heads.names()))
            cause = f"no head {min(unknown)!r}; there is {known}"
            raise ValueError(f"heads={self.heads}: {cause}")
        e = self.experts
        further = self.layers - e.first_dense
        if e.count and (further <= 0 or further % e.period):
            rule = f"must be experts.first_dense={e.first_dense} and a multiple"
            raise ValueError(
                f"layers={self.layers} {rule} of experts.period={e.period} more"
            )

    def suits(self, objective: "Objective", mesh: MeshSizes) -> None:
        """Checks that an objective and a mesh are compatible with the layers.

        Raises ValueError otherwise, on further layers without a weight in the loss, or experts
        that look ahead or cannot be divided.
        """
        self._check_further_layers(objective)
        e, visibility = self.experts, objective.visibility
        if not e.count:
            return
        looks_ahead = visibility.infills and visibility.streams == 1
        if e.router.competing == "row" and not looks_ahead:
            cause = "experts that choose among the tokens of a row look ahead"
            raise ValueError(
                f"nn.experts.router: {cause}, so they go with masked diffusion only"
            )
        e.fit(mesh.expert, mesh.tensor)

    def _check_further_layers(self, objective: "Objective") -> None:
        trains = isinstance(objective, TrainsFurtherTokens)
        weight = (
            objective.mtp_weight if isinstance(objective, TrainsFurtherTokens) else 0.0
        )
        if self.mtp_layers and not weight:
            cause = "is trained by objectives.ar alone"
            if trains:
                cause = "needs objective.mtp_weight, its weight in the loss (0.3)"
            raise ValueError(f"nn.mtp_layers={self.mtp_layers} {cause}")
        if weight and not self.mtp_layers:
            cause = "needs layers that predict from further back: set nn.mtp_layers=1"
            raise ValueError(f"objective.mtp_weight={weight} {cause}")

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The layers in their order."""
        e = self.experts
        if not e.count:
            return (Stack("layers", self.layers, (False,)),)
        steps = (self.layers - e.first_dense) // e.period
        kinds = (False,) * (e.period - 1) + (True,)
        sparse = Stack("layers", steps, kinds)
        if not e.first_dense:
            return (sparse,)
        return Stack("first", e.first_dense, (False,)), sparse

    @property
    def expert_layers(self) -> int:
        """The number of layers with experts, those of `mtp_layers` excluded."""
        return sum(stack.count * sum(stack.kinds) for stack in self.stacks)

    # ----------------------------------------------------------------------------------- counts

    @property
    def _embedding(self) -> int:
        """Parameters of one table of embeddings."""
        assert self.vocab is not None, "the tokenizer provides the vocabulary"
        return self.vocab.size * self.width

    def _dense_layer(self) -> int:
        """Parameters of the matrices of a layer without experts."""
        return self.attention.matmul(self.width) + self.ffn.matmul(self.width)

    def _sparse_layer(self, experts: int) -> int:
        """Parameters of the matrices of a layer with experts, counting so many of them."""
        e, D = self.experts, self.width
        expert = FFN(self.ffn.kind, e.width).matmul(D)
        router = e.count * D
        return self.attention.matmul(D) + router + (experts + e.shared) * expert

    def _all_layers(self, experts: int) -> int:
        """The same of all layers.

        Those of `mtp_layers` are of the last layer's kind, and first join two vectors.
        """
        dense, sparse = self._dense_layer(), 0
        last = dense
        if self.experts.count:
            last = sparse = self._sparse_layer(experts)
        further = self.mtp_layers * (last + 2 * self.width**2)
        dense_layers = self.layers - self.expert_layers
        return dense_layers * dense + self.expert_layers * sparse + further

    @property
    def matmul(self) -> int:
        """Parameters of the matrices that multiply one token in training.

        These are all layers' and the head's; the embedding look-up is no multiplication.
        """
        predictions = 1 + self.mtp_layers
        return self._all_layers(self.experts.per_token) + predictions * self._embedding

    @property
    def active_parameters(self) -> int:
        """The parameters without the experts that a token does not visit."""
        e = self.experts
        idle = self._all_layers(e.count) - self._all_layers(e.per_token)
        return self.parameters - idle

    @property
    def parameters(self) -> int:
        """All parameters: matrices, norms, embeddings, time conditioning."""
        tables = 2 if self.embeddings == "untied" else 1
        matrices = self._all_layers(self.experts.count) + tables * self._embedding
        return matrices + self._norms() + self._router_vectors() + self._others()

    def _norms(self) -> int:
        """Parameters of norms, biases and the scales of time conditioning."""
        D = self.width
        each = (2 if self.norm.kind == "pre" else 4) * D
        each += self.attention.norms + self.attention.biases(D)
        if self.time == "adaln":
            each += 4 * self.TIME_WIDTH * D
        # A further layer normalises the two vectors that it joins; one norm is the last.
        return (self.layers + self.mtp_layers) * each + (2 * self.mtp_layers + 1) * D

    def _router_vectors(self) -> int:
        """Parameters of the factors and biases of routers."""
        e = self.experts
        if not e.count:
            return 0
        vectors = int(e.router.scale == "learned") + int(e.router.bias > 0)
        return (self.expert_layers + self.mtp_layers) * e.count * vectors

    def _others(self) -> int:
        """Parameters of the layer of time features, and of the heads."""
        assert self.vocab is not None, "the tokenizer provides the vocabulary"
        count = self.TIME_FEATURES * self.TIME_WIDTH if self.time == "adaln" else 0
        for name in self.heads:
            count += heads.head(name).parameters(self.width, self.vocab.size)
        return count

    def flops_per_token(self, length: int) -> float:
        """Returns the model FLOPs of one training token, forward and backward.

        They are 6 for each parameter of `matmul` and 12·H·K·L for each layer's scores and values,
        counted over the whole L × L square for causal masks too.
        """
        per_head = sum(self.attention.sizes) * length
        all_heads = (self.layers + self.mtp_layers) * self.attention.heads
        return 6.0 * self.matmul + 6 * all_heads * per_head
