"""What the rooms pass to each other: frozen dataclasses that are JAX pytrees, and Protocols.

    loader ─ Batch ─> objective ─ Canvas ─> net ─ Output(Prediction) ─> objective ─ Loss ─> update
                      sampler   ─ Canvas ─> net ─ Output(Prediction) ─> rule ─ Canvas …

Axis letters: B batch, L length, V vocabulary, D width.
"""

# Rooms import these names from here; some evaluators also import from `contracts.evaluation`.
from dlm.core.contracts.canvas import Batch, Cache, Canvas, Layout
from dlm.core.contracts.data import Source, Task, Tokenizer, TokenizerConfig
from dlm.core.contracts.diffusion import Process, Schedule, Transition
from dlm.core.contracts.evaluation import Evaluator
from dlm.core.contracts.network import Head, Net, Output, Router, Routing
from dlm.core.contracts.prediction import (
    Confidence,
    Dense,
    Prediction,
    keep_top_k,
    keep_top_p,
)
from dlm.core.contracts.sampling import (
    Driver,
    Recorder,
    Remask,
    Rule,
    Sampled,
    StepView,
    StopsWhen,
    Trace,
)
from dlm.core.contracts.training import (
    Bound,
    Claim,
    Loss,
    Mean,
    Models,
    Objective,
    Pattern,
    State,
    UnbiasedLoss,
)
from dlm.core.contracts.visibility import Pair, Shift, Visibility

# The interface: other names are internal to a contract.
__all__ = [
    "Batch",
    "Bound",
    "Cache",
    "Canvas",
    "Claim",
    "Confidence",
    "Dense",
    "Driver",
    "Evaluator",
    "Head",
    "Layout",
    "Loss",
    "Mean",
    "Models",
    "Net",
    "Objective",
    "Output",
    "Pair",
    "Pattern",
    "Prediction",
    "Process",
    "Recorder",
    "Remask",
    "Router",
    "Routing",
    "Rule",
    "Sampled",
    "Schedule",
    "Shift",
    "Source",
    "State",
    "StepView",
    "StopsWhen",
    "Task",
    "Tokenizer",
    "Trace",
    "TokenizerConfig",
    "Transition",
    "UnbiasedLoss",
    "Visibility",
    "keep_top_k",
    "keep_top_p",
]
