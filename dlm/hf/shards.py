"""Safetensors, one tensor at a time: nothing is mapped or kept, so a model of any size passes through the memory of its largest tensor.

    file     8 bytes: size n of the header, little-endian │ n bytes of JSON │ tensors, row-major, one after the other
    header   {name: {"dtype": "BF16", "shape": [4, 8], "data_offsets": [begin, end]}, "__metadata__": {…}}
    folder   model.safetensors, or many files with model.safetensors.index.json: {"weight_map": {name: file}}

(https://huggingface.co/docs/safetensors). A header is checked against its file before anything is read.
"""

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from dlm.core import files
from dlm.core.errors import UserError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = dict(
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
DTYPES = {name: np.dtype(kind) for name, kind in _DTYPES.items()}
PIECE = 2**24  # numbers of a tensor that are compared at a time
_HEADER = 100_000_000  # bytes; the format's own limit


class Tensor(NamedTuple):
    """Where a tensor lies."""

    file: Path
    begin: int  # byte
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        flat = np.fromfile(self.file, self.dtype, math.prod(self.shape), offset=self.begin)
        return flat.reshape(self.shape)


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name; every file's header is checked, none of their data is read."""
    folder = Path(folder)
    if (folder / INDEX).exists():
        named = json_object(folder / INDEX).get("weight_map")
        if (
            not isinstance(named, dict)
            or not named
            or not all(isinstance(file, str) for file in named.values())
        ):
            raise UserError(f"{folder / INDEX} has no weight_map of tensor names to files")
        for file in sorted(set(named.values())):
            if file != Path(file).name or file in ("", ".", ".."):
                raise UserError(f"{folder / INDEX} names {file!r}, which leaves the directory")
            if not (folder / file).is_file():
                raise UserError(
                    f"{folder / INDEX} names {file}, which is not there: get the whole model"
                )
        return _indexed(folder, named)
    if not (folder / WHOLE).is_file():
        raise UserError(
            f"{folder} has no {WHOLE} and no {INDEX}: give the folder of a model with safetensors weights"
        )
    return _header(folder / WHOLE)


def _indexed(folder: Path, named: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of several files; raises UserError where the index and the files disagree."""
    if (folder / WHOLE).is_file() and WHOLE not in named.values():
        raise UserError(
            f"{folder} holds {WHOLE} and, by {INDEX}, other files with weights: keep the one that is meant"
        )
    parsed = {}
    for file in sorted(set(named.values())):
        held = _header(folder / file)
        if lost := sorted(name for name in named if named[name] == file and name not in held):
            raise UserError(f"{folder / file} lacks {listed(lost)}, which {INDEX} says it has")
        if more := sorted(name for name in held if named.get(name) != file):
            raise UserError(
                f"{folder / file} holds {listed(more)}, which {INDEX} does not say: they are of another version"
            )
        parsed |= held
    return parsed


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; a part of them is in memory at a time."""
    if a.shape != b.shape:
        return False
    size = math.prod(a.shape)
    for begin in range(0, size, PIECE):
        x, y = (
            np.fromfile(
                t.file, t.dtype, min(PIECE, size - begin), offset=t.begin + begin * t.dtype.itemsize
            )
            for t in (a, b)
        )
        if (
            x.tobytes() != y.tobytes()
            if a.dtype == b.dtype
            else not np.array_equal(x.astype(np.float64), y.astype(np.float64))
        ):
            return False
    return True


def listed(names, most: int = 8) -> str:
    """'a, b and 3 more'."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def json_object(path: Path) -> dict:
    """The JSON object in a file."""
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give the folder of a published model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} holds no JSON object")
    return parsed


def _header(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > min(_HEADER, size - 8):
            raise UserError(
                f"{path} is cut short or no safetensors file: it has {size} bytes, its header alone needs {length + 8}"
            )
        try:
            header = json.loads(file.read(length))
            parsed = {
                name: _tensor(path, 8 + length, entry)
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} has a damaged header: {error!r}") from None
    end = 8 + length
    for name, tensor in sorted(parsed.items(), key=lambda item: item[1].begin):
        if tensor.begin != end:
            raise UserError(
                f"{path} has a damaged header: {name} begins at byte {tensor.begin}, where the one before ends at {end}"
            )
        end = tensor.begin + tensor.nbytes
    if end != size:
        raise UserError(
            f"{path} is {'cut short' if size < end else 'too long'}: it has {size} bytes, its header speaks of {end}"
        )
    return parsed


def _tensor(path: Path, data: int, entry: dict) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(n) is int for n in (begin, end, *shape)):
        raise ValueError(f"{entry} is not in whole numbers")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"dtype {entry['dtype']} is not supported")
    tensor = Tensor(path, data + begin, DTYPES[entry["dtype"]], shape)
    if min(shape, default=0) < 0 or tensor.nbytes != end - begin or begin < 0:
        raise ValueError(f"shape {shape} does not take {end - begin} bytes")
    return tensor


# ------------------------------------------------------------------------------------------------------------------- writing


class Writer:
    """The files of a folder in the making, open until `with` ends: tensors come in any order.

    `planned` is {name: (dtype, shape)}; a file takes up to `largest` bytes.
    """

    def __init__(
        self, folder: Path, planned: dict[str, tuple[np.dtype, tuple[int, ...]]], largest: int
    ):
        self.folder = folder
        groups = _groups(planned, largest)
        names = (
            [WHOLE]
            if len(groups) == 1
            else [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
        )
        self._planned, self._open, self._headers, self._at, weight_map = (
            planned,
            ExitStack(),
            {},
            {},
            {},
        )
        for name, group in zip(names, groups, strict=True):
            header, end = {"__metadata__": {"format": "pt"}}, 0
            for tensor in group:
                dtype, shape = planned[tensor]
                begin, end = end, end + math.prod(shape) * dtype.itemsize
                kind = next(k for k, known in DTYPES.items() if known == dtype)
                header[tensor] = dict(dtype=kind, shape=list(shape), data_offsets=[begin, end])
                self._at[tensor], weight_map[tensor] = (name, begin), name
            text = json.dumps(header, separators=(",", ":")).encode()
            self._headers[name] = text + b" " * (-len(text) % 8), end
        self._left, self._index = set(planned), weight_map if len(groups) > 1 else None

    def __enter__(self) -> "Writer":
        self._files = {}
        for name, (text, size) in self._headers.items():
            file = self._files[name] = self._open.enter_context((self.folder / name).open("wb"))
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + size)
        return self

    def put(self, name: str, array: np.ndarray) -> None:
        """Writes one planned tensor."""
        dtype, shape = self._planned[name]
        assert array.shape == shape, (name, array.shape, shape)
        file, begin = self._at[name]
        self._files[file].seek(8 + len(self._headers[file][0]) + begin)
        self._files[file].write(
            np.ascontiguousarray(array.astype(dtype, copy=False)).view(np.uint8).data
        )
        self._left.discard(name)

    def __exit__(self, kind, error, trace) -> None:
        self._open.close()
        if kind is None:
            assert not self._left, listed(self._left)
            if self._index is not None:
                total = sum(size for _, size in self._headers.values())
                files.write(
                    self.folder / INDEX,
                    json.dumps(
                        dict(metadata=dict(total_size=total), weight_map=self._index), indent=2
                    )
                    + "\n",
                )


def _groups(planned: dict, largest: int) -> list[list[str]]:
    """The names, in their order, in groups of up to so many bytes."""
    groups, room = [[]], largest
    for name, (dtype, shape) in planned.items():
        size = math.prod(shape) * dtype.itemsize
        if size > room and groups[-1]:
            groups.append([])
            room = largest
        groups[-1].append(name)
        room -= size
    return groups
