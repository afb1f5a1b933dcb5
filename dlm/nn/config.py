"""The backbone's dimensions, with the parameter and FLOP counts that follow from them. No JAX here."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dlm.run.spec import Vocab, member


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention: every kv head serves heads / kv_heads query heads."""

    heads: int = 4
    kv_heads: int = 4
    head_size: int = 32
    qk_norm: Literal["none", "rms"] = "rms"
    rope_base: float = 10_000.0

    def __post_init__(self):
        if self.heads < 1 or self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_size < 2 or self.head_size % 2:
            raise ValueError(f"head_size={self.head_size} must be even, since rotary embeddings pair its dimensions")


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
    """In the place of a dense FFN: `number` small ones, of which a router picks `active` for each token, and `shared` that all pass.

    They are of the kind of `nn.ffn`. The first `dense` layers have none, and of the others each `every`-th.
    """

    number: int = 0  # E; 0: every layer's FFN is dense
    active: int = 8  # K, of each token; the mean where experts choose
    width: int = 128  # F of one expert
    shared: int = 0  # as one dense FFN of shared × width
    dense: int = 0
    every: int = 1
    router: Any = member("nn.routers", "moge")
    backend: Literal["loop", "blocks", "ragged", "tokamax"] = "blocks"  # how the same sums are computed (`nn.grouped`)
    block: int = 0  # rows that 'blocks' takes at once; 0: about a quarter of an expert's even load

    def __post_init__(self):
        if min(self.number, self.shared, self.dense, self.block) < 0 or min(self.width, self.every) < 1:
            raise ValueError("experts: number, shared, dense and block must not be negative, width and every at least 1")
        if self.number:
            self.router.check(self.number, self.active)


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
        return x_N if len(self.kinds) == 1 else x_N.reshape(self.count, len(self.kinds), *x_N.shape[1:])


@dataclass(frozen=True)
class Compute:
    """How the same function is computed; none of these changes a parameter's shape."""

    dtype: Literal["float32", "bfloat16"] = "float32"  # of matmuls and activations; parameters stay float32
    remat: Literal["none", "block", "dots"] = "none"  # 'block' keeps only each layer's input, 'dots' also its matmuls
    unroll: int = 1  # layers per scan step; all of them is fastest on CPU, 1 compiles fastest

    def __post_init__(self):
        if self.unroll < 1:
            raise ValueError(f"unroll={self.unroll} must be at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """One transformer: pre-norm, or with a norm on both sides of each sub-layer (sandwich)."""

    layers: int = 4
    width: int = 128
    attention: Attention = field(default_factory=Attention)
    ffn: FFN = field(default_factory=FFN)
    experts: Experts = field(default_factory=Experts)
    norm: Literal["pre", "sandwich"] = "pre"
    embeddings: Literal["tied", "untied"] = "tied"
    time: Literal["none", "adaln"] = "none"  # masked diffusion does not need the time: the mask ratio is visible
    heads: tuple[str, ...] = ()  # beside the prediction; 'quality': is the token that stands here right? (`objectives.prism`)
    compute: Compute = field(default_factory=Compute)
    vocab: Vocab | None = None

    def __post_init__(self):
        if self.layers < 1 or self.width < 1:
            raise ValueError(f"layers={self.layers} and width={self.width} must be positive")
        if unknown := set(self.heads) - {"quality"}:
            raise ValueError(f"heads={self.heads}: no head {min(unknown)!r}; there is 'quality'")
        e = self.experts
        if e.number and (self.layers <= e.dense or (self.layers - e.dense) % e.every):
            raise ValueError(f"layers={self.layers} must be experts.dense={e.dense} and a multiple of experts.every={e.every} more")

    TIME_FEATURES = 64
    TIME_WIDTH = 128

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The layers in their order."""
        e = self.experts
        if not e.number:
            return (Stack("layers", self.layers, (False,)),)
        first = (Stack("first", e.dense, (False,)),) if e.dense else ()
        return (*first, Stack("layers", (self.layers - e.dense) // e.every, (False,) * (e.every - 1) + (True,)))

    @property
    def expert_layers(self) -> int:
        return sum(stack.count * sum(stack.kinds) for stack in self.stacks)

    def suits(self, mask, mesh) -> None:
        """Raises ValueError where an objective's attention or a mesh does not go with the experts."""
        e = self.experts
        if not e.number:
            return
        if e.router.competing == "row" and mask.kind != "full":
            raise ValueError(
                "nn.experts.router: where experts choose among the tokens of a row they look ahead, so they go with masked diffusion only"
            )
        whole = e.router.groups if e.router.even else e.number
        if whole % mesh.expert:
            name = "nn.experts.router.groups" if e.router.even else "nn.experts.number"
            raise ValueError(f"mesh.expert={mesh.expert} must divide {name}={whole}: a device holds whole groups, else loads would differ")
        if e.width % mesh.tensor or e.shared * e.width % mesh.tensor:
            raise ValueError(f"mesh.tensor={mesh.tensor} must divide nn.experts.width={e.width}")

    # ------------------------------------------------------------------------------------------------------- counts

    @property
    def _attention_matmul(self) -> int:
        a = self.attention
        return self.width * a.head_size * (2 * a.heads + 2 * a.kv_heads)

    @property
    def matmul(self) -> int:
        """Parameters of the matrices that one token passes: all layers' and the head's, the embedding look-up not."""
        e, D = self.experts, self.width
        passed = e.number * D + (e.active + e.shared) * FFN(self.ffn.kind, e.width).matmul(D)
        dense = (self.layers - self.expert_layers) * self.ffn.matmul(D)
        return self.layers * self._attention_matmul + dense + self.expert_layers * passed + self.vocab.size * D

    @property
    def active_parameters(self) -> int:
        """The parameters less the experts that a token does not pass."""
        e = self.experts
        return self.parameters - self.expert_layers * (e.number - e.active) * FFN(self.ffn.kind, e.width).matmul(self.width)

    @property
    def parameters(self) -> int:
        """All parameters: matrices, norms, embeddings, time conditioning."""
        e, D = self.experts, self.width
        norms = (2 if self.norm == "pre" else 4) * D + (2 * self.attention.head_size if self.attention.qk_norm == "rms" else 0)
        layers = self.layers * (self._attention_matmul + norms) + (self.layers - self.expert_layers) * self.ffn.matmul(D)
        if e.number:
            extra = (e.router.scale == "learned") + (e.router.bias > 0)
            layers += self.expert_layers * (e.number * (D + extra) + (e.number + e.shared) * FFN(self.ffn.kind, e.width).matmul(D))
        time = 0
        if self.time == "adaln":
            time = self.layers * 4 * self.TIME_WIDTH * D + self.TIME_FEATURES * self.TIME_WIDTH
        time += (D + 1) * self.TIME_WIDTH * len(self.heads)
        return layers + (2 if self.embeddings == "untied" else 1) * self.vocab.size * D + time + D

    def flops_per_token(self, length: int) -> float:
        """Model FLOPs of one training token, forward and backward: 6 per matmul parameter it passes (the head included, the embedding
        look-up not) and 12·H·K·L per layer for scores and values, counted over the whole L × L square for causal masks too."""
        square = 12 * self.layers * self.attention.heads * self.attention.head_size * length
        return 6.0 * self.matmul + square
