"""Tasks from a folder of YAML and JSON files that are read and never run.

The format is lm_eval's, without all of it that would execute something. `!function` tags import
Python, metrics of `evaluate` and data sets of a hub are downloaded and run, and Jinja templates can
reach the interpreter. The first three are refused, each in one line; templates are rendered in a
sandbox. Generated code (`unsafe_code: true`) runs only in `machine.isolation`, if it is allowed at
all, and is scored there: prompt + completion + test + check(entry_point).
"""

import contextlib
import importlib.metadata
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import datasets
import lm_eval.tasks
import lm_eval.utils
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
from lm_eval.api.task import ConfigurableTask

from dlm.core.errors import UserError
from dlm.core.named import nearest
from dlm.data import content
from dlm.machine import isolation

_PASS = "pass@1"
_CODE_FIELDS = ("prompt", "test", "entry_point")
_UNSUPPORTED = ("use_prompt", "doc_to_image", "doc_to_audio")
_LONGEST_ERROR = 300  # characters of another library's error that are printed

# A task of one row, which every intact installation can build.
_SIMPLEST: dict[str, Any] = {
    "task": "simplest",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.json"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": 0,
}


@dataclass(frozen=True)
class _Rules:
    """Where files may be read, and what may run."""

    folder: Path
    data: Path
    code: bool  # whether generated code may run


class _Task(ConfigurableTask):
    """A task with local data, whose generated code runs in a jail."""

    def __init__(self, config: dict, rules: _Rules):
        self.rules = rules
        self.where = f"task {config.get('task')}"
        super().__init__(config=self._checked(dict(config)))
        if self.config.unsafe_code:
            self._metric_fn_list = {_PASS: None}
            self._aggregation_list = {_PASS: AGGREGATION_REGISTRY["mean"]}
            self._higher_is_better = {_PASS: True}

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(f"{self.where}: {reason}")

    def _checked(self, config: dict) -> dict:
        for name in _UNSUPPORTED:
            if config.get(name):
                self._refuse(f"{name} is not supported here: take it out")
        if config.get("unsafe_code"):
            if not self.rules.code:
                raise UserError(
                    f"{self.where} runs code that the model writes: "
                    "allow it (in a jail) with --harness_code"
                )
            if config.get("output_type", "generate_until") != "generate_until":
                self._refuse("unsafe_code needs output_type: generate_until")
            # lm_eval wants a metric; ours replaces it.
            metric = dict(
                metric="exact_match", aggregation="mean", higher_is_better=True
            )
            config["metric_list"] = [metric]
        for metric in config.get("metric_list") or ():
            name = metric.get("metric")
            if metric.get("hf_evaluate") or name not in METRIC_REGISTRY:
                guess = nearest(name, METRIC_REGISTRY)
                self._refuse(f"metric {name!r} is none of lm_eval's own{guess}")
        return config

    def download(self, dataset_kwargs: dict | None = None, **_: Any) -> None:
        """Reads the rows of local JSON files; nothing is downloaded."""
        options = dict(dataset_kwargs or {})
        names = options.pop("data_files", None)
        for option in options:
            self._refuse(
                f"dataset_kwargs.{option} is unknown: local data are given with data_files alone"
            )
        if self.config.dataset_path != "json" or not names:
            self._refuse(
                f"dataset_path={self.config.dataset_path!r} would be fetched from a hub: "
                "use dataset_path: json with dataset_kwargs.data_files"
            )
        splits = names if isinstance(names, dict) else dict(train=names)
        self.dataset = datasets.DatasetDict()
        for split, files in splits.items():
            self.dataset[split] = self._rows(files)

    def _rows(self, names: str | list[str]) -> datasets.Dataset:
        # A split may be spread over several files.
        rows = []
        for name in [names] if isinstance(names, str) else names:
            rows += _read(self._locate(name))
        return datasets.Dataset.from_list(rows)

    def _locate(self, name: str) -> Path:
        # The folder of the command line comes before that of the task.
        metadata = self.config.metadata or {}
        source = Path(metadata.get("config_source", "")).parent
        for folder in (self.rules.data, source, self.rules.folder):
            if (folder / name).is_file():
                return folder / name
        self._refuse(
            f"no file {name} in {self.rules.data}: say where it lies with --harness_data=FOLDER"
        )

    def process_results(self, doc: dict, results: list) -> dict[str, Any]:
        """Scores an answer: generated code by its tests, in a jail."""
        # All other tasks are scored by lm_eval.
        if not self.config.unsafe_code:
            return super().process_results(doc, results)
        for name in _CODE_FIELDS:
            if name not in doc:
                needed = ", ".join(_CODE_FIELDS)
                self._refuse(
                    f"its data have no field {name!r}: code is scored by {needed}"
                )
        completed = f"{doc['prompt']}{results[0]}"
        program = f"{completed}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"
        return {_PASS: float(isolation.run(program).ok)}


def _read(path: Path) -> list[dict]:
    """The objects of a file of JSON lines, or of one JSON array."""
    rows = content.rows(content.text(path), path)
    return [row for _, row in rows]


def tasks(names: list[str], folder: Path, data: Path, code: bool) -> dict:
    """Returns lm_eval's dictionary of tasks, groups and tags; call it inside `guarded`.

    They are those of these names in the folder's YAML files. `data` is the folder of the files that
    they name; `code` allows generated code.
    """
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: --harness_dir names the one with the tasks' YAML files"
        )
    rules = _Rules(folder, data, code)

    def build(config: dict) -> _Task:
        return _Task(config, rules)

    manager = lm_eval.tasks.TaskManager(
        include_defaults=False, include_path=str(folder)
    )
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(_missing(name, manager.all_tasks, folder))
    try:
        with mock.patch("lm_eval.tasks._factory.ConfigurableTask", build):
            return manager.load(names)
    except UserError:
        raise
    except Exception as error:
        # Whatever lm_eval, Jinja or Arrow say of a file that is not as it should be.
        _check_installation()
        listed = ", ".join(names)
        raise UserError(
            f"{listed} in {folder} cannot be built: {_line(error)}"
        ) from None


def _check_installation() -> None:
    """Raises UserError where not even a task of one row can be built: then no file is at fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.json").write_text('[{"q": "a"}]', encoding="utf-8")
        try:
            _Task(_SIMPLEST, _Rules(folder, folder, code=False))
        except Exception as error:
            libraries = ", called by ".join(_libraries(error)) or "a library"
            raise UserError(
                f"no task can be built with what is installed: {libraries} says {_line(error)!r}; "
                "install again: pip install -r requirements-parity.txt"
            ) from None


def _libraries(error: Exception) -> list[str]:
    """The libraries that an error passed through, with their versions, the innermost first."""
    # The traceback runs from the outside to the inside.
    modules = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, _, _ = frame.f_globals.get("__name__", "").partition(".")
        modules.append(module)
    owners = importlib.metadata.packages_distributions()
    names: dict[str, None] = {}
    for module in reversed(modules):
        if module in owners and module != "dlm":
            names[owners[module][0]] = None
    return [f"{name} {importlib.metadata.version(name)}" for name in names]


def _missing(name: str, known: list[str], folder: Path) -> str:
    """Why there is no such task: a file that cannot be read may have been its own."""
    for path in sorted(folder.glob("**/*.yaml")):
        try:
            lm_eval.tasks._yaml_loader.load_yaml(path, resolve_func=False)
        except FileNotFoundError as error:
            return f"{path} includes a file that is not there: {error.filename}"
        except Exception as error:
            return f"{path} is no YAML of a task: {_line(error)}"
    listed = ", ".join(known) or "none"
    return f"no task {name!r} in {folder}{nearest(name, known)}; it has {listed}"


def _line(error: Exception) -> str:
    """The message of an error, in one line."""
    message = " ".join(str(error).split())
    return message[:_LONGEST_ERROR] or type(error).__name__


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Protects the reading and scoring of tasks.

    No Python is imported for them, and templates cannot leave their sandbox.
    """
    sandbox = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    # lm_eval's own filters, but for those that the sandbox has in a safe form.
    for name, jinja_filter in lm_eval.utils.env.filters.items():
        sandbox.filters.setdefault(name, jinja_filter)

    def refuse(name: str, folder: Path) -> NoReturn:
        raise UserError(
            f"{folder} asks for Python by '!function {name}': "
            "nothing in a folder of tasks is run, write it as a template"
        )

    with (
        mock.patch("lm_eval.tasks._yaml_loader._import_func_in_yml", refuse),
        mock.patch("lm_eval.utils.env", sandbox),
    ):
        yield
