"""TensorFlow Datasets without TensorFlow: prepared data sets read at random, and a builder that makes one of local text.

    python -m dlm.data.tfds --name=my_text --paths 'notes/**/*.md' --data_dir=DIR       then  dict(name='data.tfds', dataset='my_text')

Only `array_record` (or parquet) files can be read at random and without TensorFlow. Nothing here touches the network: what is not
prepared is an error at once.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm import data
from dlm.core.config import located
from dlm.core.errors import UserError
from dlm.core.named import Place, nearest
from dlm.data.local import Local


@dataclass(frozen=True)
class Tfds:
    """A prepared data set, 'name', 'name/config' or 'name/config:version'; splits are the data set's own."""

    dataset: str
    field: str = "text"  # the feature that holds the text
    train: str = "train"  # slices work: 'train[:98%]'
    held_out: str = "test"
    data_dir: Place | None = located(None)  # by default $TFDS_DATA_DIR, else ~/tensorflow_datasets

    def documents(self, split: data.Split) -> "Texts":
        """Read when asked for, one by one."""
        import tensorflow_datasets as tfds

        folder = _prepared(self.dataset, _data_dir(self.data_dir))
        builder = tfds.builder_from_directory(folder)
        fields = list(builder.info.features)
        if self.field not in fields:
            raise UserError(
                f"{self.dataset} has no field {self.field!r}: {', '.join(fields)}{nearest(self.field, fields)}"
            )
        name = self.train if split == "train" else self.held_out
        try:
            source = builder.as_data_source(name)
        except NotImplementedError:
            raise UserError(
                f"{folder} is stored as {builder.info.file_format.value}: {_remedy(self.dataset, folder)}"
            ) from None
        except (ValueError, AssertionError):
            raise UserError(
                f"{self.dataset} has no split {name!r}: {', '.join(builder.info.splits)}"
            ) from None
        state = (folder / "dataset_info.json").read_bytes() + "".join(_sizes(folder)).encode()
        return Texts(
            source,
            self.field,
            hashlib.sha256(state + f"{folder} {name} {self.field}".encode()).hexdigest(),
        )


class Texts:
    """The texts of one split, by random access."""

    def __init__(self, source, field: str, fingerprint: str):
        """`fingerprint` changes when the texts do; it spares reading them to find their tokens in the cache."""
        self._source, self._field, self.fingerprint = source, field, fingerprint

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        value = self._source[i][self._field]
        if not isinstance(value, (bytes, str)):
            raise UserError(f"field {self._field!r} is not text but {type(value).__name__}")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def prepare(source: Local, name: str, data_dir: str | None = None) -> Path:
    """Writes the documents of a source as the data set `name`, splits 'train' and 'test', and returns its folder."""
    import tensorflow_datasets as tfds

    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(f"a data set is named with small letters, digits and _, not {name!r}")
    root = _data_dir(data_dir)
    if (root / name).exists():
        raise UserError(f"{root / name} exists already: choose another name or remove it")
    documents = dict(train=source.documents("train"), test=source.documents("held_out"))
    tfds.disable_progress_bar()
    builder = _builder_class(name)(
        documents=documents, data_dir=str(root), file_format="array_record"
    )
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _builder_class(builder_name: str) -> type:
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class LocalText(tfds.core.GeneratorBasedBuilder):
            """Documents as they come, under 'text'."""

            name = builder_name
            VERSION = tfds.core.Version("1.0.0")

            def __init__(self, documents: dict[str, list[str]], **options):
                self._documents = documents
                super().__init__(**options)

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in self._documents}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
                for i, document in enumerate(self._documents[split]):
                    yield i, {"text": document}

    return LocalText


def _data_dir(data_dir: str | None) -> Path:
    try:
        return Path(Place(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    except ValueError as error:
        raise UserError(
            f"the folder of data sets {error}; or name another by data_dir or $TFDS_DATA_DIR"
        ) from None


def _prepared(dataset: str, root: Path) -> Path:
    """The folder of the newest prepared version, found without asking TFDS, which would ask the network for minutes."""
    path, _, version = dataset.partition(":")
    parent = root / path
    versions = [
        info.parent
        for info in parent.glob("*/dataset_info.json")
        if version in ("", info.parent.name)
    ]
    if versions:
        return max(
            versions,
            key=lambda folder: [int(n) if n.isdigit() else -1 for n in folder.name.split(".")],
        )
    configs = sorted({info.parent.parent.name for info in parent.glob("*/*/dataset_info.json")})
    if configs:
        raise UserError(
            f"{path} comes in several configs, name one: {', '.join(f'{path}/{config}' for config in configs)}"
        )
    known = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    raise UserError(
        f"data set {dataset!r} is not prepared in {root}{nearest(path, known)}: {_remedy(dataset, root)}"
    )


def _remedy(dataset: str, folder: Path) -> str:
    return (
        "prepare a registered one where there is network, with tensorflow_datasets.builder"
        f"({dataset!r}, file_format='array_record').download_and_prepare(), or your own text with python -m dlm.data.tfds"
    )


def _sizes(folder: Path) -> list[str]:
    return [
        f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns} "
        for file in sorted(folder.iterdir())
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dlm.data.tfds", description="Turn local text into a TFDS data set."
    )
    parser.add_argument(
        "--paths",
        nargs="+",
        type=Place,
        required=True,
        help="files and globs: text or JSON objects, either gzipped",
    )
    parser.add_argument(
        "--name", required=True, help="of the data set: small letters, digits and _"
    )
    parser.add_argument(
        "--data_dir", type=Place, help="by default $TFDS_DATA_DIR, else ~/tensorflow_datasets"
    )
    parser.add_argument("--field", default=Local.field, help="of a JSON object")
    parser.add_argument(
        "--held_out",
        type=float,
        default=Local.held_out,
        help="share of the documents in the split 'test'",
    )
    parser.add_argument(
        "--unit",
        default=Local.unit,
        choices=("auto", "file", "paragraph", "line"),
        help="what one document of text is",
    )
    parser.add_argument(
        "--form",
        default=Local.form,
        choices=("auto", "text", "json"),
        help="of the files (auto: by their names)",
    )
    parser.add_argument("--unique", action="store_true", help="keep equal documents once")
    chosen = parser.parse_args(arguments)
    try:
        read = {
            name: getattr(chosen, name) for name in ("field", "held_out", "unit", "form", "unique")
        }
        source = Local(tuple(chosen.paths), **read)
        print(prepare(source, chosen.name, chosen.data_dir))
        if source.dropped:
            print(f"dropped: {data.told(source.dropped)}", file=sys.stderr)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
