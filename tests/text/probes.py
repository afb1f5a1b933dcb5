"""Tiny tokenizers of every published kind, and texts that tokenizers are known to spoil.

The library `tokenizers` builds them.
"""

import dataclasses
import functools
import json
from pathlib import Path

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from dlm.core.config import build_member

CORPUS = [
    "the cat sat on the mat, 12345 times; né 中文 🎉\n\tdef f(x):\n        return x\n"
] * 5
NASTY = [
    "",
    " ",
    " a",
    "a ",
    "a  b   c",
    "▁a▁▁",
    " ▁ ",
    "<0x41><0xE2>",
    "<s>hi</s>",
    "<unk>",
    "<|tool|> hi",
    "e\u0301 é ﬁ Ａ",
    "\t\r\n x\n\n",
    "\0\x7f\x85\u2028",
]
NASTY += [
    "🎉👩\u200d🚀 中文字",
    "the cat <s> the cat",
    "Ġthe",
    "\ufeff",
    " \u3000\xa0",
    "İß",
]
SPECIALS = ["<unk>", "<s>", "</s>"]
FLAGS = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)


def _trained(tokenizer, size, **options) -> dict:
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=size, show_progress=False, **options)
    )
    return json.loads(tokenizer.to_str())


def characters(prefix: str, **model) -> dict:
    """As SentencePiece: 'normalizer' writes '▁' by a normalizer, 'first' and 'always' by Metaspace.

    `model` changes fields of the model.
    """
    tokenizer = tokenizers.Tokenizer(
        models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme=prefix, split=prefix == "always"
        )
    tree = _trained(
        tokenizer,
        380,
        special_tokens=[*SPECIALS, *(f"<0x{b:02X}>" for b in range(256))],
    )
    tree["added_tokens"] = [
        token for token in tree["added_tokens"] if token["content"] in SPECIALS
    ]
    return _with_tool(tree) | dict(model=tree["model"] | model)


def over_bytes(**changes) -> dict:
    """As those of Llama 3 and Qwen: a regex, bytes, NFC."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(
        Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.normalizer = normalizers.NFC()
    tree = _trained(
        tokenizer, 300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    n = len(tree["model"]["vocab"])
    tree["added_tokens"] = [
        dict(id=n + i, content=name, special=True, **FLAGS)
        for i, name in enumerate(SPECIALS)
    ]
    first = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", n + 1)]
    )
    bare = tokenizers.Tokenizer(models.BPE())
    bare.post_processor = first
    return (
        _with_tool(tree)
        | dict(post_processor=json.loads(bare.to_str())["post_processor"])
        | changes
    )


def _with_tool(tree: dict) -> dict:
    """With an added token that is not special and that the model's vocabulary has not."""
    end = 1 + max(
        [
            *tree["model"]["vocab"].values(),
            *(token["id"] for token in tree["added_tokens"]),
        ]
    )
    return tree | dict(
        added_tokens=[
            *tree["added_tokens"],
            dict(id=end, content="<|tool|>", special=False, **FLAGS),
        ]
    )


def like_gpt2() -> dict:
    """With a prefix space and without a regex of its own."""
    split = dict(
        type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True
    )
    return over_bytes(pre_tokenizer=split)


KINDS = dict(
    bytes=over_bytes,
    gpt2=like_gpt2,
    normalizer=functools.partial(characters, "normalizer"),
    first=functools.partial(characters, "first"),
    always=functools.partial(characters, "always", ignore_merges=True),
)


def write(folder: Path, tree: dict, **config) -> str:
    """A published folder; with `config`, its tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config), encoding="utf-8"
        )
    return str(folder)


def known(tmp_path, **changes):
    """The ids of a published tokenizer, as its model knows them."""
    config = dict(
        name="bpe",
        path=write(tmp_path, over_bytes()),
        published=changes.get("published", changes),
    )
    return dataclasses.astuple(build_member(config, "text").vocab)


# The rows of tests/test_fields.py. The tokenizer has ids 0 … 303, <s> and </s> are 301 and 302.
ROWS = {
    "BPE.published": (known, dict(rows=400), {}),
    **{
        f"Published.{k}": (known, v, {})
        for k, v in dict(
            rows=400, eos=300, bos=300, pad=300, says="all", stops=(300,)
        ).items()
    },
    "Published.mask": (known, 350, dict(rows=400)),
}
