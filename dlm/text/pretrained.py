"""The files of published tokenizers: reading a folder as one checked tree, and writing a copy.

    tokenizer.json                   used where it exists
    vocab.json  merges.txt           otherwise; split like GPT-2 or Qwen2
    tokenizer_config.json  added_tokens.json  special_tokens_map.json
                                     more added tokens, and the names of special tokens
    chat_template.jinja              or a field of tokenizer_config.json; `text.chat` renders it

`text.tokenizer_tree` describes the kinds of BPE that lose nothing; everything else is refused.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm.core import files
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.text import special_ids
from dlm.text.tokenizer_tree import (
    SUPPORTED,
    TokenizerFiles,
    by_id,
    check_ids,
    checked,
    complete_token,
)

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
VOCAB = "vocab.json"
MERGES = "merges.txt"
ADDED = "added_tokens.json"
MAP = "special_tokens_map.json"
_ALL = (FILE, CONFIG, TEMPLATE, VOCAB, MERGES, ADDED, MAP)

# From Qwen's own code.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# -------------------------------------------------------------------------------- read a folder


def read(path: str | Path) -> TokenizerFiles:
    """Read the tokenizer of a folder, or of a file in it.

    The files beside a file are read where it has its published name.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(_absent(path))
    folder = _folder(path)
    paths = [path]
    if folder:
        paths += [folder / name for name in _ALL]
    # A changed file has another time or size, so it is read again.
    stamps = []
    for existing in filter(Path.exists, paths):
        stat = existing.stat()
        stamps.append((existing.name, stat.st_mtime_ns, stat.st_size))
    return _read(path, tuple(stamps))


# One run reads a vocabulary several times, and a large file takes a second.
@functools.lru_cache(maxsize=2)
def _read(path: Path, stamps: tuple) -> TokenizerFiles:
    folder = _folder(path)
    # A file of another name is complete: nothing beside it belongs to it.
    if folder is None:
        tree = checked(load(path), path)
        check_ids(tree, path)
        return TokenizerFiles(tree, {})
    config = settings(folder)
    raw, source = _raw_tree(path, folder, config)
    names = token_names(config)
    tree = checked(raw, source)
    tree = {**tree, "added_tokens": _all_added(tree, folder, config, names)}
    check_ids(tree, source)
    # Without this setting the post-processor decides (`special_ids.puts_bos`).
    adds_bos = config.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        adds_bos = None
    return TokenizerFiles(tree, names, adds_bos, template(folder))


def _raw_tree(path: Path, folder: Path, config: dict) -> tuple[dict, Path]:
    """Read (the tree, the file to name in errors)."""
    if path.name == FILE and path.is_file():
        return load(path), path
    if path.is_dir() and (path / FILE).is_file():
        return load(path / FILE), path / FILE
    if (folder / VOCAB).is_file() and (folder / MERGES).is_file():
        return _tree_of_pair(folder, config), folder / VOCAB
    remedy = ""
    if list(folder.glob("*.model")):
        remedy = "; a tokenizer.model must first be converted to tokenizer.json"
    raise UserError(f"{path} has neither {FILE} nor {VOCAB} with {MERGES}{remedy}")


def _folder(path: Path) -> Path | None:
    if path.is_dir():
        return path
    return path.parent if path.name in (FILE, VOCAB, MERGES) else None


def _absent(path: Path) -> str:
    remedy = f"--config.text.path=RUN/{FILE}"
    return f"no tokenizer {path}; a run that began with it keeps a copy: {remedy}"


def load(path: Path) -> dict:
    """Read a JSON object."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(_absent(path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(
            f"{path} is damaged: it contains a {type(tree).__name__}, not an object"
        )
    return tree


def settings(folder: Path) -> dict:
    """Read tokenizer_config.json over special_tokens_map.json; {} where there is neither."""
    merged: dict = {}
    # The later file is the newer format and wins.
    for name in (MAP, CONFIG):
        if (folder / name).is_file():
            merged |= load(folder / name)
    return merged


def token_names(config: dict) -> dict[str, str]:
    """Return bos_token, eos_token, … as text; files may write one as an object with content."""
    names = {}
    for key, value in config.items():
        content = _content(value)
        if key.endswith("_token") and isinstance(content, str) and content:
            names[key] = content
    return names


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def template(folder: Path) -> str | None:
    """Read the folder's chat template; of several the one that is called 'default'."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
    chosen = settings(folder).get("chat_template")
    # Models with several templates list them with names.
    if isinstance(chosen, list):
        named = [entry for entry in chosen if isinstance(entry, dict)]
        by_name = {entry.get("name"): entry.get("template") for entry in named}
        chosen = by_name.get("default")
    if not isinstance(chosen, str | None):
        raise UserError(
            f"{folder / CONFIG}: chat_template is text, or a list of templates with names, "
            f"not {type(chosen).__name__}"
        )
    return chosen


# -------------------------------------------------------------------- vocab.json and merges.txt


def _tree_of_pair(folder: Path, config: dict) -> dict:
    """Read vocab.json and merges.txt as the tree of a tokenizer.json."""
    merges = _merges(folder / MERGES)
    prefix = config.get("add_prefix_space") is True
    byte_level = dict(
        type="ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=True
    )
    split: dict[str, Any] = byte_level
    normalizer = None
    # Qwen2 normalises and has a regular expression of its own, everyone else GPT-2's.
    if str(config.get("tokenizer_class", "")).startswith("Qwen2"):
        regex = dict(
            type="Split", pattern=dict(Regex=_QWEN2), behavior="Isolated", invert=False
        )
        to_bytes = byte_level | dict(use_regex=False)
        split = dict(type="Sequence", pretokenizers=[regex, to_bytes])
        normalizer = dict(type="NFC")
    model = dict(
        type="BPE",
        dropout=None,
        unk_token=None,
        continuing_subword_prefix=None,
        end_of_word_suffix=None,
        fuse_unk=False,
        byte_fallback=False,
        ignore_merges=False,
        vocab=load(folder / VOCAB),
        merges=merges,
    )
    return dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=[],
        normalizer=normalizer,
        pre_tokenizer=split,
        post_processor=None,
        decoder=dict(
            type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True
        ),
        model=model,
    )


def _merges(path: Path) -> list[str]:
    try:
        lines = files.lines(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    # The first line may name the version of the format.
    merges = [
        line for line in lines if line.strip() and not line.startswith("#version")
    ]
    if any(merge.endswith("</w>") for merge in merges):
        raise UserError(f"{path} marks the ends of words (</w>): {SUPPORTED}")
    return merges


# ------------------------------------------------------------------------------- added tokens


def _all_added(
    tree: dict, folder: Path, config: dict, names: dict[str, str]
) -> list[dict]:
    """The added tokens of the tree and of the folder's other files, by id."""
    added = {token["content"]: token for token in tree["added_tokens"]}
    for listed in _listed(folder, config):
        try:
            token = complete_token(dict(listed, id=int(listed["id"])))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{folder} is damaged: {listed!r} is no added token"
            ) from None
        added.setdefault(token["content"], token)
    # A special token may be a plain piece of the vocabulary.
    pieces = tree["model"]["vocab"]
    special = {*names.values(), *_additional_specials(config)}
    for content in sorted(special - added.keys()):
        if content in pieces:
            token = dict(id=pieces[content], content=content, special=True)
            added[content] = complete_token(token)
    # Some files name a token special that tokenizer.json adds as a plain one.
    for content in special & added.keys():
        if not added[content]["special"]:
            added[content] = dict(added[content], special=True)
    return by_id(list(added.values()))


def _listed(folder: Path, config: dict) -> Iterator[dict]:
    """The added tokens of tokenizer_config.json and added_tokens.json."""
    # Keyed by id, as text.
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for id, token in decoder.items():
            yield dict(token, id=id)
    if (folder / ADDED).is_file():
        for content, id in load(folder / ADDED).items():
            yield dict(id=id, content=content)


def _additional_specials(config: dict) -> list[str]:
    tokens = config.get("additional_special_tokens") or config.get(
        "extra_special_tokens"
    )
    # Newer files map roles to tokens.
    if isinstance(tokens, dict):
        tokens = list(tokens.values())
    if not isinstance(tokens, list):
        return []
    return [content for content in map(_content, tokens) if isinstance(content, str)]


# ---------------------------------------------------------------------------------- write a copy


def save(folder: Path, tokenizer: TokenizerFiles, vocab: Vocab) -> None:
    """Write files that `read` and other libraries read."""
    if tokenizer.template is not None:
        files.write(folder / TEMPLATE, tokenizer.template)
    # Of the settings only what `read` uses.
    config: dict[str, Any] = dict(tokenizer.names)
    if tokenizer.adds_bos is not None:
        config["add_bos_token"] = tokenizer.adds_bos
    if config:
        files.write(folder / CONFIG, _json(config))
    files.write(folder / FILE, _json(special_ids.with_specials(tokenizer.tree, vocab)))


def _json(content: dict) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)
