"""lm-evaluation-harness tasks on a run, from a folder of YAML and JSON files: multiple choice, likelihoods, perplexity, generation, code.

    evaluate --workdir=runs/x --harness=gsm8k_local --harness_dir=configs/harness --harness_data=FOLDER

A score is lm_eval's, with its standard error over the documents; beside it stand what it takes to get it again (seed, samples, sampler),
`mc_se`, the part of the error that is the Monte-Carlo noise of a bound, and what did not fit: tokens cut from the left of contexts that
are longer than the model was trained with, names of special tokens (text, unless the run's chat template says them), and answers that are
no UTF-8. A likelihood of a diffusion model is a bound, with `likelihood="exact"` that under a sampler.
Answers are written by the run's sampler (or --sampler.…), at the temperature 0 unless a task says otherwise.
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
from typing import ClassVar, Literal

import numpy as np

from dlm.core.config import to_plain
from dlm.core.contracts import Pattern
from dlm.core.errors import UserError
from dlm.core.named import Place
from dlm.data.base import digest
from dlm.evals.lm_eval.scoring import Model
from dlm.text.chat import Chat


@dataclass(frozen=True)
class Harness:
    tasks: tuple[str, ...] = ()  # names of tasks, groups or tags
    dir: Place = ""  # the folder of their YAML files
    data: Place = ""  # the folder of the files that they name; "": the YAML file's own
    limit: int = 0  # documents of each task; 0: all
    fewshot: int | None = None  # examples in the prompt; None: as the task says
    samples: int = 8  # noise draws of a bound, an even number
    pattern: Pattern = "count"  # of that bound, as in evals.bound
    likelihood: Literal["bound", "exact"] = (
        "bound"  # exact: under a sampler whose order does not hang on chance
    )
    batch: int = 0  # rows read at once; 0: as many as in training
    chat: Literal["none", "template"] = "none"  # whether prompts go through the run's chat template
    code: Literal["refuse", "jail"] = (
        "refuse"  # what becomes of tasks that run what the model writes
    )

    claims: ClassVar[str | None] = None  # those of each score are in its details
    over: ClassVar[str] = "documents"
    reads: ClassVar[bool] = False
    places: ClassVar[tuple[str, ...]] = (
        "tasks",
        "dir",
        "data",
        "batch",
        "code",
    )  # where tasks lie changes no score of theirs

    def __post_init__(self):
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples={self.samples} must be even and at least 2")
        if min(self.limit, self.batch, self.fewshot or 0) < 0:
            raise ValueError(
                f"limit={self.limit}, batch={self.batch} and fewshot={self.fewshot} must not be negative"
            )

    def check(self, *given) -> None:
        """Refuses to ask nothing."""
        if not self._names or not self.dir:
            raise UserError(
                "which tasks, and where? --harness=NAME,… and --harness_dir=FOLDER with their YAML files"
            )

    @property
    def _names(self) -> list[str]:
        return [name.strip() for given in self.tasks for name in given.split(",") if name.strip()]

    def run(self, context, step: int) -> Iterator[tuple[str, float, float]]:
        """(name, value, standard error) of each metric of each task."""
        self.check()
        _ready()
        from dlm.evals.lm_eval import adapter, local_tasks

        with local_tasks.guarded():
            loaded = local_tasks.tasks(
                self._names, Path(self.dir), Path(self.data or self.dir), self.code == "jail"
            )
            judged = frozenset(name for name, task in loaded["tasks"].items() if _judges(task))
            model = Model(context, self.batch, self.samples, self.likelihood, self.pattern)
            lm = adapter.HarnessLM(
                model, _template(context) if self.chat == "template" else None, judged
            )
            results = self._evaluated(lm, loaded)
            for name, metrics in results["results"].items():
                yield from self._rows_of_task(context, lm, results, loaded["tasks"], name, metrics)

    def _evaluated(self, lm, loaded: dict) -> dict:
        from lm_eval.evaluator import evaluate

        for task in loaded["tasks"].values():
            if self.fewshot is not None or task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", self.fewshot or 0)
            task.set_fewshot_seed(1234)  # lm_eval's own, so that prompts are those of everybody
        options = dict(
            limit=self.limit or None,
            bootstrap_iters=1000,
            confirm_run_unsafe_code=True,
            fewshot_as_multiturn=True,
        )
        return evaluate(lm, loaded, apply_chat_template=self.chat == "template", **options)

    def _rows_of_task(
        self, context, lm, results: dict, tasks: dict, name: str, metrics: dict
    ) -> Iterator[tuple[str, float, float]]:
        """The scores of one task or group, each with its details."""
        from dlm.evals.lm_eval import adapter

        task = tasks.get(name)
        written = task is not None and task.OUTPUT_TYPE == "generate_until"
        samples = [] if task is None else results["samples"][name]
        noise = {} if written else adapter.resampled_error(lm, task, samples, context.seed)
        score_info = [
            lm.score_info[str(args)] for sample in samples for args in sample["arguments"]
        ]
        details = dict(
            task=identity(name, tasks, results),
            claims="samples" if written else "exact" if lm.model.exact else "bound",
            documents=results["n-samples"].get(name, {}).get("effective"),
            requests=len(score_info),
            cut_requests=sum(t.cut > 0 for t in score_info),
            cut_tokens=sum(t.cut for t in score_info),
            short_requests=sum(t.short for t in score_info),
            special_names=sum(t.names for t in score_info) or None,
            broken_answers=sum(t.broken for t in score_info) or None,
            loglikelihood_mc_se=float(np.mean([t.variance**0.5 for t in score_info]))
            if noise
            else None,
        )
        if written or not lm.model.exact or self.likelihood == "exact":
            details |= dict(sampler=to_plain(lm.model.sampler))
        if lm.model.nfe:
            details |= dict(nfe=float(np.mean(lm.model.nfe)))
        for key, value in metrics.items():
            metric, comma, filter_ = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                error = metrics.get(f"{metric}_stderr,{filter_}")
                context.details.clear()
                own = dict(
                    mc_se=noise.get(key), trials=trials(name, f"{metric},{filter_}", results)
                )
                context.details.update({k: v for k, v in (details | own).items() if v is not None})
                yield (
                    f"{name}.{key}",
                    float(value),
                    float(error) if isinstance(error, (int, float)) else math.nan,
                )


def identity(name: str, tasks: dict, results: dict) -> dict:
    """What was asked: a hash of a task's settings and of every row with its prompts, wherever its files lie; of a group, of its tasks'."""
    if name not in tasks:
        parts = [identity(part, tasks, results) for part in results["group_subtasks"].get(name, ())]
        return dict(
            sha256=digest(part["sha256"] for part in parts)["sha256"],
            rows=sum(part["rows"] for part in parts),
        )
    settings = tasks[name].dump_config() | dict(metadata=None)  # which tells the folder
    rows = [
        {key: sample[key] for key in ("doc", "target", "arguments", "filter")}
        for sample in results["samples"][name]
    ]
    parts = [json.dumps(part, default=str, sort_keys=True) for part in (settings, *rows)]
    return dict(
        sha256=digest(parts)["sha256"],
        rows=len({sample["doc_id"] for sample in results["samples"][name]}),
    )


def trials(name: str, key: str, results: dict) -> int | None:
    """Of how many right or wrong answers 'metric,filter' is the share; None where it is something else."""
    if name not in results["samples"]:
        each = [trials(part, key, results) for part in results["group_subtasks"].get(name, ())]
        return sum(each) if each and all(each) else None
    metric, _, filter_ = key.partition(",")
    values = [
        sample.get(metric) for sample in results["samples"][name] if sample["filter"] == filter_
    ]
    share = (
        values
        and all(value in (0, 1) for value in values)
        and math.isclose(float(np.mean(values)), results["results"][name][key])
    )
    return len(values) if share else None


def _judges(task) -> bool:
    """Whether a metric asks if the model would write what is scored."""
    reads = dict(loglikelihood="acc", multiple_choice="exact_match").get(task.OUTPUT_TYPE)
    return reads in task._metric_fn_list


def _ready() -> None:
    """lm_eval at hand, offline and quiet; told in one line where it is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evals.harness needs lm_eval, which is not installed: pip install -r requirements-parity.txt"
        )
    # Read when they are imported: nothing is fetched, and no process is forked beside JAX's threads.
    os.environ |= dict(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DISABLE_MULTIPROC="1")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _template(context) -> Callable:
    """`render(messages, generation=True)` of the run's chat template."""
    if context.folder is None:
        raise UserError("this run has no chat template: leave out --evals.harness.chat=template")
    return functools.partial(Chat.of(context.folder).render, names=context.tokenizer.names)
