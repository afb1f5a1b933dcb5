"""A manifest with the sha256 of every file of a folder, of each 64 MiB of it.

It is written last: a folder without one is incomplete, one that differs is damaged. The first
line of `manifest.json` is the sum of the rest, so that a flipped bit in the manifest is seen, too.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dlm.core import files

FILE = "manifest.json"
_THREADS = 8  # hashing releases the interpreter lock
_BLOCK = 4096  # bytes that a disk allocates at a time
PIECE = 1 << 26  # bytes with a sum of their own: several threads sum a large file
_CHUNK = 1 << 18  # bytes read at a time


def write(folder: Path) -> None:
    """Flush every file below `folder` to the disk, sum it, and write the manifest."""
    folder = Path(folder)
    names = _names(folder)
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sizes = {name: (folder / name).stat().st_size for name in names}
    body = json.dumps(_sums(folder, sizes), indent=0, sort_keys=True)
    seal = hashlib.sha256(body.encode()).hexdigest()
    files.write(folder / FILE, f"{seal}\n{body}", sync=True)


def room(folder: Path) -> int:
    """Estimate the bytes that a copy of the folder takes on a disk, in whole blocks.

    Returns 0 where the manifest cannot be read.
    """
    try:
        sums = _read(Path(folder) / FILE)
    except (OSError, ValueError):
        return 0
    # One block more for each file pays for its entry and its folder.
    blocks = [-(-size // _BLOCK) + 1 for size, *_ in sums.values()]
    return sum(blocks) * _BLOCK


def damage(folder: Path) -> str | None:
    """Describe the first thing wrong with the folder; None when every byte is as written."""
    folder = Path(folder)
    if folder.is_symlink():
        return f"{folder} is a link"
    try:
        sums = _read(folder / FILE)
        listed = _names(folder)
        # Names and sizes first: summing a large checkpoint takes a minute.
        for name in sorted(set(sums) | set(listed)):
            path = folder / name
            if name not in listed:
                return f"{path} is missing"
            if name not in sums:
                return f"{path} does not belong there"
            if path.is_symlink():
                return f"{path} is a link"
            size = path.stat().st_size
            expected = sums[name][0]
            if size != expected:
                return f"{path} has {size} bytes instead of {expected}"
        sizes = {name: size for name, (size, *_) in sums.items()}
        for name, now in _sums(folder, sizes).items():
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
    """List every file and link below the folder except the manifest; links are not followed."""
    names = set()
    for root, folders, here in os.walk(folder):
        paths = [os.path.join(root, name) for name in here]
        subfolders = [os.path.join(root, name) for name in folders]
        paths += filter(os.path.islink, subfolders)
        names |= {os.path.relpath(path, folder) for path in paths}
    return sorted(names - {FILE})


def _sums(folder: Path, sizes: dict[str, int]) -> dict[str, list]:
    """Compute {name: [bytes, sha256 of each piece]} of files of these sizes."""
    pieces: list[tuple[str, int]] = []
    for name, size in sizes.items():
        # An empty file has one piece, too.
        begins = range(0, max(size, 1), PIECE)
        pieces += [(name, begin) for begin in begins]

    def sum_of(piece: tuple[str, int]) -> str:
        name, begin = piece
        return _sum(folder / name, begin)

    sums: dict[str, list] = {name: [size] for name, size in sizes.items()}
    with ThreadPoolExecutor(_THREADS) as pool:
        totals = pool.map(sum_of, pieces)
        for (name, _), total in zip(pieces, totals, strict=True):
            sums[name].append(total)
    return sums


def _sum(path: Path, begin: int) -> str:
    """Compute the sha256 of the piece of a file that begins there."""
    total = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    # Unbuffered reads go into one buffer, so that a large piece needs no memory of its own.
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        left = PIECE
        while left:
            count = file.readinto(buffer[:left])
            if not count:
                break
            total.update(buffer[:count])
            left -= count
    return total.hexdigest()
