"""The config of one run."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from dlm.core.builder import build_field, build_fields, build_section
from dlm.core.config import FREE, member, section, to_plain
from dlm.core.errors import UserError
from dlm.core.named import Place, Seed


@dataclass(frozen=True)
class Run:
    """What one run trains, on what, and for how long; sections are named after their rooms."""

    steps: int  # optimizer updates; 0: the weights come from elsewhere (`dlm.convert`)
    seed: Seed = Seed(0)
    text: Any = member("text", "bytes")
    data: Any = section("data.loader")
    nn: Any = section("nn.config")
    objective: Any = member("objectives", "masked")
    optim: Any = section("training.config")
    mesh: Any = section("machine.config", **FREE)
    sampler: Any = section("samplers.plan", **FREE)
    evals: dict = field(
        default_factory=lambda: dict(bound={}), metadata=dict(families="evals", **FREE)
    )
    intervals: Any = section("training.intervals", **FREE)
    start: Place | None = (
        None  # run directory whose parameters and tokenizer this one begins with
    )

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        self.nn.suits(self.objective, self.mesh)

    @property
    def flops_per_token(self) -> float:
        """Model FLOPs of one token of a training batch, over all passes and streams."""
        return self.nn.flops_per_token(self.data.length) * self.objective.token_passes


def build_sections(config: Any, *names: str) -> dict[str, Any]:
    """Build only these sections of a config, such as 'nn' and 'data', and import no other.

    Of text, data, nn, optim, mesh and intervals none loads JAX. What a section must have in common
    with others is not checked. Raises UserError.
    """
    plain = to_plain(config)
    hints = get_type_hints(Run)
    fields = {f.name: f for f in dataclasses.fields(Run)}
    text = build_field(
        plain.get("text", "bytes"), fields["text"], hints["text"], "text", None
    )
    sections = {}
    for name in names:
        value = plain.get(name, {})
        if name == "text":
            sections[name] = text
        else:
            sections[name] = build_field(
                value, fields[name], hints[name], name, text.vocab
            )
    return sections


def build_run(config: Any, least: int = 1) -> Run:
    """Build and check the Run of a recipe's ConfigDict or of a stored config.

    With `least` 0 a run without updates is accepted, such as converted weights. Raises UserError.
    """
    config = to_plain(config)
    if not isinstance(config, dict):
        raise UserError(f"a recipe returns a ConfigDict, not {type(config).__name__}")
    # The tokenizer comes first: its special ids are part of every other section.
    text_only = {"steps": 1} | {key: config[key] for key in ("text",) if key in config}
    text = build_fields(Run, text_only, "", None)["text"]
    run = build_section(Run, config, "", text.vocab)
    if run.steps < least:
        raise UserError(f"config: steps must be at least {least}, not {run.steps}")
    return run
