"""The plan of sampling: driver, rule, steps, block size, sharpness, cache, passes. Loads no JAX.

A plan is a list of passes over the canvas: the first, the one in its field `next_pass`, and so on.
`resolve` fits a plan to a model, and is the one place where settings that the model does not
support are refused.
"""

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from dlm.core.config import build_member, member, to_plain
from dlm.core.errors import UserError

if TYPE_CHECKING:
    from dlm.core.contracts import Visibility

APPROXIMATE = (
    "prefix",
    "dual",
    "delayed",
)  # caches as old as the last pass over the whole canvas


@dataclass(frozen=True)
class Cache:
    """Which keys and values are stored between passes.

    none      nothing: every pass computes the whole canvas
    exact     decided blocks, for models that attend to earlier blocks only (autoregression,
              block diffusion): each is computed once
    prefix    positions before the block, computed once per block (Fast-dLLM, arXiv:2505.22618,
              section 3.2)
    dual      all positions outside the block, computed once per block (Fast-dLLM)
    delayed   tokens, computed a last time in the pass after the one that revealed them
              (dKV-Cache, arXiv:2505.15781)
    auto      exact where the model has an exact cache, else none
    """

    kind: Literal["auto", "none", "exact", "prefix", "dual", "delayed"] = "auto"
    # Recompute the whole canvas every `refresh` passes; 0: only in the first pass of a block.
    refresh: int = 0

    def __post_init__(self):
        if self.refresh < 0:
            raise ValueError(f"refresh={self.refresh} must not be negative")
        if self.refresh and self.kind not in APPROXIMATE:
            raise ValueError(
                f"refresh={self.refresh} is for kind='prefix', 'dual' or 'delayed': "
                f"kind={self.kind!r} is exact without"
            )


@dataclass(frozen=True)
class Sampler:
    """The settings of one pass over a canvas, and of the passes after it."""

    rule: Any = member("samplers.rules", "ancestral")  # which positions a step decides
    remask: Any = member("samplers.remask", None)  # how tokens become masks again
    driver: Any = member("samplers.drivers", "blockwise")  # the outer loop
    steps: int = 64  # denoising steps per block, at most
    block: int = 0  # positions decided together, left to right; 0: the whole canvas
    # sliding: a block begins at the first mask (deferred commitment, arXiv:2601.02076)
    window: Literal["hard", "sliding"] = "hard"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    guidance: float = (
        0.0  # w of classifier-free guidance, p(x | prompt)^(1 + w) / p(x)^w
    )
    cache: Cache = field(default_factory=Cache)
    next_pass: "Sampler | None" = (
        None  # the next pass, over the text that this one wrote
    )
    # The share of that text which a later pass masks again before it begins: the tokens that had
    # the lowest log-probability when they were written.
    remask_fraction: float = 0.0

    def __post_init__(self):
        # Code may name members as a config does.
        for name, family in (
            ("driver", "samplers.drivers"),
            ("rule", "samplers.rules"),
        ):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, build_member(value, family))
        self._check_numbers()
        if self.window == "sliding":
            progresses = self.rule.always_progresses and not self.driver.drafts
            if not self.block or not progresses or self.remask:
                raise ValueError(
                    "window='sliding' needs a block, no remask, and a rule that reveals in every "
                    "step, such as samplers.rules.threshold"
                )
        if self.cache.kind == "delayed" and (self.remask or self.rule.edits_tokens):
            raise ValueError(
                "cache.kind='delayed' computes masks only: it needs a rule that never changes "
                "tokens, and no remask"
            )

    def _check_numbers(self):
        if self.steps < 1 or self.block < 0:
            raise ValueError(
                f"steps={self.steps} must be positive and block={self.block} not negative"
            )
        sharpness_fits = (
            0 <= self.temperature <= 1e6 and 0 < self.top_p <= 1 and self.top_k >= 0
        )
        if not sharpness_fits:
            raise ValueError(
                f"temperature={self.temperature} and top_k={self.top_k} must not be negative and "
                f"top_p={self.top_p} must be in (0, 1]"
            )
        if not -1 <= self.guidance <= 1e3:
            raise ValueError(
                f"guidance={self.guidance} must be at least -1, where the prompt has no influence"
            )
        if not 0 <= self.remask_fraction <= 1:
            raise ValueError(
                f"remask_fraction={self.remask_fraction} must be in [0, 1]"
            )

    @property
    def passes(self) -> tuple["Sampler", ...]:
        """This pass and those that follow it."""
        later = self.next_pass.passes if self.next_pass else ()
        return (self, *later)

    def total_steps(self, length: int) -> int:
        """Steps of this pass over a canvas, at most."""
        blocks = -(-length // (self.block or length))
        return blocks * self.steps

    def frames(self, length: int) -> int:
        """Frames of a trace of all passes, at most."""
        if self.driver.drafts:
            return length
        steps = sum(part.total_steps(length) for part in self.passes)
        return steps + sum(part.remask_fraction > 0 for part in self.passes)


def cache_kind(sampler: Sampler, visibility: "Visibility") -> str:
    """The kind of cache that sampling with these settings uses."""
    if sampler.cache.kind != "auto":
        return sampler.cache.kind
    if (
        sampler.driver.drafts
    ):  # such a driver runs two streams where it needs clean tokens
        return "exact"
    return "exact" if visibility.exact_cache and not visibility.needs_clean else "none"


# ---------------------------------------------------------------------- fitting a plan to a model


def resolve(
    sampler: Sampler, process, visibility: "Visibility", first: bool = True
) -> Sampler:
    """Returns the plan as a model with this noise and this attention needs it.

    Raises UserError where the model does not support a setting. `first`: whether it is the first
    pass over the canvas.
    """
    if first and sampler.remask_fraction:
        raise UserError(
            f"sampler.remask_fraction={sampler.remask_fraction}: the first pass has no text to "
            "mask again; sampler.next_pass.remask_fraction is the second's"
        )
    if _is_causal(visibility) and (sampler.block, sampler.steps) != (1, 1):
        raise UserError(
            "a causal model decides one position in one step: "
            f"sampler.block={sampler.block} and sampler.steps={sampler.steps} must both be 1"
        )
    _check_noise(sampler, process)
    _check_attention(sampler, visibility)
    if sampler.driver.drafts:
        _check_drafts(sampler, visibility)
        return sampler
    if _has_blocks(visibility):
        sampler = _fit_blocks(sampler, visibility)
    then = (
        resolve(sampler.next_pass, process, visibility, first=False)
        if sampler.next_pass
        else None
    )
    return replace(sampler, next_pass=then)


def _is_causal(visibility: "Visibility") -> bool:
    """Whether every position is a block of its own, in one stream."""
    return visibility.block == 1 and visibility.streams == 1


def _has_blocks(visibility: "Visibility") -> bool:
    """Whether the model was trained on blocks, in two streams."""
    return visibility.block is not None and visibility.streams == 2


def _fit_blocks(sampler: Sampler, visibility: "Visibility") -> Sampler:
    size = visibility.block
    assert size is not None
    if sampler.block not in (0, size):
        raise UserError(
            f"sampler.block={sampler.block} must be 0 or {size}: this model was trained with "
            "blocks of that size"
        )
    if size == 1:
        # One position has no order, and the first of several steps would mostly reveal nothing.
        order = sampler.rule.fixed_order
        if order not in (None, "left_to_right"):
            raise UserError(
                f"sampler.rule.order={order!r}: a model with blocks of one decides from left to "
                "right"
            )
        sampler = replace(sampler, steps=1)
    return replace(sampler, block=size)


def _check_drafts(sampler: Sampler, visibility: "Visibility") -> None:
    """Drafts are longer than the part that one pass fills, and are verified by blocks of one."""
    driver, order = _name(sampler.driver), sampler.driver.order
    if not _has_blocks(visibility):
        raise UserError(
            f"sampler.driver={driver} needs a model that can verify with blocks of one: "
            "objectives.block or any_order"
        )
    if order != "left_to_right" and not visibility.any_order:
        raise UserError(
            f"sampler.driver.order={order!r} needs a model that was trained on any order: "
            "objectives.any_order"
        )
    if not sampler.block or sampler.steps > sampler.block:
        raise UserError(
            f"sampler.block={sampler.block} is the length of a draft, of at least "
            f"sampler.steps={sampler.steps} tokens: set both"
        )
    if sampler.next_pass or sampler.remask:
        raise UserError(
            f"sampler.driver={driver} is compatible with neither sampler.next_pass nor "
            "sampler.remask: verified tokens never change"
        )
    if (rule := _name(sampler.rule)) != "samplers.rules.ancestral":
        raise UserError(
            f"sampler.driver={driver} draws every position itself: sampler.rule={rule} would have "
            "no effect, leave it out"
        )


def _check_noise(sampler: Sampler, process) -> None:
    """Refuses settings that need masks, or one schedule for all tokens, where there are none."""
    rule = _name(sampler.rule)
    if sampler.rule.needs_final and not process.final:
        raise UserError(
            f"sampler.rule={rule} fills masks, and this model's noise leaves none: use "
            "samplers.rules.ancestral"
        )
    if sampler.driver.needs_final and not process.final:
        raise UserError(
            f"sampler.driver={_name(sampler.driver)} fills masks, and this model's noise leaves "
            "none: use samplers.drivers.blockwise"
        )
    if sampler.cache.kind == "delayed" and not process.final:
        raise UserError(
            "sampler.cache.kind='delayed' computes masks only, and this model's noise leaves none: "
            "use 'dual' or 'prefix'"
        )
    shared = process.schedule is not None
    if sampler.remask and not (process.final and shared):
        raise UserError(
            f"sampler.remask={_name(sampler.remask)} needs masks with one schedule for all tokens, "
            "and this model's noise has not"
        )
    if sampler.rule.needs_schedule and not shared:
        raise UserError(
            f"sampler.rule={rule} needs one schedule for all tokens, and this model learned one "
            "for each"
        )


def _check_attention(sampler: Sampler, visibility: "Visibility") -> None:
    """Refuses caches, windows and second passes that the network's attention does not allow."""
    kind = sampler.cache.kind
    whole = visibility.block is None and visibility.streams == 1
    if kind in APPROXIMATE and not whole:
        raise UserError(
            f"sampler.cache.kind={kind!r} is for models that attend to the whole canvas; this one "
            "has an exact cache: use 'auto'"
        )
    if (
        kind == "exact"
        and cache_kind(replace(sampler, cache=Cache()), visibility) != "exact"
    ):
        raise UserError(
            "sampler.cache.kind='exact' needs a model that attends to nothing later: use "
            "'prefix', 'dual' or 'delayed'"
        )
    if kind in APPROXIMATE and visibility.shift != "none":
        raise UserError(
            f"sampler.cache.kind={kind!r}: a network that predicts a token from the one before it "
            "reads more than the block"
        )
    if sampler.guidance and not whole:
        raise UserError(
            f"sampler.guidance={sampler.guidance} needs a model that may attend to masks instead "
            "of its prompt, without an order"
        )
    if _is_causal(visibility) and (
        sampler.next_pass or sampler.remask or sampler.remask_fraction
    ):
        raise UserError(
            "a causal model writes once, from left to right: sampler.next_pass, remask and "
            "remask_fraction are for others"
        )
    if sampler.window == "sliding":
        _check_sliding(sampler, whole)


def _check_sliding(sampler: Sampler, whole: bool) -> None:
    if not whole:
        raise UserError(
            "sampler.window='sliding' needs a model that attends to the whole canvas: this one's "
            "blocks are fixed"
        )
    kind = sampler.cache.kind
    refreshed = kind == "dual" and sampler.cache.refresh
    if kind not in ("auto", "none") and not refreshed:
        raise UserError(
            "sampler.window='sliding' is compatible with cache.kind='none', or 'dual' and a "
            f"cache.refresh, not with {kind!r}"
        )


def _name(chosen) -> str:
    return type(chosen).__module__.removeprefix("dlm.")


# ------------------------------------------------------------------------------- a plan in words


def described(sampler: dict) -> dict[str, str]:
    """The settings of a plain plan as words: rule, steps, and all that differ from the default.

    Those of a second pass have names such as 'next_pass.steps'.
    """
    usual = {f.name: to_plain(_default(f)) for f in fields(Sampler)}
    phrases = {}
    for name, value in sampler.items():
        ordinary = _is_usual(value, usual.get(name)) and name not in ("rule", "steps")
        if name == "name" or ordinary:
            continue
        if isinstance(value, dict) and "name" in value and name != "next_pass":
            own = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
            phrases[name] = value["name"].rpartition(".")[2] + (
                f" ({own})" if own else ""
            )
        elif isinstance(value, dict):
            inner = described(value) if name == "next_pass" else value
            phrases |= {f"{name}.{k}": str(v) for k, v in inner.items()}
        else:
            phrases[name] = str(value)
    return phrases


def _is_usual(value, default) -> bool:
    if isinstance(value, dict) and isinstance(default, str):  # a member, and its name
        return list(value) == ["name"] and value["name"].rpartition(".")[2] == default
    return value == default


def _default(entry):
    return entry.default_factory() if entry.default is MISSING else entry.default
