"""Published layouts, each as two tables that are read in both directions: the keys of its config.json, the names of its tensors.

    ours              theirs, in every layer {n}              their axes
    attention/q_DHK   model.layers.{n}.self_attn.q_proj.weight   HK D      torch keeps (outputs, inputs), with the heads side by side
    attention/o_HKD   model.layers.{n}.self_attn.o_proj.weight   D HK      a space stands between two axes of their array
    experts/up_EDF    model.layers.{n}.mlp.experts.{e}.up_proj.weight   F D

Names and keys are those of transformers (Llama, Qwen2, Qwen3, Qwen3-MoE, Mixtral), of the code published with LLaDA, LLaDA-MoE, Dream and
SDAR, and of Pangu Pro MoE's inference code (vllm-ascend). What a config.json says that this backbone cannot do is refused by its key.
"""

from dataclasses import dataclass, field
from typing import Any

from dlm.run import spec
from dlm.run.spec import UserError, nearest

_TOP = {
    "embed_VD": ("model.embed_tokens.weight", "V D"),
    "unembed_VD": ("lm_head.weight", "V D"),
    "norm_D": ("model.norm.weight", "D"),
}
_NORMS = {"attend_norm_D": ("input_layernorm.weight", "D"), "ffn_norm_D": ("post_attention_layernorm.weight", "D")}
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
    head_size="head_dim",
    ffn="intermediate_size",
    vocab="vocab_size",
    tied="tie_word_embeddings",
    epsilon="rms_norm_eps",
    length="max_position_embeddings",
)
_MOE = dict(number="num_experts|num_local_experts", active="num_experts_per_tok", expert="moe_intermediate_size")
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
)
_PLAIN = dict(hidden_act=("silu", None), mlp_bias=(False, None), use_sliding_window=(False, None))  # no key: as it should be
_AR = dict(name="objectives.ar")
_MASKED = dict(name="objectives.masked")


@dataclass(frozen=True)
class Layout:
    architecture: str  # config.json's "architectures"
    kind: str  # its "model_type"
    objective: dict
    names: dict  # ours within a layer → (theirs, their axes)
    top: dict = field(default_factory=lambda: _TOP)
    layer: str = "model.layers.{n}."
    keys: dict = field(default_factory=lambda: _KEYS)
    demands: dict = field(default_factory=lambda: _PLAIN)  # key → values that mean what the backbone does; None: not there
    bias: str = ""  # the key that says whether there are biases, and of what: "attention_bias:all"; "+qkv" where there always are
    qk_norm: str = "none"
    router: dict | None = None  # our router, where there are experts
    mask: int | None = None  # the mask's id where config.json does not name it

    def name(self, path: str) -> tuple[str, str] | None:
        """(their name with {n} and {e}, their axes) of our parameter within a layer or above the layers."""
        if path in self.top:
            return self.top[path]
        return (self.layer + self.names[path][0], self.names[path][1]) if path in self.names else None


_DENSE = _NORMS | _ATTENTION | _FFN
_SPARSE = _DENSE | _EXPERTS
_TOPK = dict(name="nn.routers.topk", scale="none")
LAYOUTS = {
    layout.architecture: layout
    for layout in (
        Layout("LlamaForCausalLM", "llama", _AR, _DENSE, bias="attention_bias:all"),
        Layout("Qwen2ForCausalLM", "qwen2", _AR, _DENSE, bias="+qkv"),
        Layout("Qwen3ForCausalLM", "qwen3", _AR, _DENSE, bias="attention_bias:all", qk_norm="rms"),
        Layout("Qwen3MoeForCausalLM", "qwen3_moe", _AR, _SPARSE, keys=_KEYS | _MOE, bias="attention_bias:all", qk_norm="rms", router=_TOPK),
        Layout(
            "MixtralForCausalLM",
            "mixtral",
            _AR,
            _NORMS | _ATTENTION | _MIXTRAL,
            keys=_KEYS | _MOE | dict(number="num_local_experts", expert="intermediate_size"),
            demands=_PLAIN | dict(sliding_window=(None,)),
            router=_TOPK | dict(weights="renormalised"),
        ),
        Layout(
            "LLaDAModelLM",
            "llada",
            _MASKED,
            _LLADA,
            _LLADA_TOP,
            "model.transformer.blocks.{n}.",
            _LLADA_KEYS,
            demands=dict(
                block_type=("llama",),
                activation_type=("silu",),
                layer_norm_type=("rms",),
                rope=(True, None),
                alibi=(False, None),
                include_bias=(False, None),
                attention_layer_norm=(False, None),
                input_emb_norm=(False, None),
                scale_logits=(False, None),
            ),
            bias="include_qkv_bias:qkv",
            mask=126336,
        ),
        Layout(
            "LLaDAMoEModelLM",
            "llada",
            _MASKED,
            _SPARSE,
            keys=_KEYS
            | _MOE
            | dict(expert="expert_intermediate_size", ffn="dense_intermediate_size", shared="shared_expert_intermediate_size"),
            demands=_PLAIN
            | dict(
                qk_layernorm=(True,),
                clip_qkv=(None,),
                moe_router_score_function=("softmax", None),
                moe_router_enable_expert_bias=(False, None),
            ),
            bias="attention_bias:all",
            qk_norm="rms",
            router=_TOPK,
            mask=156895,
        ),
        Layout("DreamModel", "Dream", dict(name="objectives.adapted"), _DENSE, bias="+qkv", mask=151666),
        Layout("SDARForCausalLM", "sdar", dict(name="objectives.block"), _DENSE, bias="attention_bias:all", qk_norm="rms", mask=151669),
        Layout(
            "PanguProMoEForCausalLM",
            "PanguProMoE",
            _AR,
            _SPARSE,
            keys=_KEYS | _MOE | dict(shared="shared_expert_intermediate_size"),
            bias="+all",
            router=dict(name="nn.routers.moge", scale="learned"),
        ),
    )
}


def of(config: dict, where: Any) -> Layout:
    """The layout that a config.json names."""
    named = config.get("architectures")
    named = named[0] if isinstance(named, list) and named else config.get("model_type")
    for layout in LAYOUTS.values():
        if named in (layout.architecture, layout.kind):
            return layout
    raise UserError(f"{where}: unknown architecture {named!r}{nearest(named, LAYOUTS)}; known are {', '.join(LAYOUTS)}")


# --------------------------------------------------------------------------------------------------- config.json to a recipe


def network(layout: Layout, config: dict, where: Any) -> dict:
    """The `nn` section that a config.json describes."""
    for key, allowed in layout.demands.items():
        if config.get(key) not in allowed:
            raise UserError(f"{where}: {key}={config.get(key)!r} is not supported: it must be {allowed[0]!r}")
    k = layout.keys
    get = _Asked(config, where)
    width, heads = get(k["width"]), get(k["heads"])
    sparse = layout.router is not None and bool(get(k["number"], 1))
    nn = dict(
        layers=get(k["layers"]),
        width=width,
        attention=dict(
            heads=heads,
            kv_heads=get(k["kv_heads"], heads),
            head_size=get(k.get("head_size", "head_dim"), width // heads),
            qk_norm=layout.qk_norm,
            bias=_bias(layout, config),
            rope=_rope(config, where),
        ),
        ffn=dict(kind="swiglu", width=get(k["ffn"], get(k["expert"], 1) if sparse else None)),
        norm=dict(epsilon=get(k["epsilon"], 1e-6)),
        embeddings="tied" if get(k["tied"], False) else "untied",
    )
    return nn | (dict(experts=_experts(layout, config, get, nn["layers"], where)) if sparse else {})


class _Asked:
    """Values of a config.json by their keys."""

    def __init__(self, config: dict, where: Any):
        self.config, self.where = config, where

    def __call__(self, keys: str, default: Any = None) -> Any:
        """What stands under a key, or under the first of several ('a|b') that is there."""
        key = next((k for k in keys.split("|") if self.config.get(k) is not None), keys.split("|")[0])
        value = default if self.config.get(key) is None else self.config[key]
        if value is None:
            raise UserError(f"{self.where} lacks {key}")
        if isinstance(value, (bool, int, float)):
            return value
        raise UserError(f"{self.where}: {key} must be a number, not {value!r}")


def _bias(layout: Layout, config: dict) -> str:
    key, _, kind = layout.bias.partition(":")
    if key.startswith("+"):
        return key[1:]
    return kind if key and config.get(key) else "none"


def _rope(config: dict, where: Any) -> dict:
    told = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or told
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base = dict(base=float(config.get("rope_theta") or told.get("rope_theta") or 10_000.0))
    if kind == "default":
        return base
    names = dict(linear=dict(factor="factor"), llama3=dict(factor="factor", low="low_freq_factor", high="high_freq_factor"))
    if kind not in names:
        raise UserError(f"{where}: rope_scaling of type {kind!r} is not supported: default, linear and llama3 are")
    get = _Asked(scaling, f"{where}: rope_scaling")
    found = base | dict(kind=kind) | {ours: get(theirs) for ours, theirs in names[kind].items()}
    return found | (dict(original=get("original_max_position_embeddings")) if kind == "llama3" else {})


def _experts(layout: Layout, config: dict, get: _Asked, layers: int, where: Any) -> dict:
    k, width = layout.keys, get(layout.keys["expert"])
    active, shared = get(k["active"]), get(k["shared"], 0) if "shared" in k else 0
    if shared % width:
        raise UserError(f"{where}: {k['shared']}={shared} must be a multiple of {k['expert']}={width}")
    router = dict(layout.router)
    if router["name"].endswith("moge"):
        router["groups"] = active  # one expert of each group, as in the released code
    elif "weights" not in router:
        router["weights"] = "renormalised" if config.get("norm_topk_prob") else "plain"
    sparse = [bool(x) for x in config.get("moe_layer_freq") or [1] * layers]
    sparse = [on and n not in (config.get("mlp_only_layers") or []) for n, on in enumerate(sparse)]
    every = int(config.get("decoder_sparse_step") or 1)
    sparse = [on and (n + 1) % every == 0 for n, on in enumerate(sparse)]
    dense = next((n for n, on in enumerate(sparse) if on), 0) + 1 - every
    if len(sparse) != layers or dense < 0 or sparse != [n >= dense and (n - dense + 1) % every == 0 for n in range(layers)]:
        raise UserError(f"{where}: layers with experts must follow the first dense ones, every {every}-th of them")
    return dict(number=get(k["number"]), active=active, width=width, shared=shared // width, dense=dense, every=every, router=router)


# --------------------------------------------------------------------------------------------------- a network to config.json


def described(layout: Layout, run: spec.Run, kept: dict) -> dict:
    """The config.json of a run's network in this layout; what was `kept` of the one that it came from stays."""
    k, nn, a, e = layout.keys, run.nn, run.nn.attention, run.nn.experts
    config = dict(kept) or dict(architectures=[layout.architecture], model_type=layout.kind, hidden_act="silu")
    told = dict(layers=nn.layers, width=nn.width, heads=a.heads, kv_heads=a.kv_heads, head_size=a.head_size, epsilon=nn.norm.epsilon)
    told |= dict(ffn=nn.ffn.width, vocab=_rows(run), tied=nn.embeddings == "tied", length=run.data.length)
    if e.number and layout.router:
        told |= dict(number=e.number, active=e.active, expert=e.width, shared=e.shared * e.width)
        told |= dict(ffn=e.width) if k["ffn"] == k["expert"] else {}
    if kept:
        config[k["vocab"]] = told["vocab"]
        return config
    config |= {key: allowed[0] for key, allowed in layout.demands.items() if allowed[0] is not None}
    config |= {k[name].split("|")[0]: value for name, value in told.items() if name in k}
    config |= {f"{kind}_token_id": getattr(nn.vocab, kind) for kind in ("bos", "eos", "pad", "mask")}
    config |= dict(eos_token_id=list(nn.vocab.ends)) if nn.vocab.stops else {}
    return config | _more(layout, run)


def _rows(run: spec.Run) -> int:
    """Rows of the embedding that are written: not those that were appended for a mask that an autoregressive model never sees."""
    rows = run.text.published.rows if getattr(run.text, "path", None) else 0
    return rows if rows and run.objective.mask.kind == "causal" else run.nn.vocab.size


def _more(layout: Layout, run: spec.Run) -> dict:
    """What is said under keys of its own."""
    nn, a, e, found = run.nn, run.nn.attention, run.nn.experts, {}
    key, _, kind = layout.bias.partition(":")
    if key and not key.startswith("+"):
        found[key] = a.bias == kind
    found["rope_theta"] = a.rope.base
    if a.rope.kind != "plain":
        found["rope_scaling"] = dict(rope_type=a.rope.kind, factor=a.rope.factor)
    if a.rope.kind == "llama3":
        more = dict(low_freq_factor=a.rope.low, high_freq_factor=a.rope.high, original_max_position_embeddings=a.rope.original)
        found["rope_scaling"] |= more
    if e.number and layout.router and layout.router["name"].endswith("topk"):
        found["norm_topk_prob"] = getattr(e.router, "weights", "") == "renormalised"
    if e.number and layout.keys["ffn"] == "dense_intermediate_size":
        found["moe_layer_freq"] = [int(n >= e.dense and (n - e.dense + 1) % e.every == 0) for n in range(nn.layers)]
    elif e.number:
        found |= dict(decoder_sparse_step=e.every, mlp_only_layers=list(range(e.dense)))
    if run.objective.mask.kind == "block":
        found["block_size"] = run.objective.mask.size
    return found | (dict(vocab_size=nn.vocab.size) if layout.keys["vocab"] != "vocab_size" else {})


def misfit(layout: Layout, run: spec.Run, config: dict, any_objective: bool) -> str:
    """What this config.json says of the network that is not so; '' where it says all of it."""
    try:
        nn = network(layout, config, "it")
        again = spec.run(dict(steps=1, text=spec.plain(run.text), nn=nn, objective=spec.plain(run.objective)))
    except UserError as error:
        return f"cannot say it: {error}"
    silent = ("compute.", "ffn.width" if not any(not s for stack in run.nn.stacks for s in stack.kinds) else "compute.")
    silent += ("experts.backend", "experts.block", "experts.router.balance", "experts.router.z") if run.nn.experts.number else ("experts.",)
    wrong = [d for d in spec.differences(spec.plain(again.nn), spec.plain(run.nn)) if not d.startswith(silent)]
    if wrong:
        return f"would make of it nn.{wrong[0].replace(' → ', ', not ')}"
    name = spec.plain(run.objective)["name"]
    if not any_objective and name != layout.objective["name"]:
        return f"is for {layout.objective['name']}, not {name}"
    return ""
