"""TensorFlow Datasets without TensorFlow: prepared data sets, and a builder for local text.

    python -m dlm.data.tfds --name=my_text --paths 'notes/**/*.md' --data_dir=DIR
    then  dict(name='data.tfds', dataset='my_text')

Only `array_record` (or parquet) files support random access without TensorFlow. Nothing here uses
the network: a data set that is not prepared is an error at once.
Source: https://www.tensorflow.org/datasets.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from dlm.core.config import located
from dlm.core.errors import UserError
from dlm.core.named import Place, nearest
from dlm.data.base import Source, Split, describe_dropped
from dlm.data.local import Local

_INFO = "dataset_info.json"


@dataclass(frozen=True)
class Tfds(Source):
    """Read a prepared data set with its own splits."""

    dataset: str  # 'name', 'name/config' or 'name/config:version'
    field: str = "text"  # the feature that contains the text
    train: str = "train"  # slices work: 'train[:98%]'
    held_out: str = "test"
    data_dir: Place | None = located(
        None
    )  # default: $TFDS_DATA_DIR, else ~/tensorflow_datasets

    def documents(self, split: Split) -> "Texts":
        """Return the documents, each read when it is accessed."""
        import tensorflow_datasets as tfds

        folder = self._folder()
        builder = tfds.builder_from_directory(folder)
        fields = list(builder.info.features)
        if self.field not in fields:
            raise UserError(
                f"{self.dataset} has no field {self.field!r}: {', '.join(fields)}"
                f"{nearest(self.field, fields)}"
            )
        # TFDS has no narrower errors for a wrong format and for an unknown split.
        name = self._split_name(split)
        try:
            source = builder.as_data_source(name)
        except NotImplementedError:
            stored_as = builder.info.file_format.value
            remedy = _remedy(self.dataset, folder)
            raise UserError(f"{folder} is stored as {stored_as}: {remedy}") from None
        except (ValueError, AssertionError):
            known = ", ".join(builder.info.splits)
            raise UserError(f"{self.dataset} has no split {name!r}: {known}") from None
        return Texts(source, self.field)

    def fingerprint(self, split: Split) -> str:
        """Hash the names, sizes and times of the files: reading all texts would take too long."""
        # The folder is part of the hash, because names and sizes alone may coincide.
        folder = self._folder()
        digest = hashlib.sha256((folder / _INFO).read_bytes())
        digest.update("".join(_sizes(folder)).encode())
        digest.update(f"{folder} {self._split_name(split)} {self.field}".encode())
        return digest.hexdigest()

    def _folder(self) -> Path:
        return _prepared(self.dataset, _data_dir(self.data_dir))

    def _split_name(self, split: Split) -> str:
        return self.train if split == "train" else self.held_out


class Texts(Sequence[str]):
    """The texts of one split, by random access."""

    def __init__(self, source: Any, field: str):
        """`source` is a random-access data source of TFDS."""
        self._source = source
        self._field = field

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[n] for n in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        value = self._source[i][self._field]
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if not isinstance(value, str):
            raise UserError(
                f"field {self._field!r} is not text but {type(value).__name__}"
            )
        return value


# ------------------------------------------------------------------------------- prepare local text


def prepare(source: Local, name: str, data_dir: str | None = None) -> Path:
    """Write a source as the data set `name`, splits 'train' and 'test'; returns its folder."""
    import tensorflow_datasets as tfds

    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(
            f"a data set is named with small letters, digits and _, not {name!r}"
        )
    root = _data_dir(data_dir)
    if (root / name).exists():
        raise UserError(
            f"{root / name} exists already: choose another name or remove it"
        )
    # Read before anything is written, so that mistakes leave nothing behind.
    documents = dict(train=source.documents("train"), test=source.documents("held_out"))
    tfds.disable_progress_bar()
    builder_class = _builder_class(name)
    builder = builder_class(
        documents=documents, data_dir=str(root), file_format="array_record"
    )
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _builder_class(builder_name: str) -> Any:
    import tensorflow_datasets as tfds

    # A builder's class has its data set's name; registered, it could not be defined twice.
    with tfds.core.registered.skip_registration():

        class LocalText(tfds.core.GeneratorBasedBuilder):
            """Documents as they are, under 'text'."""

            name = builder_name
            VERSION = tfds.core.Version("1.0.0")

            def __init__(self, documents: dict[str, list[str]], **options):
                self._documents = documents
                super().__init__(**options)

            def _info(self):
                features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {
                    split: self._generate_examples(split) for split in self._documents
                }

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
                for i, document in enumerate(self._documents[split]):
                    yield i, {"text": document}

    return LocalText


# -------------------------------------------------------------------------------- find data sets


def _data_dir(data_dir: str | None) -> Path:
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return Path(Place(folder))
    except ValueError as error:
        raise UserError(
            f"the folder of data sets {error}; or name another by data_dir or $TFDS_DATA_DIR"
        ) from None


def _prepared(dataset: str, root: Path) -> Path:
    """The folder of the newest prepared version.

    TFDS is not asked, because it would try the network for minutes.
    """
    path, _, version = dataset.partition(":")
    infos = (root / path).glob(f"*/{_INFO}")
    versions = [info.parent for info in infos if version in ("", info.parent.name)]
    if versions:
        return max(versions, key=_version_number)
    infos = (root / path).glob(f"*/*/{_INFO}")
    # Without a version here, there may be configs, one level deeper.
    configs = sorted({info.parent.parent.name for info in infos})
    if configs:
        names = ", ".join(f"{path}/{config}" for config in configs)
        raise UserError(f"{path} comes in several configs, name one: {names}")
    known = (
        [entry.name for entry in root.iterdir() if entry.is_dir()]
        if root.is_dir()
        else []
    )
    raise UserError(
        f"data set {dataset!r} is not prepared in {root}{nearest(path, known)}: "
        f"{_remedy(dataset, root)}"
    )


def _version_number(folder: Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


def _remedy(dataset: str, folder: Path) -> str:
    return (
        "prepare a registered one where there is network, with tensorflow_datasets.builder"
        f"({dataset!r}, file_format='array_record').download_and_prepare(), "
        "or your own text with python -m dlm.data.tfds"
    )


def _sizes(folder: Path) -> Iterator[str]:
    for file in sorted(folder.iterdir()):
        stat = file.stat()
        yield f"{file.name} {stat.st_size} {stat.st_mtime_ns} "


# ---------------------------------------------------------------------------------------- command


def main(arguments: list[str] | None = None) -> int:
    """Turn local text into a data set; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        source = Local(
            tuple(args.paths),
            field=args.field,
            held_out=args.held_out,
            unit=args.unit,
            form=args.form,
            unique=args.unique,
        )
        print(prepare(source, args.name, args.data_dir))
        if source.dropped:
            print(f"dropped: {describe_dropped(source.dropped)}", file=sys.stderr)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dlm.data.tfds",
        description="Turn local text into a TFDS data set.",
    )
    add = parser.add_argument
    paths = "files and globs: text or JSON objects, either gzipped"
    add("--paths", nargs="+", type=Place, required=True, help=paths)
    add("--name", required=True, help="of the data set: small letters, digits and _")
    folder = "by default $TFDS_DATA_DIR, else ~/tensorflow_datasets"
    add("--data_dir", type=Place, help=folder)
    add("--field", default=Local.field, help="of a JSON object")
    share = "share of the documents in the split 'test'"
    add("--held_out", type=float, default=Local.held_out, help=share)
    units = ("auto", "file", "paragraph", "line")
    add(
        "--unit", default=Local.unit, choices=units, help="what one document of text is"
    )
    forms = ("auto", "text", "json")
    add(
        "--form",
        default=Local.form,
        choices=forms,
        help="of the files (auto: by their names)",
    )
    add("--unique", action="store_true", help="keep equal documents once")
    return parser


if __name__ == "__main__":
    sys.exit(main())
