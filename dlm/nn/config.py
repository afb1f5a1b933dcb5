"""The backbone's dimensions, with the parameter and FLOP counts that follow from them. No JAX here."""

from dataclasses import dataclass, field
from typing import Literal

from dlm.run.spec import Vocab


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
    """One pre-norm transformer."""

    layers: int = 4
    width: int = 128
    attention: Attention = field(default_factory=Attention)
    ffn: FFN = field(default_factory=FFN)
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

    TIME_FEATURES = 64
    TIME_WIDTH = 128

    @property
    def layer_matmul(self) -> int:
        """Parameters of one layer's matrices."""
        a = self.attention
        ffn = (3 if self.ffn.kind == "swiglu" else 2) * self.width * self.ffn.width
        return self.width * a.head_size * (2 * a.heads + 2 * a.kv_heads) + ffn

    @property
    def parameters(self) -> int:
        """All parameters: matrices, norms, embeddings, time conditioning."""
        per_layer = self.layer_matmul + 2 * self.width + (2 * self.attention.head_size if self.attention.qk_norm == "rms" else 0)
        time = 0
        if self.time == "adaln":
            per_layer += 4 * self.TIME_WIDTH * self.width
            time = self.TIME_FEATURES * self.TIME_WIDTH
        time += (self.width + 1) * self.TIME_WIDTH * len(self.heads)
        tables = (2 if self.embeddings == "untied" else 1) * self.vocab.size * self.width
        return self.layers * per_layer + tables + time + self.width

    def flops_per_token(self, length: int) -> float:
        """Model FLOPs of one training token, forward and backward: 6 per matmul parameter (the head included, the embedding
        look-up not) and 12·H·K·L per layer for scores and values, counted over the whole L × L square for causal masks too."""
        square = 12 * self.layers * self.attention.heads * self.attention.head_size * length
        return 6.0 * (self.layers * self.layer_matmul + self.vocab.size * self.width) + square
