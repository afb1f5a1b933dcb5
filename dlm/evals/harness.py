"""lm-evaluation-harness tasks on a run, from a folder of YAML and JSON files.

Multiple choice, likelihoods, perplexity, generation and code.

    evaluate --workdir=runs/x --harness=gsm8k_local --harness_dir=configs/harness \\
        --harness_data=FOLDER

A score is lm_eval's, with its standard error over the documents. Its record contains all that is
needed to reproduce it (seed, samples, sampler), `mc_se`, the part of the error that is the
Monte-Carlo noise of a bound, and what did not fit: tokens cut from the left of contexts that are
longer than the model was trained with, names of special tokens (which are text, unless the run's
chat template writes them), and answers that are no UTF-8. A likelihood of a diffusion model is a
bound, or with `likelihood="exact"` that under a sampler. Answers are written by the run's sampler
(or --sampler.…), at temperature 0 unless a task says otherwise.

Source: https://github.com/EleutherAI/lm-evaluation-harness.
"""

import functools
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from dlm.core.config import to_plain
from dlm.core.contracts import Pattern
from dlm.core.contracts.evaluation import EvalContext, Score
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.core.run import Run
from dlm.data.base import digest
from dlm.evals.base import Base, Scores
from dlm.evals.lm_eval.scoring import Model
from dlm.text.chat import Chat

Results = dict[str, Any]  # of lm_eval
Details = dict[str, Any]

_FEWSHOT_SEED = 1234  # lm_eval's own, so that prompts are the same for everybody
_NO_PLACE = cast(Place, "")


@dataclass(frozen=True)
class Harness(Base):
    tasks: tuple[str, ...] = ()  # names of tasks, groups or tags
    dir: Place = _NO_PLACE  # the folder of their YAML files
    data: Place = (
        _NO_PLACE  # the folder of the files that they name; "": the YAML file's own
    )
    limit: int = 0  # documents of each task; 0: all
    fewshot: int | None = None  # examples in the prompt; None: as the task says
    samples: int = 8  # noise draws of a bound, an even number
    pattern: Pattern = "count"  # of that bound, as in evals.bound
    # exact: under a sampler that reveals positions in an order without randomness
    likelihood: Literal["bound", "exact"] = "bound"
    batch: int = 0  # rows read at once; 0: as many as in training
    chat: Literal["none", "template"] = (
        "none"  # whether prompts use the run's chat template
    )
    code: Literal["refuse", "jail"] = (
        "refuse"  # for tasks that run what the model writes
    )

    claims: ClassVar[str | None] = None  # those of each score are in its details
    over: ClassVar[str] = "documents"
    reads: ClassVar[bool] = False
    places: ClassVar[tuple[str, ...]] = ("tasks", "dir", "data", "batch", "code")

    def __post_init__(self):
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples={self.samples} must be even and at least 2")
        if min(self.limit, self.batch, self.fewshot or 0) < 0:
            raise ValueError(
                f"limit={self.limit}, batch={self.batch} and fewshot={self.fewshot} "
                "must not be negative"
            )

    def check(self, run: Run, tokenizer: Any) -> None:
        """Raises UserError where no task is named."""
        self._require_tasks()

    def _require_tasks(self) -> None:
        if not self._names or not self.dir:
            raise UserError(
                "which tasks, and where? --harness=NAME,… and --harness_dir=FOLDER "
                "with their YAML files"
            )

    @property
    def _names(self) -> list[str]:
        # On a command line several names are one string.
        names = ",".join(self.tasks).split(",")
        return [name.strip() for name in names if name.strip()]

    def run(self, context: EvalContext, step: int) -> Scores:
        self._require_tasks()
        _prepare_lm_eval()
        from dlm.evals.lm_eval import adapter, local_tasks

        folder = Path(self.dir)
        data = Path(self.data or self.dir)
        with local_tasks.guarded():
            loaded = local_tasks.tasks(self._names, folder, data, self.code == "jail")
            tasks = loaded["tasks"]
            greedy = frozenset(
                name for name, task in tasks.items() if _needs_greedy(task)
            )
            model = Model(
                context, self.batch, self.samples, self.likelihood, self.pattern
            )
            render = _template(context) if self.chat == "template" else None
            lm = adapter.HarnessLM(model, render, greedy)
            results = self._evaluate(lm, loaded)
            for name in results["results"]:
                yield from self._scores(
                    context, lm, tasks.get(name), name, results, tasks
                )

    def _evaluate(self, lm: Any, loaded: dict) -> Results:
        from lm_eval.evaluator import evaluate

        # A task without a number of examples gets none.
        for task in loaded["tasks"].values():
            if self.fewshot is not None or task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", self.fewshot or 0)
            task.set_fewshot_seed(_FEWSHOT_SEED)
        return evaluate(
            lm,
            loaded,
            apply_chat_template=self.chat == "template",
            limit=self.limit or None,
            bootstrap_iters=1000,
            confirm_run_unsafe_code=True,
            fewshot_as_multiturn=True,
        )

    def _scores(
        self,
        context: EvalContext,
        lm: Any,
        task: Any,
        name: str,
        results: Results,
        tasks: dict,
    ) -> Scores:
        """The scores of one task or group, each with its details."""
        from dlm.evals.lm_eval import adapter

        samples = results["samples"][name] if task is not None else []
        generates = task is not None and task.OUTPUT_TYPE == "generate_until"
        noise: dict[str, float] = {}
        if not generates:
            noise = adapter.resampled_error(lm, task, samples, context.seed)
        common: Details = dict(task=identity(name, tasks, results))
        common["claims"] = _claim(generates, lm.model.exact)
        common["documents"] = results["n-samples"].get(name, {}).get("effective")
        common |= _request_details(lm, samples, bool(noise))
        if generates or not lm.model.exact or self.likelihood == "exact":
            common["sampler"] = to_plain(lm.model.sampler)
        if lm.model.nfe:
            common["nfe"] = float(np.mean(lm.model.nfe))

        for key, value, error in _numbers(results["results"][name]):
            details = dict(
                common, mc_se=noise.get(key), trials=trials(name, key, results)
            )
            context.details.clear()
            for field, detail in details.items():
                if detail is not None:
                    context.details[field] = detail
            yield Score(f"{name}.{key}", value, error)


def _claim(generates: bool, exact: bool) -> str:
    if generates:
        return "samples"
    return "exact" if exact else "bound"


def _request_details(lm: Any, samples: list[dict], noisy: bool) -> Details:
    """Counts over the requests of a task: what did not fit, and how uncertain they are."""
    # A document may take several requests, one for each choice.
    infos = []
    for sample in samples:
        for args in sample["arguments"]:
            infos.append(lm.score_info[str(args)])
    error = None
    if noisy:
        error = float(np.mean([info.variance**0.5 for info in infos]))
    return dict(
        requests=len(infos),
        cut_requests=sum(info.cut > 0 for info in infos),
        cut_tokens=sum(info.cut for info in infos),
        short_requests=sum(info.short for info in infos),
        special_names=sum(info.names for info in infos) or None,
        broken_answers=sum(info.broken for info in infos) or None,
        loglikelihood_mc_se=error,
    )


def _numbers(metrics: dict) -> Iterator[tuple[str, float, float]]:
    """('metric,filter', value, standard error) of lm_eval's results of a task."""
    for key, value in metrics.items():
        metric, comma, filter_name = key.partition(",")
        if (
            not comma
            or metric.endswith("_stderr")
            or not isinstance(value, (int, float))
        ):
            continue
        error = metrics.get(f"{metric}_stderr,{filter_name}")
        # lm_eval says "N/A" where it knows no error.
        if not isinstance(error, (int, float)):
            error = math.nan
        yield key, float(value), float(error)


def identity(name: str, tasks: dict, results: Results) -> dict[str, Any]:
    """Returns what a task is: a hash of its settings and of every row with its prompts.

    It does not depend on where the files are. That of a group is a hash of its tasks'.
    """
    if name not in tasks:
        names = results["group_subtasks"].get(name, ())
        parts = [identity(part, tasks, results) for part in names]
        hashes = [part["sha256"] for part in parts]
        rows = sum(part["rows"] for part in parts)
        return dict(sha256=digest(hashes)["sha256"], rows=rows)
    # The metadata names the folder.
    settings = dict(tasks[name].dump_config(), metadata=None)
    contents = [settings]
    documents = set()
    for sample in results["samples"][name]:
        documents.add(sample["doc_id"])
        contents.append(
            {key: sample[key] for key in ("doc", "target", "arguments", "filter")}
        )
    texts = [json.dumps(content, default=str, sort_keys=True) for content in contents]
    return dict(sha256=digest(texts)["sha256"], rows=len(documents))


def trials(name: str, key: str, results: Results) -> int | None:
    """Returns of how many right or wrong answers 'metric,filter' is the share.

    None where it is no share. Of a group, the sum over its tasks.
    """
    if name not in results["samples"]:
        names = results["group_subtasks"].get(name, ())
        numbers = [trials(part, key, results) for part in names]
        known = [number for number in numbers if number]
        return sum(known) if known and len(known) == len(numbers) else None
    metric, _, filter_name = key.partition(",")
    # A filter is one way to extract an answer; each has its own score.
    values = []
    for sample in results["samples"][name]:
        if sample["filter"] == filter_name:
            values.append(sample.get(metric))
    if not values or any(value not in (0, 1) for value in values):
        return None
    # Answers may be weighted: then the score is no mean of them.
    mean = float(np.mean(values))
    return len(values) if math.isclose(mean, results["results"][name][key]) else None


def _needs_greedy(task: Any) -> bool:
    """Whether a metric depends on whether the model would write the text that is scored."""
    metrics = dict(loglikelihood="acc", multiple_choice="exact_match")
    return metrics.get(task.OUTPUT_TYPE) in task._metric_fn_list


def _prepare_lm_eval() -> None:
    """Makes lm_eval work offline and quietly; raises UserError where it is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evals.harness needs lm_eval, which is not installed: "
            "pip install -r requirements-parity.txt"
        )
    # Read when the libraries are imported: nothing is fetched, and no process is forked beside
    # JAX's threads.
    os.environ |= dict(
        HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DISABLE_MULTIPROC="1"
    )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _template(context: EvalContext) -> Callable:
    """`render(messages, generation=True)` of the run's chat template."""
    if context.folder is None:
        raise UserError(
            "this run has no chat template: leave out --evals.harness.chat=template"
        )
    chat = Chat.of(context.folder)
    return functools.partial(chat.render, names=context.tokenizer.names)
