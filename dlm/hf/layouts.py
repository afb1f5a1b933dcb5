"""Published layouts: the keys of each config.json and the names of its tensors, as tables.

    ours              theirs, in every layer {n}                          their axes
    attention/q_DHK   model.layers.{n}.self_attn.q_proj.weight            HK D
    attention/o_HKD   model.layers.{n}.self_attn.o_proj.weight            D HK
    experts/up_EDF    model.layers.{n}.mlp.experts.{e}.up_proj.weight     F D

torch stores (outputs, inputs), with the heads side by side; a space separates two axes of their
array. Both tables are read in both directions. Names, keys and defaults are those of transformers
(Llama, Qwen2, Qwen3, Qwen3-MoE, Mixtral), of the code published with LLaDA, LLaDA-MoE, Dream and
SDAR, and of Pangu Pro MoE's inference code (vllm-ascend). Keys of a config.json that are not read
are refused (`hf.keys`).
"""

from dataclasses import dataclass, field
from typing import Any

from dlm.core.errors import UserError
from dlm.core.named import nearest

# Names above the layers.
_TOP = {
    "embed_VD": ("model.embed_tokens.weight", "V D"),
    "unembed_VD": ("lm_head.weight", "V D"),
    "norm_D": ("model.norm.weight", "D"),
}
# Names in a layer: {e} is the number of an expert.
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
# LLaDA-MoE has its shared expert beside the others, not in the module `mlp`.
_SHARED = {
    "experts/shared/gate_DF": ("shared_expert.gate_proj.weight", "F D"),
    "experts/shared/up_DF": ("shared_expert.up_proj.weight", "F D"),
    "experts/shared/down_FD": ("shared_expert.down_proj.weight", "D F"),
}
# Mixtral names the projections w1 (gate), w2 (down) and w3 (up).
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
# Keys of a config.json, by the name that `reading` and `writing` use for them.
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
# Code that does not read head_dim computes a head's size as width / heads.
_HEADS = dict(head_size="head_dim")
_BIAS = dict(bias="attention_bias")
# A rope section may have a part for each type of layer.
_KINDS = dict(kinds="layer_types")
_MOE = dict(
    number="num_experts",
    active="num_experts_per_tok",
    expert="moe_intermediate_size",
)
_QWEN3_MOE_KEYS = dict(
    number="num_experts|num_local_experts",
    renormalised="norm_topk_prob",
    dense="mlp_only_layers",
    every="decoder_sparse_step",
)
_MIXTRAL_KEYS = dict(
    number="num_local_experts|num_experts",
    expert="intermediate_size",
)
_LLADA_MOE_KEYS = dict(
    expert="expert_intermediate_size",
    ffn="dense_intermediate_size",
    shared="shared_expert_intermediate_size",
    sparse="moe_layer_freq",
)
_PANGU_KEYS = dict(
    shared="shared_expert_intermediate_size",
    dense="mlp_only_layers",
)
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

# Keys that may only have certain values: `writing` writes the first, None is an absent key.
_PLAIN = dict(hidden_act=("silu", "swish", None), mlp_bias=(None, False))
_CAUSAL = _PLAIN | dict(is_causal=(None, True))
_BOTH_WAYS = _PLAIN | dict(is_causal=(None, False))
_NO_WINDOWS = dict(use_sliding_window=(None, False), sliding_window=(None,))
# Without use_sliding_window these layouts' code does not read the other keys of windows.
_WINDOWS = dict(use_sliding_window=(False, None))
_UNREAD = frozenset(("sliding_window", "max_window_layers"))
_LLADA_REQUIRED = dict(
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
_LLADA_MOE_REQUIRED = dict(
    qk_layernorm=(True,),
    clip_qkv=(None,),
    moe_router_score_function=("softmax", None),
    moe_router_enable_expert_bias=(False, None),
    # Its code sets this to False, whatever config.json says.
    norm_topk_prob=(False, None),
)
_LLADA_HARMLESS = """
    alibi_bias_max attention_layer_norm_with_affine flash_attention init_cutoff_factor init_device
    init_fn mlp_ratio precision train_max_sequence_length
"""
_SDAR_HARMLESS = frozenset(("ep_size", "fuse_cross_entropy"))  # settings of training

# Defaults of each layout's code, for absent keys.
_DEFAULTS: dict[str, Any] = dict(rms_norm_eps=1e-6, rope_theta=10_000.0)
_32_KV_HEADS = dict(num_key_value_heads=32)
_128_HEAD_SIZE = dict(head_dim=128)
_AR = dict(name="objectives.ar")
_MASKED = dict(name="objectives.masked")
_ADAPTED = dict(name="objectives.adapted")
_BLOCK = dict(name="objectives.block")


@dataclass(frozen=True)
class Tensors:
    """The names of a layout's tensors, and their axes."""

    within: dict[str, tuple[str, str]]  # ours within a layer → (theirs, their axes)
    top: dict[str, tuple[str, str]] = field(
        default_factory=lambda: _TOP
    )  # above the layers
    layer: str = "model.layers.{n}."  # what begins the name of a tensor of layer n

    def name(self, path: str) -> tuple[str, str] | None:
        """Finds the tensor of our parameter, by its path in a layer or above the layers.

        Returns (their name with {n} and {e}, their axes), or None where the layout has none.
        """
        if path in self.top:
            return self.top[path]
        if path not in self.within:
            return None
        name, axes = self.within[path]
        return self.layer + name, axes


@dataclass(frozen=True)
class Layout:
    """One published architecture."""

    architecture: str  # "architectures" in config.json
    kind: str  # its "model_type"
    objective: dict  # ours, as in a recipe
    tensors: Tensors
    keys: dict  # ours → the key that its code reads, or several names of it: "a|b"
    required: dict  # key → values that mean what the backbone does; None: absent
    defaults: dict  # key → the value that its code takes where the key is absent
    harmless: frozenset = (
        frozenset()
    )  # its own keys that change no prediction (see `hf.keys`)
    bias: str = (
        "none"  # which projections have biases, if keys["bias"] is true or absent
    )
    qk_norm: str = "none"
    router: dict | None = None  # our router, for layouts with experts
    mask: int | None = None  # id of the mask where config.json does not name it


_DENSE = _NORMS | _ATTENTION | _FFN
_SPARSE = _DENSE | _EXPERTS
_TOPK = dict(name="nn.routers.topk", scale="none")
_ALL = (
    Layout(
        "LlamaForCausalLM",
        "llama",
        objective=_AR,
        tensors=Tensors(_DENSE),
        keys=_KEYS | _HEADS | _BIAS,
        required=_CAUSAL | _NO_WINDOWS,
        defaults=_DEFAULTS,
        bias="all",
    ),
    Layout(
        "Qwen2ForCausalLM",
        "qwen2",
        objective=_AR,
        tensors=Tensors(_DENSE),
        keys=_KEYS | _HEADS | _KINDS,
        required=_CAUSAL | _WINDOWS,
        defaults=_DEFAULTS | _32_KV_HEADS,
        harmless=_UNREAD,
        bias="qkv",
    ),
    Layout(
        "Qwen3ForCausalLM",
        "qwen3",
        objective=_AR,
        tensors=Tensors(_DENSE),
        keys=_KEYS | _HEADS | _BIAS | _KINDS,
        required=_CAUSAL | _WINDOWS,
        defaults=_DEFAULTS | _32_KV_HEADS | _128_HEAD_SIZE,
        harmless=_UNREAD,
        bias="all",
        qk_norm="rms",
    ),
    Layout(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        objective=_AR,
        tensors=Tensors(_SPARSE),
        keys=_KEYS | _HEADS | _BIAS | _MOE | _QWEN3_MOE_KEYS,
        required=_CAUSAL | _WINDOWS,
        defaults=_DEFAULTS | dict(num_key_value_heads=4),
        harmless=_UNREAD,
        bias="all",
        qk_norm="rms",
        router=_TOPK,
    ),
    Layout(
        "MixtralForCausalLM",
        "mixtral",
        objective=_AR,
        tensors=Tensors(_NORMS | _ATTENTION | _MIXTRAL),
        keys=_KEYS | _HEADS | _MOE | _MIXTRAL_KEYS,
        required=_CAUSAL | _NO_WINDOWS | dict(norm_topk_prob=(None, True)),
        defaults=dict(rms_norm_eps=1e-5, rope_theta=1e6, num_key_value_heads=8),
        router=_TOPK | dict(weights="renormalised"),
    ),
    Layout(
        "LLaDAModelLM",
        "llada",
        objective=_MASKED,
        tensors=Tensors(_LLADA, _LLADA_TOP, "model.transformer.blocks.{n}."),
        keys=_LLADA_KEYS,
        required=_LLADA_REQUIRED,
        defaults=dict(rms_norm_eps=1e-5, rope_theta=10_000.0, weight_tying=True),
        harmless=frozenset(_LLADA_HARMLESS.split()),
        bias="qkv",
        mask=126336,
    ),
    Layout(
        "LLaDAMoEModelLM",
        "llada",
        objective=_MASKED,
        tensors=Tensors(_SPARSE | _SHARED),
        keys=_KEYS | _BIAS | _MOE | _LLADA_MOE_KEYS,
        required=_BOTH_WAYS | _LLADA_MOE_REQUIRED,
        defaults=dict(rms_norm_eps=1e-5),
        harmless=frozenset(("intermediate_size",)),
        bias="all",
        qk_norm="rms",
        router=_TOPK | dict(weights="plain"),
        mask=156895,
    ),
    Layout(
        "DreamModel",
        "Dream",
        objective=_ADAPTED,
        tensors=Tensors(_DENSE),
        keys=_KEYS,
        required=_BOTH_WAYS | _WINDOWS,
        defaults=_DEFAULTS | _32_KV_HEADS,
        harmless=_UNREAD,
        bias="qkv",
        mask=151666,
    ),
    Layout(
        "SDARForCausalLM",
        "sdar",
        objective=_BLOCK,
        tensors=Tensors(_DENSE),
        keys=_KEYS | _HEADS | _BIAS | dict(block="block_size"),
        required=_PLAIN | _WINDOWS,
        defaults=_DEFAULTS | _32_KV_HEADS | _128_HEAD_SIZE,
        harmless=_UNREAD | _SDAR_HARMLESS,
        bias="all",
        qk_norm="rms",
        mask=151669,
    ),
    Layout(
        "PanguProMoEForCausalLM",
        "PanguProMoE",
        objective=_AR,
        tensors=Tensors(_SPARSE),
        keys=_KEYS | _MOE | _PANGU_KEYS,
        required=_CAUSAL | _NO_WINDOWS,
        defaults=dict(rms_norm_eps=1e-5, num_key_value_heads=8),
        bias="all",
        router=dict(name="nn.routers.moge", scale="learned"),
    ),
)
LAYOUTS = {layout.architecture: layout for layout in _ALL}


def of(config: dict, where: Any) -> Layout:
    """Returns the layout that a config.json names; UserError where it names none, or two."""
    names, kind = config.get("architectures"), config.get("model_type")
    if names and not _is_list_of_names(names):
        text = repr(str(names)[:80])
        raise UserError(f"{where}: architectures must be a list of names, not {text}")
    # Old files have only a model_type.
    name = names[0] if names else kind
    matches = [layout for layout in _ALL if name in (layout.architecture, layout.kind)]
    if not matches:
        near = nearest(name, LAYOUTS) if isinstance(name, str) else ""
        known, text = ", ".join(LAYOUTS), repr(str(name)[:80])
        raise UserError(
            f"{where}: unknown architecture {text}{near}; known are {known}"
        )
    layout = matches[0]
    if kind != layout.kind and kind in [other.kind for other in _ALL]:
        raise UserError(
            f"{where}: architectures names {layout.architecture}, model_type another one, "
            f"{kind}: which of the two is it?"
        )
    return layout


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
