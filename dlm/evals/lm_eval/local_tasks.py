"""Tasks from a folder of YAML and JSON files that are read and never run: lm_eval's format, less all of it that would execute something.

`!function` tags import Python, metrics of `evaluate` and hub data sets are fetched and run, templates of Jinja reach the interpreter
unless they are kept in a sandbox: the first three are refused, each in one line, and templates are rendered in a sandbox. Generated code
(`unsafe_code: true`) runs in `machine.isolation` alone, if it is allowed at all, and is scored there: prompt + completion + test +
check(entry_point).
"""

import contextlib
import importlib.metadata
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class _Rules:
    folder: Path
    data: Path
    code: bool  # whether generated code may run


class _Task(ConfigurableTask):
    """A task whose data lie here, and whose generated code runs in a jail."""

    def __init__(self, config: dict, rules: _Rules):
        self.rules, self.where = rules, f"task {config.get('task')}"
        super().__init__(config=self._checked(dict(config)))
        if self.config.unsafe_code:
            self._metric_fn_list, self._aggregation_list = (
                {_PASS: None},
                {_PASS: AGGREGATION_REGISTRY["mean"]},
            )
            self._higher_is_better = {_PASS: True}

    def _checked(self, config: dict) -> dict:
        for name in ("use_prompt", "doc_to_image", "doc_to_audio"):
            if config.get(name):
                raise UserError(f"{self.where}: {name} is not supported here: take it out")
        if config.get("unsafe_code"):
            if not self.rules.code:
                raise UserError(
                    f"{self.where} runs code that the model writes: allow it (in a jail) with --harness_code"
                )
            if config.get("output_type", "generate_until") != "generate_until":
                raise UserError(f"{self.where}: unsafe_code needs output_type: generate_until")
            config["metric_list"] = [
                dict(metric="exact_match", aggregation="mean", higher_is_better=True)
            ]  # in the place of our own
        for metric in config.get("metric_list") or ():
            name = metric.get("metric")
            if metric.get("hf_evaluate") or name not in METRIC_REGISTRY:
                raise UserError(
                    f"{self.where}: metric {name!r} is none of lm_eval's own{nearest(name, METRIC_REGISTRY)}"
                )
        return config

    def download(self, dataset_kwargs=None, **_):
        """The rows of local JSON files; nothing is fetched."""
        kwargs, known = dict(dataset_kwargs or {}), ("data_files",)
        for name in set(kwargs) - set(known):
            raise UserError(
                f"{self.where}: dataset_kwargs.{name} is unknown: local data are given with data_files alone"
            )
        given = kwargs.get("data_files")
        if self.config.dataset_path != "json" or not given:
            path = f"dataset_path={self.config.dataset_path!r}"
            raise UserError(
                f"{self.where}: {path} would be fetched from a hub: use dataset_path: json with dataset_kwargs.data_files"
            )
        splits = given if isinstance(given, dict) else dict(train=given)
        self.dataset = datasets.DatasetDict(
            {split: self._rows(names) for split, names in splits.items()}
        )

    def _rows(self, names):
        rows = [
            row
            for name in ([names] if isinstance(names, str) else names)
            for row in _read(self._locate(name))
        ]
        return datasets.Dataset.from_list(rows)

    def _locate(self, name: str) -> Path:
        source = Path((self.config.metadata or {}).get("config_source", "")).parent
        for folder in (self.rules.data, source, self.rules.folder):
            if (folder / name).is_file():
                return folder / name
        raise UserError(
            f"{self.where}: no file {name} in {self.rules.data}: say where it lies with --harness_data=FOLDER"
        )

    def process_results(self, doc, results):
        if not self.config.unsafe_code:
            return super().process_results(doc, results)
        for name in _CODE_FIELDS:
            if name not in doc:
                raise UserError(
                    f"{self.where}: its data have no field {name!r}: code is scored by {', '.join(_CODE_FIELDS)}"
                )
        program = f"{doc['prompt']}{results[0]}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"
        return {_PASS: float(isolation.run(program).ok)}


def _read(path: Path) -> list[dict]:
    """The objects of a file of JSON lines, or of one JSON array."""
    return [row for _, row in content.rows(content.text(path), path)]


def tasks(names: list[str], folder: Path, data: Path, code: bool) -> dict:
    """lm_eval's dictionary of the tasks, groups and tags of these names in the folder's YAML files; used inside `guarded`."""
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: --harness_dir names the one with the tasks' YAML files"
        )
    rules = _Rules(folder, data, code)
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(folder))
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(_missing(name, manager.all_tasks, folder))
    try:
        with mock.patch(
            "lm_eval.tasks._factory.ConfigurableTask", lambda config: _Task(config, rules)
        ):
            return manager.load(names)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # whatever lm_eval, Jinja or Arrow say of a file that is not as it should be
        _installed()
        raise UserError(f"{', '.join(names)} in {folder} cannot be built: {_line(error)}") from None


_SIMPLEST = dict(
    task="simplest",
    dataset_path="json",
    dataset_kwargs=dict(data_files=dict(test="rows.json")),
    test_split="test",
)
_SIMPLEST |= dict(
    output_type="multiple_choice", doc_to_text="{{q}}", doc_to_choice=["a", "b"], doc_to_target=0
)


def _installed() -> None:
    """Raises UserError where not even a task of one row can be built: then the fault is none of a task's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rows.json").write_text('[{"q": "a"}]', encoding="utf-8")
        try:
            _Task(_SIMPLEST, _Rules(Path(folder), Path(folder), code=False))
        except Exception as error:  # whatever does not fit together
            libraries = ", called by ".join(_libraries(error)) or "a library"
            told = f"no task can be built with what is installed: {libraries} says {_line(error)!r}"
            raise UserError(
                f"{told}; install again: pip install -r requirements-parity.txt"
            ) from None


def _libraries(error: Exception) -> list[str]:
    """The libraries that an error came through, each with its version, from where it was raised outwards."""
    owners = importlib.metadata.packages_distributions()
    modules = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    names = dict.fromkeys(
        owners[module][0] for module in reversed(modules) if module in owners and module != "dlm"
    )
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
    return (
        f"no task {name!r} in {folder}{nearest(name, known)}; it has {', '.join(known) or 'none'}"
    )


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """While tasks are read and scored: no Python is imported for them, and templates cannot leave their sandbox."""
    sandbox = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    sandbox.filters |= {
        name: f for name, f in lm_eval.utils.env.filters.items() if name not in sandbox.filters
    }

    def refused(name, folder):
        raise UserError(
            f"{folder} asks for Python by '!function {name}': nothing in a folder of tasks is run, write it as a template"
        )

    with (
        mock.patch("lm_eval.tasks._yaml_loader._import_func_in_yml", refused),
        mock.patch("lm_eval.utils.env", sandbox),
    ):
        yield
