"""The config of one run."""

from dataclasses import dataclass, field
from typing import Any

from dlm.core.config import FREE, _fields, _make, member, section, to_plain
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed


@dataclass(frozen=True)
class Run:
    """One run: what is trained, on what, for how long. The sections are named after the rooms that read them."""

    steps: int  # optimizer updates; 0: the weights come from elsewhere (`dlm.convert`)
    seed: Seed = 0
    text: Any = member("text", "bytes")
    data: Any = section("data.loader")
    nn: Any = section("nn.config")
    objective: Any = member("objectives", "masked")
    optim: Any = section("training.optimizer")
    mesh: Any = section("machine.mesh", **FREE)
    sampler: Any = section("samplers.config", **FREE)
    evals: dict = field(
        default_factory=lambda: dict(bound={}), metadata=dict(families="evals", **FREE)
    )
    every: Any = section("training.loop", **FREE)
    start: Place | None = None  # run directory whose parameters and tokenizer this one begins with

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        self.nn.suits(self.objective, self.mesh)

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs of one token of a training batch, however often the objective has it read."""
        return self.nn.flops_per_token(self.data.length) * self.objective.token_passes


def build_run(config: Any, least: int = 1) -> Run:
    """The validated Run of a recipe's ConfigDict or of a `config.json`'s dictionary; with `least` 0 also of one that is not trained."""
    config = to_plain(config)
    if not isinstance(config, dict):
        raise UserError(f"a recipe returns a ConfigDict, not {type(config).__name__}")
    text = _fields(Run, {"steps": 1, **{k: v for k, v in config.items() if k == "text"}}, "", None)[
        "text"
    ]
    built = _make(Run, config, "", text.vocab)
    if built.steps < least:
        raise UserError(f"config: steps must be at least {least}, not {built.steps}")
    return built
