"""Reading a config.json so that nothing in it is passed over: what is not read must be known to change no number, or is refused.

read       what a layout's code reads (`Layout.keys`), each value of one strict type
harmless   dropout, initialisers, caches, dtypes, versions, names, ids, and what generates rather than predicts
neutral    keys that other models read, with the values at which they do nothing: a multiplier of 1, a cap of null
others     null, false, 0, 1.0, "" and what is empty pass; all else is refused by its key, or let through by `--ignore=KEY`
"""

import math
from collections.abc import Iterable
from typing import Any

from dlm.core.errors import UserError
from dlm.core.named import nearest

_HARMLESS = """
    architectures auto_map model_type model_name name_or_path _name_or_path _commit_hash transformers_version transformers.js_config
    unsloth_fixed unsloth_version is_llama_config tokenizer_class tokenizer_file finetuning_task task_specific_params problem_type
    id2label label2id num_labels prefix license
    torch_dtype dtype torchscript use_bfloat16 attn_implementation _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled
    _experts_implementation use_flash_attn use_flash_attention pretraining_tp use_cache cache_implementation return_dict
    output_attentions output_hidden_states output_router_logits output_scores return_dict_in_generate gradient_checkpointing
    attention_dropout attn_dropout hidden_dropout residual_dropout resid_dropout embd_dropout embedding_dropout mlp_dropout
    classifier_dropout hidden_dropout_prob attention_probs_dropout_prob dropout initializer_range initializer_factor init_std
    router_aux_loss_coef aux_loss_alpha router_z_loss_coef router_jitter_noise seq_aux neftune_noise_alpha
    max_window_layers max_sequence_length model_max_length seq_length
    bos_token_id eos_token_id pad_token_id mask_token_id sep_token_id cls_token_id unk_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id bos_token eos_token pad_token
    max_length min_length max_new_tokens min_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature
    top_k top_p min_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
"""
HARMLESS = frozenset(_HARMLESS.split())
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
_ACTIVATIONS, _SCORES = (
    "hidden_act hidden_activation activation_function",
    "scoring_func score_function moe_router_score_function",
)
_VALUES = {_MULTIPLIERS: (1,), _NEVER: (), _ACTIVATIONS: ("silu", "swish"), _SCORES: ("softmax",)}
NEUTRAL = {key: values for names, values in _VALUES.items() for key in names.split()}
MOST = 2**24  # of anything that is counted: layers, widths, ids, positions
_LONGEST = 80  # characters of a value in a message


class Keys:
    """The values of a JSON object by their keys, and which keys were asked for. Null is what is not there.

    `defaults` are the values of keys that are not there at all, `where` names the object in messages. All raise UserError.
    """

    def __init__(self, config: dict, where: Any, defaults: dict | None = None):
        self.config, self.where, self.defaults = config, where, defaults or {}
        self.read: set[str] = set()
        self.unread: dict[str, Any] = {}  # dotted key → value, of sections within

    def get(self, keys: str, default: Any = None) -> Any:
        """What stands under a key, or under one of several names of it ('a|b'), which must not disagree."""
        names = keys.split("|")
        self.read.update(names)
        given = {name: self.config[name] for name in names if self.config.get(name) is not None}
        if len(given) > 1 and len({repr(value) for value in given.values()}) > 1:
            raise UserError(f"{self.where}: {told(given)} contradict each other: keep one of them")
        if given:
            return next(iter(given.values()))
        return (
            default
            if any(name in self.config for name in names)
            else self.defaults.get(names[0], default)
        )

    def _typed(self, keys: str, default: Any, fits: Any, what: str) -> Any:
        value = self.get(keys, default)
        if value is None:
            raise UserError(f"{self.where} lacks {keys.split('|')[0]}")
        if not fits(value):
            raise UserError(
                f"{self.where}: {keys.split('|')[0]} must be {what}, not {_short(value)}"
            )
        return value

    def integer(self, keys: str, default: int | None = None, least: int = 1) -> int:
        """A whole number."""
        return self._typed(
            keys,
            default,
            lambda v: type(v) is int and least <= v <= MOST,
            f"a whole number from {least} to {MOST}",
        )

    def number(self, keys: str, default: float | None = None) -> float:
        """A positive finite number."""

        def fits(v):
            return type(v) in (int, float) and math.isfinite(v) and v > 0

        return float(self._typed(keys, default, fits, "a positive number"))

    def flag(self, keys: str) -> bool:
        """True or false; false where it is not there."""
        return self._typed(keys, False, lambda v: isinstance(v, bool), "true or false")

    def integers(self, keys: str, default: Iterable[int] = ()) -> list[int]:
        """A list of whole numbers."""

        def fits(v):
            return isinstance(v, list) and all(type(n) is int for n in v)

        return self._typed(keys, list(default), fits, "a list of whole numbers")

    def section(self, key: str) -> dict:
        """A JSON object; {} where it is not there."""
        return self._typed(key, {}, lambda v: isinstance(v, dict), "an object")

    def demand(self, key: str, allowed: tuple) -> None:
        """Raises UserError where a key says what the backbone does not do."""
        value = self.get(key)
        if not any(type(value) is type(a) and value == a for a in allowed):
            wanted = " or ".join(repr(a) for a in allowed if a is not None) or "null"
            raise UserError(
                f"{self.where}: {key}={_short(value)} is not supported: it must be {wanted}"
            )

    def left(self, harmless: Iterable[str] = ()) -> dict[str, Any]:
        """What was not read and may change numbers: dotted key → value."""
        known = self.read | set(harmless)
        own = {
            key: value
            for key, value in self.config.items()
            if key not in known and not neutral(key, value)
        }
        return own | self.unread


def neutral(key: str, value: Any) -> bool:
    """Whether a key that nobody reads says nothing at this value."""
    if value is None:
        return True
    if key in NEUTRAL:
        return type(value) in (int, float, str) and value in NEUTRAL[key]
    return (
        value is False
        or value in ("", [], {})
        or (type(value) in (int, float) and value == 0)
        or (type(value) is float and value == 1)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def told(values: dict[str, Any]) -> str:
    """'a=1, b=[2]', in one line."""
    return ", ".join(
        f"{key if key.isprintable() else repr(key)}={_short(value)}"
        for key, value in values.items()
    )


def without(config: dict, ignored: Iterable[str], where: Any = "config.json") -> dict:
    """The config less some of its keys, a dotted one within a section; UserError where there is no such key."""
    for dotted in ignored:
        above, _, key = dotted.partition(".")
        if dotted in config:
            config = {k: v for k, v in config.items() if k != dotted}
        elif key and isinstance(config.get(above), dict):
            config = config | {above: without(config[above], [key], f"{where}: {above}")}
        else:
            raise UserError(f"--ignore={dotted}: {where} has no such key{nearest(dotted, config)}")
    return config
