"""Published layouts, each as two tables that are read in both directions: the keys of its config.json, the names of its tensors.

    ours              theirs, in every layer {n}              their axes
    attention/q_DHK   model.layers.{n}.self_attn.q_proj.weight   HK D      torch keeps (outputs, inputs), with the heads side by side
    attention/o_HKD   model.layers.{n}.self_attn.o_proj.weight   D HK      a space stands between two axes of their array
    experts/up_EDF    model.layers.{n}.mlp.experts.{e}.up_proj.weight   F D

Names, keys and defaults are those of transformers (Llama, Qwen2, Qwen3, Qwen3-MoE, Mixtral), of the code published with LLaDA, LLaDA-MoE,
Dream and SDAR, and of Pangu Pro MoE's inference code (vllm-ascend). What a config.json says beyond what is read is refused (`hf.keys`).
"""

from dataclasses import dataclass, field
from typing import Any

from dlm.core.errors import UserError
from dlm.core.named import nearest

_TOP = {
    "embed_VD": ("model.embed_tokens.weight", "V D"),
    "unembed_VD": ("lm_head.weight", "V D"),
    "norm_D": ("model.norm.weight", "D"),
}
_NORMS = {
    "attend_norm_D": ("input_layernorm.weight", "D"),
    "ffn_norm_D": ("post_attention_layernorm.weight", "D"),
}
_ATTENTION = {
    "attention/q_DHK": ("self_attn.q_proj.weight", "HK D"),
    "attention/k_DJK": ("self_attn.k_proj.weight", "JK D"),
    "attention/v_DJK": ("self_attn.v_proj.weight", "JK D"),
    "attention/o_HKD": ("self_attn.o_proj.weight", "D HK"),
    "attention/q_bias_HK": ("self_attn.q_proj.bias", "HK"),
    "attention/k_bias_JK": ("self_attn.k_proj.bias", "JK"),
    "attention/v_bias_JK": ("self_attn.v_proj.bias", "JK"),
    "attention/o_bias_D": ("self_attn.o_proj.bias", "D"),
    "attention/q_norm_K": ("self_attn.q_norm.weight", "K"),
    "attention/k_norm_K": ("self_attn.k_norm.weight", "K"),
}
_FFN = {
    "ffn/gate_DF": ("mlp.gate_proj.weight", "F D"),
    "ffn/up_DF": ("mlp.up_proj.weight", "F D"),
    "ffn/down_FD": ("mlp.down_proj.weight", "D F"),
}
_EXPERTS = {
    "experts/router_DGX": ("mlp.gate.weight", "GX D"),
    "experts/scale_GX": ("mlp.router_scale", "1 GX"),
    "experts/gate_EDF": ("mlp.experts.{e}.gate_proj.weight", "F D"),
    "experts/up_EDF": ("mlp.experts.{e}.up_proj.weight", "F D"),
    "experts/down_EFD": ("mlp.experts.{e}.down_proj.weight", "D F"),
    "experts/shared/gate_DF": ("mlp.shared_expert.gate_proj.weight", "F D"),
    "experts/shared/up_DF": ("mlp.shared_expert.up_proj.weight", "F D"),
    "experts/shared/down_FD": ("mlp.shared_expert.down_proj.weight", "D F"),
}
_SHARED = {  # of LLaDA-MoE, beside its experts and not within
    "experts/shared/gate_DF": ("shared_expert.gate_proj.weight", "F D"),
    "experts/shared/up_DF": ("shared_expert.up_proj.weight", "F D"),
    "experts/shared/down_FD": ("shared_expert.down_proj.weight", "D F"),
}
_MIXTRAL = {
    "experts/router_DGX": ("block_sparse_moe.gate.weight", "GX D"),
    "experts/gate_EDF": ("block_sparse_moe.experts.{e}.w1.weight", "F D"),
    "experts/down_EFD": ("block_sparse_moe.experts.{e}.w2.weight", "D F"),
    "experts/up_EDF": ("block_sparse_moe.experts.{e}.w3.weight", "F D"),
}
_LLADA_TOP = {
    "embed_VD": ("model.transformer.wte.weight", "V D"),
    "unembed_VD": ("model.transformer.ff_out.weight", "V D"),
    "norm_D": ("model.transformer.ln_f.weight", "D"),
}
_LLADA = {
    "attend_norm_D": ("attn_norm.weight", "D"),
    "ffn_norm_D": ("ff_norm.weight", "D"),
    "attention/q_DHK": ("q_proj.weight", "HK D"),
    "attention/k_DJK": ("k_proj.weight", "JK D"),
    "attention/v_DJK": ("v_proj.weight", "JK D"),
    "attention/o_HKD": ("attn_out.weight", "D HK"),
    "attention/q_bias_HK": ("q_proj.bias", "HK"),
    "attention/k_bias_JK": ("k_proj.bias", "JK"),
    "attention/v_bias_JK": ("v_proj.bias", "JK"),
    "ffn/gate_DF": ("ff_proj.weight", "F D"),
    "ffn/up_DF": ("up_proj.weight", "F D"),
    "ffn/down_FD": ("ff_out.weight", "D F"),
}
_KEYS = dict(
    layers="num_hidden_layers",
    width="hidden_size",
    heads="num_attention_heads",
    kv_heads="num_key_value_heads",
    ffn="intermediate_size",
    vocab="vocab_size",
    tied="tie_word_embeddings",
    epsilon="rms_norm_eps",
    length="max_position_embeddings",
    base="rope_theta",
    scaling="rope_scaling",
    parameters="rope_parameters",
)
_HEADS = dict(
    head_size="head_dim"
)  # where the code does not read it, a head's size is width / heads
_BIAS = dict(bias="attention_bias")
_KINDS = dict(kinds="layer_types")  # of which a rope section may speak apart
_MOE = dict(number="num_experts", active="num_experts_per_tok", expert="moe_intermediate_size")
_LLADA_KEYS = dict(
    layers="n_layers",
    width="d_model",
    heads="n_heads",
    kv_heads="n_kv_heads",
    ffn="mlp_hidden_size",
    vocab="embedding_size",
    tied="weight_tying",
    epsilon="rms_norm_eps",
    length="max_sequence_length",
    base="rope_theta",
    bias="include_qkv_bias",
)
_PLAIN = dict(
    hidden_act=("silu", "swish", None), mlp_bias=(None, False)
)  # key → what it may say, the first if we write it
_CAUSAL, _BOTH_WAYS = _PLAIN | dict(is_causal=(None, True)), _PLAIN | dict(is_causal=(None, False))
_NO_WINDOWS = dict(use_sliding_window=(None, False), sliding_window=(None,))
_WINDOWS = dict(use_sliding_window=(False, None))  # without which its code does not read the others
_UNREAD = frozenset(("sliding_window", "max_window_layers"))
_LLADA_DEMANDS = dict(
    block_type=("llama",),
    activation_type=("silu",),
    layer_norm_type=("rms",),
    rope=(True,),
    alibi=(False, None),
    include_bias=(False, None),
    attention_layer_norm=(False, None),
    input_emb_norm=(False, None),
    scale_logits=(False, None),
    bias_for_layer_norm=(None, False),
    layer_norm_with_affine=(None, True),
    rope_full_precision=(None, True),
    multi_query_attention=(None, False),
    block_group_size=(None, 1),
    clip_qkv=(None,),
    is_causal=(None, False),
)
_LLADA_HARMLESS = """
    alibi_bias_max attention_layer_norm_with_affine flash_attention init_cutoff_factor init_device init_fn mlp_ratio precision
    train_max_sequence_length
"""
_DEFAULTS = dict(rms_norm_eps=1e-6, rope_theta=10_000.0)
_AR = dict(name="objectives.ar")
_MASKED = dict(name="objectives.masked")


@dataclass(frozen=True)
class Tensors:
    """The names of a layout's tensors, and their axes."""

    within: dict  # ours within a layer → (theirs, their axes)
    top: dict = field(default_factory=lambda: _TOP)
    layer: str = "model.layers.{n}."

    def name(self, path: str) -> tuple[str, str] | None:
        """(their name with {n} and {e}, their axes) of our parameter within a layer or above the layers."""
        if path in self.top:
            return self.top[path]
        return (
            (self.layer + self.within[path][0], self.within[path][1])
            if path in self.within
            else None
        )


@dataclass(frozen=True)
class Layout:
    architecture: str  # config.json's "architectures"
    kind: str  # its "model_type"
    objective: dict
    tensors: Tensors
    keys: dict  # ours → the key that its code reads, or several names of it: "a|b"
    demands: dict  # key → values that mean what the backbone does; None: not there
    defaults: dict  # key → what its code takes where there is no such key
    harmless: frozenset = (
        frozenset()
    )  # keys of its own that change no number (`hf.keys` has those of all layouts)
    bias: str = "none"  # what has biases: always, or where keys["bias"] says so
    qk_norm: str = "none"
    router: dict | None = None  # our router, where there are experts
    mask: int | None = None  # the mask's id where config.json does not name it


_DENSE = _NORMS | _ATTENTION | _FFN
_SPARSE = _DENSE | _EXPERTS
_TOPK = dict(name="nn.routers.topk", scale="none")
LAYOUTS = {
    layout.architecture: layout
    for layout in (
        Layout(
            "LlamaForCausalLM",
            "llama",
            _AR,
            Tensors(_DENSE),
            _KEYS | _HEADS | _BIAS,
            _CAUSAL | _NO_WINDOWS,
            _DEFAULTS,
            bias="all",
        ),
        Layout(
            "Qwen2ForCausalLM",
            "qwen2",
            _AR,
            Tensors(_DENSE),
            _KEYS | _HEADS | _KINDS,
            _CAUSAL | _WINDOWS,
            _DEFAULTS | dict(num_key_value_heads=32),
            _UNREAD,
            bias="qkv",
        ),
        Layout(
            "Qwen3ForCausalLM",
            "qwen3",
            _AR,
            Tensors(_DENSE),
            _KEYS | _HEADS | _BIAS | _KINDS,
            _CAUSAL | _WINDOWS,
            _DEFAULTS | dict(num_key_value_heads=32, head_dim=128),
            _UNREAD,
            bias="all",
            qk_norm="rms",
        ),
        Layout(
            "Qwen3MoeForCausalLM",
            "qwen3_moe",
            _AR,
            Tensors(_SPARSE),
            _KEYS
            | _HEADS
            | _BIAS
            | _MOE
            | dict(
                number="num_experts|num_local_experts",
                renormalised="norm_topk_prob",
                dense="mlp_only_layers",
                every="decoder_sparse_step",
            ),
            _CAUSAL | _WINDOWS,
            _DEFAULTS | dict(num_key_value_heads=4),
            _UNREAD,
            bias="all",
            qk_norm="rms",
            router=_TOPK,
        ),
        Layout(
            "MixtralForCausalLM",
            "mixtral",
            _AR,
            Tensors(_NORMS | _ATTENTION | _MIXTRAL),
            _KEYS
            | _HEADS
            | _MOE
            | dict(number="num_local_experts|num_experts", expert="intermediate_size"),
            _CAUSAL | _NO_WINDOWS | dict(norm_topk_prob=(None, True)),
            dict(rms_norm_eps=1e-5, rope_theta=1e6, num_key_value_heads=8),
            router=_TOPK | dict(weights="renormalised"),
        ),
        Layout(
            "LLaDAModelLM",
            "llada",
            _MASKED,
            Tensors(_LLADA, _LLADA_TOP, "model.transformer.blocks.{n}."),
            _LLADA_KEYS,
            _LLADA_DEMANDS,
            dict(rms_norm_eps=1e-5, rope_theta=10_000.0, weight_tying=True),
            frozenset(_LLADA_HARMLESS.split()),
            bias="qkv",
            mask=126336,
        ),
        Layout(
            "LLaDAMoEModelLM",
            "llada",
            _MASKED,
            Tensors(_SPARSE | _SHARED),
            _KEYS
            | _BIAS
            | _MOE
            | dict(
                expert="expert_intermediate_size",
                ffn="dense_intermediate_size",
                shared="shared_expert_intermediate_size",
            )
            | dict(sparse="moe_layer_freq"),
            _BOTH_WAYS
            | dict(
                qk_layernorm=(True,),
                clip_qkv=(None,),
                moe_router_score_function=("softmax", None),
                moe_router_enable_expert_bias=(False, None),
                norm_topk_prob=(False, None),  # its code sets it to False, whatever is said
            ),
            dict(rms_norm_eps=1e-5),
            frozenset(("intermediate_size",)),
            bias="all",
            qk_norm="rms",
            router=_TOPK | dict(weights="plain"),
            mask=156895,
        ),
        Layout(
            "DreamModel",
            "Dream",
            dict(name="objectives.adapted"),
            Tensors(_DENSE),
            _KEYS,
            _BOTH_WAYS | _WINDOWS,
            _DEFAULTS | dict(num_key_value_heads=32),
            _UNREAD,
            bias="qkv",
            mask=151666,
        ),
        Layout(
            "SDARForCausalLM",
            "sdar",
            dict(name="objectives.block"),
            Tensors(_DENSE),
            _KEYS | _HEADS | _BIAS | dict(block="block_size"),
            _PLAIN | _WINDOWS,
            _DEFAULTS | dict(num_key_value_heads=32, head_dim=128),
            _UNREAD | frozenset(("ep_size", "fuse_cross_entropy")),  # of training
            bias="all",
            qk_norm="rms",
            mask=151669,
        ),
        Layout(
            "PanguProMoEForCausalLM",
            "PanguProMoE",
            _AR,
            Tensors(_SPARSE),
            _KEYS | _MOE | dict(shared="shared_expert_intermediate_size", dense="mlp_only_layers"),
            _CAUSAL | _NO_WINDOWS,
            dict(rms_norm_eps=1e-5, num_key_value_heads=8),
            bias="all",
            router=dict(name="nn.routers.moge", scale="learned"),
        ),
    )
}


def of(config: dict, where: Any) -> Layout:
    """The layout that a config.json names; raises UserError where it names none, or two."""
    named, kind = config.get("architectures"), config.get("model_type")
    if named and not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise UserError(f"{where}: architectures must be a list of names, not {str(named)[:80]!r}")
    named = named[0] if named else kind
    known = next(
        (layout for layout in LAYOUTS.values() if named in (layout.architecture, layout.kind)), None
    )
    if known is None:
        near = nearest(named, LAYOUTS) if isinstance(named, str) else ""
        raise UserError(
            f"{where}: unknown architecture {str(named)[:80]!r}{near}; known are {', '.join(LAYOUTS)}"
        )
    if kind != known.kind and kind in [layout.kind for layout in LAYOUTS.values()]:
        raise UserError(
            f"{where}: architectures names {known.architecture}, model_type another one, {kind}: which of the two is it?"
        )
    return known
