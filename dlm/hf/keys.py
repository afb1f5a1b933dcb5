"""Reads the keys of a config.json without passing over any: an unknown key is refused.

read       what a layout's code reads (`Layout.keys`), each value of one strict type
harmless   dropout, initialisers, caches, dtypes, versions, names, ids, and generation settings
neutral    keys of other models at the values where they have no effect: a multiplier of 1
others     null, false, 0, 1.0, "" and empty values pass; anything else is refused by its key,
           unless `--ignore=KEY` lets it through
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dlm.core.errors import UserError
from dlm.core.named import nearest

# Keys that change no prediction, whatever their value.
_HARMLESS = """
    architectures auto_map model_type model_name name_or_path _name_or_path _commit_hash
    transformers_version transformers.js_config
    unsloth_fixed unsloth_version is_llama_config tokenizer_class tokenizer_file finetuning_task
    task_specific_params problem_type
    id2label label2id num_labels prefix license
    torch_dtype dtype torchscript use_bfloat16 attn_implementation _attn_implementation
    _attn_implementation_autoset _flash_attn_2_enabled
    _experts_implementation use_flash_attn use_flash_attention pretraining_tp use_cache
    cache_implementation return_dict
    output_attentions output_hidden_states output_router_logits output_scores
    return_dict_in_generate gradient_checkpointing
    attention_dropout attn_dropout hidden_dropout residual_dropout resid_dropout embd_dropout
    embedding_dropout mlp_dropout
    classifier_dropout hidden_dropout_prob attention_probs_dropout_prob dropout
    initializer_range initializer_factor init_std
    router_aux_loss_coef aux_loss_alpha router_z_loss_coef router_jitter_noise seq_aux
    neftune_noise_alpha
    max_window_layers max_sequence_length model_max_length seq_length
    bos_token_id eos_token_id pad_token_id mask_token_id sep_token_id cls_token_id unk_token_id
    decoder_start_token_id forced_bos_token_id
    forced_eos_token_id bos_token eos_token pad_token
    max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature
    top_k top_p min_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens
"""
HARMLESS = frozenset(_HARMLESS.split())

# Keys that change predictions, except at the values in NEUTRAL.
_MULTIPLIERS = """
    partial_rotary_factor rotary_pct rope_percentage rotary_emb_fraction attention_factor
    embedding_multiplier residual_multiplier logits_scaling logit_scale scale_emb
    routed_scaling_factor n_group topk_group router_num_group router_topk_group decoder_sparse_step
"""
_NEVER = """
    attention_multiplier query_pre_attn_scalar softmax_scale attention_scale scale_depth
    clip_qkv attn_logit_softcapping final_logit_softcapping router_logit_softcapping
    sliding_window attention_chunk_size is_causal block_size
"""
_ACTIVATIONS = "hidden_act hidden_activation activation_function"
_SCORES = "scoring_func score_function moe_router_score_function"
_VALUES: dict[str, tuple] = {
    _MULTIPLIERS: (1,),
    _NEVER: (),
    _ACTIVATIONS: ("silu", "swish"),
    _SCORES: ("softmax",),
}
NEUTRAL: dict[str, tuple] = {}
for _names, _values in _VALUES.items():
    NEUTRAL |= dict.fromkeys(_names.split(), _values)

LARGEST_COUNT = 2**24  # of layers, widths, ids, positions
_LONGEST = 80  # characters of a value in a message

Test = Callable[[Any], bool]


class Keys:
    """The values of a JSON object by key, and a record of the keys that were read.

    A null counts as absent. All methods raise UserError.

    Args:
        config: the JSON object.
        where: its name in messages.
        defaults: values of keys that are absent altogether (a null takes no default).
    """

    config: dict
    where: Any
    defaults: dict
    read: set[str]
    unread: dict[str, Any]  # dotted key → value, of nested sections

    def __init__(self, config: dict, where: Any, defaults: dict | None = None):
        self.config = config
        self.where = where
        self.defaults = defaults or {}
        self.read = set()
        self.unread = {}

    def get(self, keys: str, default: Any = None) -> Any:
        """Returns the value of a key that may have several names ('a|b'), which must agree."""
        # Two names of one key may both be present, as transformers writes them.
        names = keys.split("|")
        self.read.update(names)
        values = {}
        for name in names:
            if self.config.get(name) is not None:
                values[name] = self.config[name]
        if not agree(values):
            text = format_values(values)
            raise UserError(
                f"{self.where}: {text} contradict each other: keep one of them"
            )
        if values:
            return next(iter(values.values()))
        # A null is a decision of the file's author: the layout's default is for absent keys.
        if any(name in self.config for name in names):
            return default
        return self.defaults.get(names[0], default)

    def _typed(self, keys: str, default: Any, fits: Test, kind: str) -> Any:
        """Reads a value that `fits`; `kind` describes such values in an error."""
        value = self.get(keys, default)
        name = keys.split("|")[0]
        if value is None:
            raise UserError(f"{self.where} lacks {name}")
        if not fits(value):
            raise UserError(f"{self.where}: {name} must be {kind}, not {_short(value)}")
        return value

    def integer(
        self,
        keys: str,
        default: int | None = None,
        least: int = 1,
    ) -> int:
        """Reads a whole number."""

        # A bool is an int in Python, and is no whole number in a config.json.
        def fits(value: Any) -> bool:
            if type(value) is not int:
                return False
            return least <= value <= LARGEST_COUNT

        kind = f"a whole number from {least} to {LARGEST_COUNT}"
        return self._typed(keys, default, fits, kind)

    def number(self, keys: str, default: float | None = None) -> float:
        """Reads a positive finite number."""

        def fits(value: Any) -> bool:
            if type(value) not in (int, float):
                return False
            return math.isfinite(value) and value > 0

        return float(self._typed(keys, default, fits, "a positive number"))

    def flag(self, keys: str) -> bool:
        """Reads true or false; an absent flag is false."""
        return self._typed(
            keys, False, lambda value: isinstance(value, bool), "true or false"
        )

    def integers(self, keys: str, default: Sequence = ()) -> list[int]:
        """Reads a list of whole numbers."""

        def fits(value: Any) -> bool:
            if not isinstance(value, list):
                return False
            return all(type(n) is int for n in value)

        return self._typed(keys, list(default), fits, "a list of whole numbers")

    def section(self, key: str) -> dict:
        """Reads a JSON object; an absent one is {}."""
        return self._typed(key, {}, lambda value: isinstance(value, dict), "an object")

    def require(self, key: str, allowed: tuple) -> None:
        """Raises UserError where the value of a key is not one that the backbone implements."""
        value = self.get(key)
        for choice in allowed:
            # False equals 0 in Python, so the types are compared as well.
            if type(value) is type(choice) and value == choice:
                return
        values = " or ".join(repr(a) for a in allowed if a is not None) or "null"
        text = f"{key}={_short(value)}"
        raise UserError(f"{self.where}: {text} is not supported: it must be {values}")

    def unknown(self, harmless: Iterable[str] = ()) -> dict[str, Any]:
        """Returns what was not read and may change predictions: dotted key → value."""
        known = self.read | set(harmless)
        unknown = {}
        for key, value in self.config.items():
            if key not in known and not neutral(key, value):
                unknown[key] = value
        return unknown | self.unread


def agree(values: dict[str, Any]) -> bool:
    """Whether all values are the same, types included (1 and 1.0 differ)."""
    return len({repr(value) for value in values.values()}) <= 1


def neutral(key: str, value: Any) -> bool:
    """Whether an unread key has no effect at this value."""
    if value is None:
        return True
    number = type(value) in (int, float)
    if key in NEUTRAL:
        # Lists and objects cannot be looked up.
        scalar = number or type(value) is str
        return scalar and value in NEUTRAL[key]
    # An unknown key that is off, zero or empty changes nothing; 1.0 is a multiplier.
    if value is False or value in ("", [], {}):
        return True
    one = type(value) is float and value == 1
    return one or (number and value == 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def format_values(values: dict[str, Any]) -> str:
    """Formats values in one line: 'a=1, b=[2]'."""
    pairs = []
    for key, value in values.items():
        name = key if key.isprintable() else repr(key)
        pairs.append(f"{name}={_short(value)}")
    return ", ".join(pairs)


def without(config: dict, ignored: Iterable[str], where: Any = "config.json") -> dict:
    """Removes keys from a config; 'a.b' is key b of section a. UserError for an absent key."""
    for dotted in ignored:
        # A dotted name is of one key in a section, at any depth.
        above, _, key = dotted.partition(".")
        # A key that has a dot in its own name goes before a nested one.
        if dotted in config:
            config = {k: v for k, v in config.items() if k != dotted}
        elif key and isinstance(config.get(above), dict):
            section = without(config[above], [key], f"{where}: {above}")
            config = config | {above: section}
        else:
            near = nearest(dotted, config)
            raise UserError(f"--ignore={dotted}: {where} has no such key{near}")
    return config
