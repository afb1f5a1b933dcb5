"""The sha256 of every file of a folder (of each 64 MiB of it), written last: what has none is not whole, what differs is damaged.

The first line of `manifest.json` is the sum of the rest, so that a flipped bit in the manifest itself is seen as well.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dlm.core import files

FILE = "manifest.json"
_THREADS = 8  # hashing releases the interpreter lock
_BLOCK = 4096  # bytes in which a disk hands out room
PIECE = (
    1 << 26
)  # bytes that have a sum of their own, so that a large file is summed by several threads
_CHUNK = 1 << 18  # bytes read at a time


def write(folder: Path) -> None:
    """Sums every file below `folder`, makes sure that all of them are on the disk, then writes the manifest."""
    folder = Path(folder)
    for path in map(folder.joinpath, names := _names(folder)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sums = _sums(folder, {name: (folder / name).stat().st_size for name in names})
    body = json.dumps(sums, indent=0, sort_keys=True)
    files.write(folder / FILE, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}", sync=True)


def room(folder: Path) -> int:
    """Bytes that a copy of the folder takes on a disk, its own blocks and its folders' included; 0 where its manifest cannot be read."""
    try:
        return sum(
            (-(-size // _BLOCK) + 1) * _BLOCK for size, *_ in _read(Path(folder) / FILE).values()
        )
    except (OSError, ValueError):
        return 0


def damage(folder: Path) -> str | None:
    """The first thing wrong with the folder, in words; None when every byte is what was written."""
    folder = Path(folder)
    if folder.is_symlink():
        return f"{folder} is a link"
    try:
        sums = _read(folder / FILE)
        listed = _names(folder)
        for name in sorted(set(sums) | set(listed)):
            if name not in listed:
                return f"{folder / name} is missing"
            if name not in sums:
                return f"{folder / name} does not belong there"
            if (folder / name).is_symlink():
                return f"{folder / name} is a link"
            if (folder / name).stat().st_size != sums[name][0]:
                return f"{folder / name} has {(folder / name).stat().st_size} bytes instead of {sums[name][0]}"
        for name, now in _sums(folder, {name: size for name, (size, *_) in sums.items()}).items():
            if now != sums[name]:
                return f"{folder / name} was changed: its sha256 is not the manifest's"
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"
    except ValueError:
        return f"{folder / FILE} is damaged"
    return None


def _read(path: Path) -> dict[str, list]:
    """{name: [bytes, sha256 of each piece]}."""
    seal, _, body = path.read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise ValueError("not the manifest that was written")
    return json.loads(body)


def _names(folder: Path) -> list[str]:
    """Every file and link below the folder, but the manifest; links are not followed."""
    listed = []
    for root, folders, here in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        listed += [os.path.relpath(os.path.join(root, name), folder) for name in here + links]
    return sorted(set(listed) - {FILE})


def _sums(folder: Path, sizes: dict[str, int]) -> dict[str, list]:
    """{name: [bytes, sha256 of each piece]} of files of these sizes."""
    pieces = [
        (name, begin) for name, size in sizes.items() for begin in range(0, max(size, 1), PIECE)
    ]
    listed: dict[str, list] = {name: [size] for name, size in sizes.items()}
    with ThreadPoolExecutor(_THREADS) as pool:
        for (name, _), total in zip(
            pieces, pool.map(lambda piece: _sum(folder / piece[0], piece[1]), pieces), strict=True
        ):
            listed[name].append(total)
    return listed


def _sum(path: Path, begin: int) -> str:
    """sha256 of the piece of a file that begins there."""
    total, left, buffer = hashlib.sha256(), PIECE, memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while left and (count := file.readinto(buffer[: min(left, _CHUNK)])):
            total.update(buffer[:count])
            left -= count
    return total.hexdigest()
