"""How a canvas is filled: which rule, in how many steps, how many positions at a time, how sharply. No JAX here.

A sampler is a list of passes over the canvas: the first, then what it names with `then`, and so on.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from dlm.core.config import member, to_plain


@dataclass(frozen=True)
class Cache:
    """What is kept from pass to pass.

    none      every pass reads the whole canvas
    exact     models that see earlier blocks and nothing later: what is finished is read once (autoregression, block diffusion)
    prefix    what precedes the block is read once per block (Fast-dLLM, arXiv:2505.22618, section 3.2)
    dual      all but the block is read once per block (Fast-dLLM)
    delayed   tokens are read once more after they were revealed, then no more (dKV-Cache, arXiv:2505.15781)
    auto      exact where the model has one, else none
    """

    kind: Literal["auto", "none", "exact", "prefix", "dual", "delayed"] = "auto"
    refresh: int = (
        0  # the whole canvas is read in every so-manieth pass of a block; 0: in its first alone
    )

    def __post_init__(self):
        if self.refresh < 0:
            raise ValueError(f"refresh={self.refresh} must not be negative")
        if self.refresh and self.kind in ("auto", "none", "exact"):
            raise ValueError(
                f"refresh={self.refresh} is for kind='prefix', 'dual' or 'delayed': kind={self.kind!r} is exact without"
            )


@dataclass(frozen=True)
class Sampler:
    rule: Any = member("samplers", "ancestral")
    remask: Any = member("samplers.remask", None)  # how tokens become masks again
    steps: int = 64  # denoising steps per block, at most
    block: int = 0  # positions decided together, left to right; 0: the whole canvas
    edge: Literal["hard", "sliding"] = (
        "hard"  # sliding: the block begins at the first mask (deferred commitment, arXiv:2601.02076)
    )
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    guidance: float = 0.0  # w of classifier-free guidance, p(x | prompt)^(1 + w) / p(x)^w
    cache: Cache = field(default_factory=Cache)
    then: "Sampler | None" = None  # the next pass over what this one has written
    reopen: float = 0.0  # share of the written tokens that a later pass masks again, those of lowest confidence when they were written

    def __post_init__(self):
        if not (hasattr(self.rule, "step") or hasattr(self.rule, "drive")):
            raise ValueError(
                f"rule={type(self.rule).__module__.removeprefix('dlm.')} is not a sampling rule, such as samplers.ancestral"
            )
        if self.steps < 1 or self.block < 0:
            raise ValueError(
                f"steps={self.steps} must be positive and block={self.block} not negative"
            )
        if not 0 <= self.temperature <= 1e6 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature={self.temperature} and top_k={self.top_k} must not be negative and top_p={self.top_p} must be in (0, 1]"
            )
        if not -1 <= self.guidance <= 1e3:
            raise ValueError(
                f"guidance={self.guidance} must be at least -1, where the prompt is not heard"
            )
        if not 0 <= self.reopen <= 1:
            raise ValueError(f"reopen={self.reopen} must be in [0, 1]")
        if self.edge == "sliding" and (
            not self.block or not self.rule.always_progresses or self.remask
        ):
            raise ValueError(
                "edge='sliding' needs a block, no remask, and a rule that reveals in every step, such as samplers.threshold"
            )
        if self.cache.kind == "delayed" and (self.remask or self.rule.edits_tokens):
            raise ValueError(
                "cache.kind='delayed' reads masks alone: it needs a rule that never changes tokens, and no remask"
            )

    @property
    def passes(self) -> tuple["Sampler", ...]:
        """This pass and those that follow it."""
        return (self, *(self.then.passes if self.then else ()))


def described(sampler: dict) -> dict[str, str]:
    """A plain sampler's settings in words: rule, steps, and whatever is not as usual; 'then.steps' are those of a second pass."""
    usual = {
        f.name: to_plain(f.default_factory() if f.default is MISSING else f.default)
        for f in fields(Sampler)
    }
    phrases = {}
    for name, value in sampler.items():
        if name == "name" or (value == usual.get(name) and name not in ("rule", "steps")):
            continue
        if isinstance(value, dict) and "name" in value and name != "then":
            own = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
            phrases[name] = value["name"].rpartition(".")[2] + (f" ({own})" if own else "")
        elif isinstance(value, dict):
            inner = described(value) if name == "then" else value
            phrases |= {f"{name}.{k}": str(v) for k, v in inner.items()}
        else:
            phrases[name] = str(value)
    return phrases
