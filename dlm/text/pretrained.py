"""Published tokenizers: the files of a folder as one checked tree, with the exact bytes of every piece.

    tokenizer.json                   taken where it is there
    vocab.json  merges.txt           else: a tokenizer.json is made of them, split as GPT-2 or Qwen2 do
    tokenizer_config.json  added_tokens.json  special_tokens_map.json         further added tokens, and the names of special ones
    chat_template.jinja              or a field of tokenizer_config.json; `text.chat` renders it

Two kinds of BPE lose nothing. Over bytes, a piece is spelled in GPT-2's alphabet ('Ġthe'). Over characters (SentencePiece), '▁' is a space,
and a character that has no piece is spelled in bytes ('<0xE2>'); its `byte_fallback` must know all 256. Everything else is refused.
"""

import functools
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from dlm.core import files
from dlm.core.errors import UserError
from dlm.core.vocab import Vocab
from dlm.text import bpe_bytes

FILE, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
VOCAB, MERGES, ADDED, MAP = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
KEPT = (FILE, CONFIG, TEMPLATE)  # what a run directory keeps of a published tokenizer
OURS, OUTSIDE = (
    "appended",
    "outside",
)  # in a saved copy, an added token that is ours; one that the model's vocabulary had not
_LARGEST = 2**24  # ids; a table of all of them is made
_FLAGS = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
SUPPORTED = (
    "only BPE over bytes, or over characters with byte_fallback, gives the exact bytes of every id"
)
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # of Qwen's own code

# Names under which published tokenizers carry our specials.
NAMES = dict(
    eos=("<|eos|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"),
    bos=("<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>"),
    pad=("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"),
    mask=("<|mask|>", "<|mdm_mask|>", "<mask>", "[MASK]", "<|MASK|>"),
)


class TokenizerFiles(NamedTuple):
    """What is known of a tokenizer."""

    tree: dict  # as in tokenizer.json
    names: dict[str, str]  # bos_token, eos_token, …
    adds_bos: bool | None = None  # what tokenizer_config.json says of it
    template: str | None = None  # of chats


# ----------------------------------------------------------------------------------------------------------------- the files


def read(path: str | Path) -> TokenizerFiles:
    """The tokenizer of a folder, or of a file in it. What lies beside a file is read where the file has its published name."""
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(
            f"no tokenizer {path}; a run that began with it keeps a copy: --config.text.path=RUN/{FILE}"
        )
    folder = _folder(path)
    stamps = (
        [path, *((folder / name) for name in (*KEPT, VOCAB, MERGES, ADDED, MAP))]
        if folder
        else [path]
    )
    return _read(
        path, tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in stamps if f.exists())
    )


@functools.lru_cache(
    maxsize=2
)  # a vocabulary is asked for several times, and a large file takes a second
def _read(path: Path, stamps: tuple) -> TokenizerFiles:
    folder = _folder(path)
    config = settings(folder) if folder else {}
    if path.is_file() and path.name not in (VOCAB, MERGES):
        tree, named = load(path), path
    elif path.is_dir() and (path / FILE).is_file():
        tree, named = load(path / FILE), path / FILE
    elif (folder / VOCAB).is_file() and (folder / MERGES).is_file():
        tree, named = _pair(folder, config), folder / VOCAB
    else:
        other = (
            "; a tokenizer.model must first be converted to tokenizer.json"
            if list(folder.glob("*.model"))
            else ""
        )
        raise UserError(f"{path} has neither {FILE} nor {VOCAB} with {MERGES}{other}")
    names = token_names(config)
    tree = _checked(tree, named)
    if folder:
        tree = {**tree, "added_tokens": _further(tree, folder, config, names)}
    _ids_agree(tree, named)
    says = config.get("add_bos_token")
    return TokenizerFiles(
        tree, names, says if isinstance(says, bool) else None, template(folder) if folder else None
    )


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else path.parent if path.name in (FILE, VOCAB, MERGES) else None


def load(path: Path) -> dict:
    """A JSON object."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"no tokenizer {path}; a run that began with it keeps a copy: --config.text.path=RUN/{FILE}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is damaged: it holds a {type(tree).__name__}, not an object")
    return tree


def settings(folder: Path) -> dict:
    """tokenizer_config.json, with what special_tokens_map.json adds; {} where there is neither."""
    paths = [load(folder / name) for name in (MAP, CONFIG) if (folder / name).is_file()]
    return functools.reduce(lambda a, b: a | b, paths, {})


def token_names(config: dict) -> dict[str, str]:
    """bos_token, eos_token, … as strings: a token may be written as an object with its content."""
    contents = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in config.items()
        if key.endswith("_token")
    }
    return {key: value for key, value in contents.items() if isinstance(value, str) and value}


def template(folder: Path) -> str | None:
    """The folder's chat template; of several the one that is called 'default'."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}") from None
    given = settings(folder).get("chat_template")
    if isinstance(given, list):
        given = {t.get("name"): t.get("template") for t in given if isinstance(t, dict)}.get(
            "default"
        )
    if not isinstance(given, str | None):
        raise UserError(
            f"{folder / CONFIG}: chat_template is text, or a list of templates with names, not {type(given).__name__}"
        )
    return given


def _pair(folder: Path, config: dict) -> dict:
    """vocab.json and merges.txt as one tree."""
    try:
        lines = files.lines((folder / MERGES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / MERGES} is damaged: {error}") from None
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    if any(merge.endswith("</w>") for merge in merges):
        raise UserError(f"{folder / MERGES} marks the ends of words (</w>): {SUPPORTED}")
    prefix = config.get("add_prefix_space") is True
    split, normalizer = (
        dict(type="ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=True),
        None,
    )
    if str(config.get("tokenizer_class", "")).startswith("Qwen2"):
        regex = dict(type="Split", pattern=dict(Regex=_QWEN2), behavior="Isolated", invert=False)
        split, normalizer = (
            dict(type="Sequence", pretokenizers=[regex, split | dict(use_regex=False)]),
            dict(type="NFC"),
        )
    decoder = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)
    model = dict(
        type="BPE",
        dropout=None,
        unk_token=None,
        continuing_subword_prefix=None,
        end_of_word_suffix=None,
        fuse_unk=False,
    )
    model |= dict(
        byte_fallback=False, ignore_merges=False, vocab=load(folder / VOCAB), merges=merges
    )
    shape = dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=[],
        normalizer=normalizer,
        pre_tokenizer=split,
    )
    return shape | dict(post_processor=None, decoder=decoder, model=model)


def _further(tree: dict, folder: Path, config: dict, names: dict[str, str]) -> list[dict]:
    """The added tokens, with those that other files of the folder know."""
    added = {token["content"]: token for token in tree["added_tokens"]}
    listed = config.get("added_tokens_decoder") or {}
    listed = (
        [dict(token, id=id) for id, token in listed.items()] if isinstance(listed, dict) else []
    )
    if (folder / ADDED).is_file():
        listed += [dict(id=id, content=content) for content, id in load(folder / ADDED).items()]
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    more = more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    more = [t.get("content") if isinstance(t, dict) else t for t in more]
    special = {*names.values(), *(t for t in more if isinstance(t, str))}
    for token in listed:
        try:
            token = _token(dict(token, id=int(token["id"])))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{folder} is damaged: {token!r} is no added token") from None
        added.setdefault(token["content"], token)
    for content in sorted(special - added.keys()):
        if content in tree["model"]["vocab"]:
            added[content] = _token(
                dict(id=tree["model"]["vocab"][content], content=content, special=True)
            )
    added |= {
        c: dict(added[c], special=True) for c in special & added.keys() if not added[c]["special"]
    }
    return sorted(added.values(), key=lambda token: token["id"])


def _token(token: dict) -> dict:
    """An added token with all its fields."""
    if (
        not isinstance(token["content"], str)
        or not token["content"]
        or type(token["id"]) is not int
    ):
        raise ValueError
    return {
        **token,
        **{flag: off for flag, off in _FLAGS.items() if not isinstance(token.get(flag), bool)},
    }


# --------------------------------------------------------------------------------------------------------------- the checks


def _checked(tree: dict, path: Path) -> dict:
    """The tree with its fields in one form and without what we appended when we saved it."""
    model = tree.get("model")
    model = model if isinstance(model, dict) else {}
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    if (
        kind != "BPE"
        or not isinstance(model.get("vocab"), dict)
        or not isinstance(model.get("merges"), list)
    ):
        raise UserError(f"{path} is a tokenizer of type {kind}: {SUPPORTED}")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise UserError(
                f"{path} has the {affix} {model[affix]!r}, and so loses where spaces stood: {SUPPORTED}"
            )
    try:
        added = [_token(token) for token in tree.get("added_tokens") or []]
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        merges = [[a, b] for a, b in merges if isinstance(a, str) and isinstance(b, str)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is damaged: an added token or a merge has not the form that it must have"
        ) from None
    ours, outside = (
        {token["content"] for token in added if token.get(mark)} for mark in (OURS, OUTSIDE)
    )
    added = [
        {k: v for k, v in token.items() if k != OUTSIDE}
        for token in added
        if token["content"] not in ours
    ]
    held = {piece: id for piece, id in model["vocab"].items() if piece not in ours | outside}
    unknown = next(
        (m for m in merges if not (m[0] in held and m[1] in held and m[0] + m[1] in held)), None
    )
    if unknown:
        raise UserError(
            f"{path} is damaged: the merge {unknown} is of, or makes, a piece that the vocabulary has not"
        )
    model = {"type": kind, **model, "vocab": held, "merges": merges}
    shape = {
        key: tree.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    }
    tree = {
        **tree,
        **shape,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "model": model,
    }
    _loses_nothing(tree, path)
    return tree


def _loses_nothing(tree: dict, path: Path) -> None:
    model, signs = tree["model"], bpe_bytes.alphabet()
    if bpe_bytes.over_bytes(tree):
        lacking = [sign for sign in signs if sign not in model["vocab"]]
        if lacking:
            raise UserError(f"{path} has no piece for {len(lacking)} of the 256 bytes: {SUPPORTED}")
    elif model.get("byte_fallback") is not True or any(
        bpe_bytes.byte_name(b) not in model["vocab"] for b in range(256)
    ):
        lacking = (
            "byte_fallback"
            if model.get("byte_fallback") is not True
            else "pieces for all 256 bytes"
        )
        raise UserError(
            f"{path} does not split into bytes (no ByteLevel pre-tokenizer) and has no {lacking}: {SUPPORTED}"
        )


def _ids_agree(tree: dict, path: Path) -> None:
    """One id for a piece, one piece for an id, in a range of which a table can be made."""
    named: dict[int, str] = {}
    for piece, id in itertools.chain(
        tree["model"]["vocab"].items(), ((t["content"], t["id"]) for t in tree["added_tokens"])
    ):
        if type(id) is not int or not 0 <= id < _LARGEST:
            raise UserError(f"{path} is damaged: the id {id!r} of {piece!r} is out of range")
        if named.setdefault(id, piece) != piece:
            raise UserError(
                f"{path} is damaged: the id {id} is that of {named[id]!r} and of {piece!r}"
            )
    for token in tree["added_tokens"]:
        if tree["model"]["vocab"].get(token["content"], token["id"]) != token["id"]:
            raise UserError(f"{path} is damaged: {token['content']!r} has two ids")


# -------------------------------------------------------------------------------------------------------------- special ids


def special_ids(tokenizer_files: TokenizerFiles, published: Any, where: str) -> Vocab:
    """eos, bos, pad and mask, as `published` names them, else by the names they have, else as its docstring says."""
    tree, chosen = tokenizer_files.tree, {}
    n = 1 + max(
        [*tree["model"]["vocab"].values(), *(token["id"] for token in tree["added_tokens"])]
    )
    rows = published.rows or n
    if rows < n:
        raise UserError(f"config.text.published.rows={rows} is less than the {n} ids of {where}")
    ids, whole = (
        {token["content"]: token["id"] for token in tree["added_tokens"]},
        published.says == "all",
    )
    for kind, names in NAMES.items():
        own = (
            [tokenizer_files.names[f"{kind}_token"]]
            if whole and f"{kind}_token" in tokenizer_files.names
            else []
        )
        named = next((ids[name] for name in (*own, *names) if name in ids), None)
        chosen[kind] = named if getattr(published, kind) < 0 else getattr(published, kind)
        if chosen[kind] is not None and chosen[kind] >= rows:
            raise UserError(
                f"config.text.published.{kind}={chosen[kind]} is no id: {where} and its model have {rows}"
            )
    free = (id for id in itertools.count(n) if id not in chosen.values())
    for kind in NAMES:
        if chosen[kind] is None:
            chosen[kind] = chosen["eos"] if whole and kind in ("bos", "pad") else next(free)
    size, plain = max(rows, 1 + max(chosen.values())), bpe_bytes.ordinary(tree)
    if max(published.stops, default=0) >= rows:
        raise UserError(
            f"config.text.published.stops={published.stops}: {where} and its model have {rows} ids, from 0 on"
        )
    if chosen["mask"] in (*published.stops, *(chosen[kind] for kind in ("eos", "bos", "pad"))):
        raise UserError(
            f"config.text.published: the mask must have an id of its own in {where}, and {chosen['mask']} is that of another"
        )
    for kind in ("eos", "mask") if whole else NAMES:
        if chosen[kind] in plain:
            raise UserError(
                f"config.text.published.{kind}={chosen[kind]} is the id of a piece of text in {where}"
            )
    excluded = (
        (chosen["mask"], *(i for i in range(rows, size) if i != chosen["mask"])) if whole else None
    )
    return Vocab(size=size, **chosen, excluded=excluded, stops=published.stops)


def own_eos(found: TokenizerFiles) -> int | None:
    """The id of the eos_token that the tokenizer's files name."""
    return _all(found.tree).get(found.names.get("eos_token"))


def has(found: TokenizerFiles) -> set[int]:
    """The ids of all pieces, added tokens among them."""
    return set(_all(found.tree).values())


def _all(tree: dict) -> dict[str, int]:
    """The ids by what they spell."""
    return tree["model"]["vocab"] | {
        token["content"]: token["id"] for token in tree["added_tokens"]
    }


def with_specials(tree: dict, vocab: Vocab) -> dict:
    """What is saved: the tree with all four specials under their ids, and every added token in the vocabulary; both are marked, so that
    `read` finds the published tree again."""
    own, added = tree["model"]["vocab"], tree["added_tokens"]
    held, known = (
        {token["id"] for token in added} | set(own.values()),
        {token["content"] for token in added} | own.keys(),
    )
    ids = dict(
        mask=vocab.mask, pad=vocab.pad, bos=vocab.bos, eos=vocab.eos
    )  # of one id that has two, eos is the name
    lacking = {
        id: f"<|{kind}|>" if f"<|{kind}|>" not in known else f"<|{kind} {id}|>"
        for kind, id in ids.items()
        if id not in held
    }
    ours = [
        dict(id=id, content=name, **_FLAGS | dict(special=True), **{OURS: True})
        for id, name in lacking.items()
    ]
    added = [token if token["content"] in own else {**token, OUTSIDE: True} for token in added]
    return bpe_bytes.counted(
        {**tree, "added_tokens": sorted([*added, *ours], key=lambda token: token["id"])}
    )


def puts_bos(tokenizer_files: TokenizerFiles, bos: int) -> bool:
    """Whether the published tokenizer puts bos in front of a text."""
    if tokenizer_files.adds_bos is not None:
        return tokenizer_files.adds_bos
    processor = tokenizer_files.tree.get("post_processor") or {}
    for step in processor.get("processors") or [processor]:
        first = (step.get("single") or [{}])[0] if step.get("type") == "TemplateProcessing" else {}
        if bos in step.get("special_tokens", {}).get(
            first.get("SpecialToken", {}).get("id"), {}
        ).get("ids", ()):
            return True
    return False


def save(folder: Path, tokenizer_files: TokenizerFiles, vocab: Vocab) -> None:
    """Writes what `read` finds again, and other libraries too."""
    says = {} if tokenizer_files.adds_bos is None else dict(add_bos_token=tokenizer_files.adds_bos)
    if tokenizer_files.template is not None:
        files.write(folder / TEMPLATE, tokenizer_files.template)
    if tokenizer_files.names or says:
        files.write(
            folder / CONFIG, json.dumps(tokenizer_files.names | says, indent=1, ensure_ascii=False)
        )
    files.write(
        folder / FILE,
        json.dumps(with_specials(tokenizer_files.tree, vocab), indent=1, ensure_ascii=False),
    )
