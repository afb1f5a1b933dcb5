"""Safetensors, read and written one tensor at a time.

    file     8 bytes: size n of the header, little-endian │ n bytes of JSON │ tensors, row-major
    header   {name: {"dtype": "BF16", "shape": [4, 8], "data_offsets": [begin, end]},
             "__metadata__": {…}}
    folder   model.safetensors, or many files with
             model.safetensors.index.json: {"weight_map": {name: file}}

(https://huggingface.co/docs/safetensors). Nothing is mapped into memory or kept there, so a model
of any size needs no more memory than its largest tensor. A header is checked against its file
before anything is read.
"""

import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from dlm.core import files
from dlm.core.errors import UserError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES: dict[str, Any] = dict(
    F64="<f8",
    F32="<f4",
    F16="<f2",
    BF16=ml_dtypes.bfloat16,
    I64="<i8",
    I32="<i4",
    I16="<i2",
    I8="i1",
    U8="u1",
    BOOL="?",
)
# Little-endian, on every machine.
DTYPES = {name: np.dtype(kind) for name, kind in _DTYPES.items()}
CHUNK = 2**24  # elements of a tensor that are compared at a time
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
_PAGE = 8  # bytes to a multiple of which a header is padded
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)

Plan = dict[str, tuple[np.dtype, tuple[int, ...]]]  # name → (dtype, shape)


class Tensor(NamedTuple):
    """Where a tensor is stored."""

    file: Path
    begin: int  # byte
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        return self.read_flat(0, self.size).reshape(self.shape)

    def read_flat(self, first: int, count: int) -> np.ndarray:
        """Reads `count` elements from element `first` on."""
        offset = self.begin + first * self.dtype.itemsize
        return np.fromfile(self.file, self.dtype, count, offset=offset)


def tensors(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors of a folder by name: checks every file's header and reads no data."""
    # One file, or an index and many.
    folder = Path(folder)
    index = folder / INDEX
    if index.exists():
        return _indexed(folder, _weight_map(index))
    if not (folder / WHOLE).is_file():
        raise UserError(
            f"{folder} has no {WHOLE} and no {INDEX}: "
            "give the folder of a model with safetensors weights"
        )
    return _header(folder / WHOLE)


def _weight_map(index: Path) -> dict[str, str]:
    """Reads tensor name → file; raises UserError for a file outside the folder or a missing one."""
    weight_map: Any = json_object(index).get("weight_map")
    if not _is_weight_map(weight_map):
        raise UserError(f"{index} has no weight_map of tensor names to files")
    for file in sorted(set(weight_map.values())):
        # A published index must not make us read a file elsewhere on this machine.
        if file != Path(file).name or file in ("", ".", ".."):
            raise UserError(f"{index} names {file!r}, which leaves the directory")
        if not (index.parent / file).is_file():
            raise UserError(
                f"{index} names {file}, which is not there: get the whole model"
            )
    return weight_map


def _is_weight_map(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(file, str) for file in value.values())


def _indexed(folder: Path, weight_map: dict[str, str]) -> dict[str, Tensor]:
    """Returns the tensors of several files; UserError where index and files disagree."""
    if (folder / WHOLE).is_file() and WHOLE not in weight_map.values():
        raise UserError(
            f"{folder} holds {WHOLE} and, by {INDEX}, other files with weights: "
            "keep the one that is meant"
        )
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        stored = _header(folder / file)
        expected = {name for name, other in weight_map.items() if other == file}
        if missing := sorted(expected - stored.keys()):
            text = f"lacks {listed(missing)}, which {INDEX} says it has"
            raise UserError(f"{folder / file} {text}")
        if extra := sorted(stored.keys() - expected):
            text = f"holds {listed(extra)}, which {INDEX} does not say"
            raise UserError(f"{folder / file} {text}: they are of another version")
        tensors |= stored
    return tensors


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same values; reads both in chunks."""
    if a.shape != b.shape:
        return False
    for first in range(0, a.size, CHUNK):
        count = min(CHUNK, a.size - first)
        x = a.read_flat(first, count)
        y = b.read_flat(first, count)
        # Bytes are compared where possible: a NaN equals itself, and 0.0 differs from −0.0.
        if a.dtype == b.dtype:
            equal = x.tobytes() == y.tobytes()
        else:
            equal = np.array_equal(x.astype(np.float64), y.astype(np.float64))
        if not equal:
            return False
    return True


def listed(names: Iterable[str], most: int = 8) -> str:
    """Formats names as 'a, b and 3 more'."""
    names = list(names)
    text = ", ".join(names[:most])
    more = len(names) - most
    return f"{text} and {more} more" if more > 0 else text


def json_object(path: Path) -> dict:
    """Reads the JSON object in a file; UserError where there is none."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: give the folder of a published model"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} holds no JSON object")
    return parsed


def _header(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of one file; raises UserError unless they fill it without gaps."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        # Checked before it is read: a wrong length could be of any size.
        if len(first) < 8 or length > min(_LARGEST_HEADER, size - 8):
            raise UserError(
                f"{path} is cut short or no safetensors file: it has {size} bytes, "
                f"its header alone needs {length + 8}"
            )
        try:
            tensors = _parse_header(path, file.read(length))
        except _DAMAGED as error:
            raise UserError(f"{path} has a damaged header: {error!r}") from None
    _check_contiguous(path, 8 + length, tensors)
    return tensors


def _parse_header(path: Path, text: bytes) -> dict[str, Tensor]:
    tensors = {}
    for name, entry in json.loads(text).items():
        if name != "__metadata__":
            tensors[name] = _tensor(path, 8 + len(text), entry)
    return tensors


def _check_contiguous(path: Path, end: int, tensors: dict[str, Tensor]) -> None:
    """Raises UserError unless the tensors fill the file from byte `end` on, without gaps."""
    size = path.stat().st_size
    in_order = sorted(tensors, key=lambda name: tensors[name].begin)
    for name in in_order:
        tensor = tensors[name]
        if tensor.begin != end:
            raise UserError(
                f"{path} has a damaged header: {name} begins at byte {tensor.begin}, "
                f"where the one before ends at {end}"
            )
        end += tensor.nbytes
    if end != size:
        wrong = "cut short" if size < end else "too long"
        text = f"it has {size} bytes, its header speaks of {end}"
        raise UserError(f"{path} is {wrong}: {text}")


def _tensor(path: Path, data: int, entry: dict) -> Tensor:
    """Parses one entry of a header; `data` is the byte where the file's data begins."""
    # Each number is checked: what is read depends on them.
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(n) is int for n in (begin, end, *shape)):
        raise ValueError(f"{entry} is not in whole numbers")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype {entry['dtype']} is not supported")
    tensor = Tensor(path, data + begin, DTYPES[entry["dtype"]], shape)
    if begin < 0 or min(shape, default=0) < 0 or tensor.nbytes != end - begin:
        raise ValueError(f"shape {shape} does not take {end - begin} bytes")
    return tensor


# ---------------------------------------------------------------------------------------- writing


class _File(NamedTuple):
    """One file to be written."""

    header: bytes
    begins: dict[str, int]  # name of a tensor → its first byte after the header
    size: int  # bytes of all its tensors

    @staticmethod
    def of(plan: Plan, names: list[str]) -> "_File":
        # Other libraries expect the name of a framework.
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        begins, end = {}, 0
        for name in names:
            dtype, shape = plan[name]
            begins[name] = end
            end += _bytes(dtype, shape)
            header[name] = dict(
                dtype=_code(dtype),
                shape=list(shape),
                data_offsets=[begins[name], end],
            )
        text = json.dumps(header, separators=(",", ":")).encode()
        # The format aligns the data by spaces after the header.
        return _File(text + b" " * (-len(text) % _PAGE), begins, end)


class Writer:
    """Writes the safetensors files of a folder; a context manager that takes tensors in any order.

    `plan` is {name: (dtype, shape)}; a file has at most `largest` bytes of tensors, or one tensor.
    """

    def __init__(self, folder: Path, plan: Plan, largest: int):
        self._folder = folder
        self._plan = plan
        self._stack = ExitStack()
        self._open: dict[str, IO[bytes]] = {}
        self._missing = set(plan)
        # Names of files as transformers numbers them.
        groups = _groups(plan, largest)
        number = len(groups)
        names = [
            f"model-{n:05}-of-{number:05}.safetensors" for n in range(1, number + 1)
        ]
        if number == 1:
            names = [WHOLE]
        self._files: dict[str, _File] = {}
        self._weight_map: dict[str, str] = {}
        for file, group in zip(names, groups, strict=True):
            self._files[file] = _File.of(plan, group)
            self._weight_map |= dict.fromkeys(group, file)

    def __enter__(self) -> "Writer":
        for name, planned in self._files.items():
            file = self._stack.enter_context((self._folder / name).open("wb"))
            file.write(len(planned.header).to_bytes(8, "little") + planned.header)
            # Its full size at once, so that tensors can be written in any order.
            file.truncate(8 + len(planned.header) + planned.size)
            self._open[name] = file
        return self

    def put(self, name: str, array: np.ndarray) -> None:
        """Writes one planned tensor."""
        dtype, shape = self._plan[name]
        assert array.shape == shape, (name, array.shape, shape)
        file = self._weight_map[name]
        planned, out = self._files[file], self._open[file]
        out.seek(8 + len(planned.header) + planned.begins[name])
        # Written from its own memory, without a copy as bytes.
        converted = np.ascontiguousarray(array.astype(dtype, copy=False))
        out.write(converted.view(np.uint8).data)
        self._missing.discard(name)

    def __exit__(self, kind, error, trace) -> None:
        self._stack.close()
        if kind is not None:
            return
        assert not self._missing, listed(self._missing)
        if len(self._files) > 1:
            # The index has the size of all tensors, without headers.
            total = sum(file.size for file in self._files.values())
            index = dict(metadata=dict(total_size=total), weight_map=self._weight_map)
            files.write(self._folder / INDEX, json.dumps(index, indent=2) + "\n")


def _bytes(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def _code(dtype: np.dtype) -> str:
    """Returns the format's name of a dtype."""
    return next(code for code, known in DTYPES.items() if known == dtype)


def _groups(plan: Plan, largest: int) -> list[list[str]]:
    """Divides the names, in their order, into groups of at most `largest` bytes."""
    groups: list[list[str]] = [[]]
    room = largest
    for name, (dtype, shape) in plan.items():
        size = _bytes(dtype, shape)
        if size > room and groups[-1]:
            groups.append([])
            room = largest
        groups[-1].append(name)
        room -= size
    return groups
