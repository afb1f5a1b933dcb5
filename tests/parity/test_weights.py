"""Published weights that transformers made.

The logits are those of its own networks, and the way back gives the same bytes.
"""

import functools
import json
import zlib
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from safetensors.torch import load_file

from dlm.app import hf_export, hf_import
from dlm.app.context import RunContext
from dlm.app.open_run import reopen
from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.evals import samples
from dlm.evals.lm_eval.adapter import HarnessLM
from dlm.evals.lm_eval.scoring import Model
from dlm.hf import layouts, reading, rope
from dlm.samplers.requests import Request
from tests.hf import published
from tests.hf.realistic import READ_ELSEWHERE

BOS = 256  # where there is one
BASE = dict(
    vocab_size=published.V,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=None,
    eos_token_id=published.EOS,
    pad_token_id=None,
)
SLOW = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
EXPERTS = dict(
    num_experts=8, num_experts_per_tok=2, moe_intermediate_size=20, head_dim=16
)
MADE = {
    "llama2": ("Llama", dict(rms_norm_eps=1e-5)),
    "llama3": (
        "Llama",
        dict(rope_theta=500_000.0, rope_scaling=SLOW, tie_word_embeddings=True),
    ),
    "own head": (
        "Llama",
        dict(rope_theta=500_000.0, rope_scaling=SLOW, tie_word_embeddings=True),
    ),  # which says what its tensors do not
    "linear": (
        "Llama",
        dict(rope_scaling=dict(rope_type="linear", factor=4.0), attention_bias=True),
    ),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3moe": ("Qwen3Moe", dict(EXPERTS, norm_topk_prob=True, mlp_only_layers=[0])),
    "qwen3moe-plain": (
        "Qwen3Moe",
        dict(EXPERTS, norm_topk_prob=False, num_hidden_layers=4, decoder_sparse_step=2),
    ),
    "mixtral": (
        "Mixtral",
        dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    ),
}


def make(name):
    """A tiny network of random weights, so large that each has an effect on the logits."""
    family, changes = MADE[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**BASE | changes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, x in model.named_parameters():
            x.copy_(torch.randn_like(x) * 0.2 + (1 if "norm" in key else 0))
    if name == "own head":
        model.lm_head.weight = torch.nn.Parameter(
            torch.randn_like(model.lm_head.weight) * 0.2
        )
    return model


def tensors(folder):
    return {
        name: x
        for file in sorted(folder.glob("*.safetensors"))
        for name, x in load_file(file).items()
    }


@pytest.mark.parametrize("name", MADE)
def test_the_same_logits_and_the_same_bytes_back(name, tmp_path):
    model, there = make(name), tmp_path / "there"
    model.save_pretrained(there, max_shard_size="60KB")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        there, dtype=torch.float32
    ).eval()
    published.tokenizer(there)
    hf_import.from_hf(there, tmp_path / "run")
    experiment, state = reopen(tmp_path / "run")
    ids_BL = np.random.default_rng(0).integers(0, 256, (2, 24))
    read_BL = np.concatenate(
        [np.full((2, 1), experiment.run.nn.vocab.bos), ids_BL[:, :-1]], 1
    )
    with torch.no_grad():
        want_BLV = model(torch.tensor(read_BL)).logits.numpy()
    canvas = Canvas(
        jnp.asarray(ids_BL, jnp.int32),
        jnp.zeros(ids_BL.shape),
        jnp.zeros(ids_BL.shape, bool),
        experiment.objective.visibility,
    )
    got_BLV = np.asarray(experiment.net(state.params)(canvas).prediction.logits_BLV)
    said = np.isfinite(got_BLV[0, 0])
    assert (~said).sum() == 1 and not said[experiment.run.nn.vocab.mask], (
        "all but the mask, which had a spare row"
    )
    np.testing.assert_allclose(got_BLV[..., said], want_BLV[..., said], atol=1e-4)
    hf_export.to_hf(tmp_path / "back", tmp_path / "run", None, None, None, 60_000)
    old, new = tensors(there), tensors(tmp_path / "back")
    assert old.keys() == new.keys() and all(
        torch.equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old
    )
    assert json.loads((there / "config.json").read_text()) == json.loads(
        (tmp_path / "back" / "config.json").read_text()
    )


def test_what_goes_back_is_read_by_transformers(tmp_path):
    """In bfloat16; the tokenizer too, as it was."""
    model = make("qwen3").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "there")
    published.tokenizer(tmp_path / "there")
    hf_import.from_hf(tmp_path / "there", tmp_path / "run")
    hf_export.to_hf(tmp_path / "back", tmp_path / "run", None, None, None, 10**9)
    assert {x.dtype for x in tensors(tmp_path / "back").values()} == {torch.bfloat16}
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", dtype=torch.bfloat16
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), again.state_dict().values(), strict=True
        )
    )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "back").decode(
        list(range(20))
    )
    assert json.loads((tmp_path / "back" / "tokenizer.json").read_text()) == json.loads(
        (tmp_path / "there" / "tokenizer.json").read_text()
    )


# -------------------------------------------------- key by key: refused by name, or the same logits

FULL = ["full_attention"] * 3
HARMLESS = dict(
    attention_dropout=0.5,
    use_cache=False,
    pretraining_tp=2,
    initializer_range=0.5,
    router_aux_loss_coef=0.5,
    router_jitter_noise=0.5,
    output_router_logits=True,
    temperature=0.1,
    top_k=3,
    repetition_penalty=2.0,
    torch_dtype="bfloat16",
    dtype="float16",
    max_window_layers=1,
    pad_token_id=3,
    bos_token_id=5,
    eos_token_id=[7, 8],
    auto_map={"AutoConfig": "x.Y"},
    id2label={"0": "a"},
    output_hidden_states=True,
    gradient_checkpointing=True,
    transformers_version="4.0.0",
    attn_implementation="eager",
    max_position_embeddings=256,
    hidden_act="swish",
    layer_types=FULL,
    head_dim=None,
    num_key_value_heads=None,
)
READ = [  # of one key more than one value, or several keys at a time
    dict(rms_norm_eps=0.3),
    dict(rope_theta=50.0),
    dict(attention_bias=True),
    dict(tie_word_embeddings=True),
    dict(head_dim=16),
    dict(num_key_value_heads=4),
    dict(rope_scaling=dict(type="linear", factor=4.0)),
    dict(rope_scaling=dict(rope_type="linear", factor=4)),
    dict(rope_scaling=dict(SLOW)),
    dict(rope_scaling={k: v for k, v in SLOW.items() if "original" not in k}),
    dict(rope_theta=50.0, rope_parameters=dict(rope_type="default", rope_theta=900.0)),
    dict(rope_theta=50.0, rope_parameters=dict(rope_type="linear", factor=2.0)),
    dict(rope_theta=50.0, rope_scaling=dict(rope_type="default", rope_theta=900.0)),
    dict(
        rope_parameters=dict(
            rope_type="default", rope_theta=900.0, partial_rotary_factor=0.5
        )
    ),
    dict(rope_parameters=dict(rope_theta=900.0)),
    dict(
        rope_parameters=dict(full_attention=dict(rope_type="default", rope_theta=900.0))
    ),
    dict(
        rope_parameters=dict(
            full_attention=dict(rope_type="default", rope_theta=900.0)
        ),
        layer_types=FULL,
    ),
    dict(rope_scaling={}, rope_parameters=None),
    dict(rope_scaling=dict(type="yarn", factor=2.0)),
    dict(rope_scaling=dict(type="default", factor=2.0)),
    dict(partial_rotary_factor=1.0),
    dict(partial_rotary_factor=1),
    dict(original_max_position_embeddings=16, rope_scaling=dict(SLOW)),
    dict(use_sliding_window=True, sliding_window=2, max_window_layers=0),
    dict(use_sliding_window=False, sliding_window=2),
    dict(sliding_window=2),
    dict(layer_types=["sliding_attention"] * 3, sliding_window=2),
    dict(is_causal=False),
    dict(is_causal=True),
    dict(norm_topk_prob=True),
    dict(norm_topk_prob=False),
    dict(mlp_only_layers=[0]),
    dict(mlp_only_layers=[1]),
    dict(decoder_sparse_step=3),
    dict(num_local_experts=8),
    dict(num_local_experts=4),
    dict(num_experts=8),
    dict(num_experts=0),
    dict(num_experts_per_tok=1),
]
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": dict(head_dim=16),
    "Qwen3Moe": EXPERTS,
    "Mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
}
FIXED = (
    "max_position_embeddings",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "moe_intermediate_size",
)


@functools.cache
def drawn(name, shape):
    """The same numbers for the same name."""
    return torch.tensor(
        np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape) * 0.3
        + ("norm" in name)
    )


def said(family, config):
    """The reference's logits of 9 tokens; None where it cannot be made so."""
    try:
        model = getattr(transformers, f"{family}ForCausalLM")(
            getattr(transformers, f"{family}Config").from_dict(json.loads(config))
        ).eval()
        with torch.no_grad():
            for name, x in model.named_parameters():
                x.copy_(drawn(name, x.shape))
            return model.float()(
                torch.arange(40, 49)[None], use_cache=False
            ).logits.numpy()
    except Exception:  # its own checks, of many kinds
        return None


def canonical(family, nn, config):
    """The config.json of what was read, and of nothing else."""
    a = nn["attention"]
    slow = {
        theirs: a["rope"][ours]
        for ours, theirs in rope._OURS.get(a["rope"].get("kind"), {}).items()
    }
    fields = {key: config[key] for key in FIXED if key in config}
    fields |= dict(
        num_attention_heads=a["heads"],
        num_key_value_heads=a["kv_heads"],
        head_dim=a["head_size"],
        rms_norm_eps=nn["norm"]["epsilon"],
    )
    fields |= dict(
        rope_parameters=slow
        | dict(rope_theta=a["rope"]["base"], rope_type=a["rope"].get("kind", "default"))
    )
    fields |= dict(tie_word_embeddings=nn["embeddings"] == "tied", use_cache=False)
    if family not in ("Qwen2", "Mixtral"):
        fields |= dict(attention_bias=a["bias"] == "all")
    if e := nn.get("experts"):
        number = (
            dict(num_local_experts=e["count"])
            if family == "Mixtral"
            else dict(num_experts=e["count"])
        )
        fields |= number | dict(
            num_experts_per_tok=e["per_token"],
            norm_topk_prob=e["router"]["weights"] == "renormalised",
            mlp_only_layers=list(range(e["first_dense"])),
            decoder_sparse_step=e["period"],
        )
    elif family == "Qwen3Moe":
        fields |= dict(num_experts=0)
    return fields


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_key_is_refused_by_its_name_or_has_the_references_logits(family):
    torch.set_num_threads(1)  # matrices as small as these are slower with more
    logits = functools.cache(functools.partial(said, family))
    base = (
        BASE
        | FAMILIES[family]
        | dict(architectures=[f"{family}ForCausalLM"], rope_theta=1000.0)
    )
    changes = [
        dict([item]) for table in (READ_ELSEWHERE, HARMLESS) for item in table.items()
    ] + READ
    cases = [base | change for change in changes] + [
        {k: v for k, v in base.items() if k != less} for less in base
    ]
    layout, read, failed, same = layouts.of(base, "it"), 0, 0, logits(json.dumps(base))
    for config, change in zip(cases, [*changes, *base], strict=True):
        try:
            nn = reading.network(layout, config, "it")
        except UserError as error:
            assert any(key in str(error) for key in change) or change in str(error), (
                change,
                str(error),
            )
            continue
        want = logits(json.dumps(config))
        if want is None:
            failed += 1
            continue
        got = logits(json.dumps(canonical(family, nn, config)))
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=str(change))
        read += not np.array_equal(want, same)
    assert read >= 15 and len(cases) > 120 and failed <= 3, (
        "the reference is asked, and knows almost all of these files"
    )


def with_bos(folder):
    """The tokenizer of the folder with a bos, which it puts in front of a text."""
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["added_tokens"].insert(
        0, tree["added_tokens"][0] | dict(id=BOS, content="zz256")
    )
    bos = dict(id="zz256", ids=[BOS], tokens=["zz256"])
    single = [
        dict(SpecialToken=dict(id="zz256", type_id=0)),
        dict(Sequence=dict(id="A", type_id=0)),
    ]
    tree["post_processor"] = dict(
        type="TemplateProcessing",
        single=single,
        pair=single,
        special_tokens=dict(zz256=bos),
    )
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(dict(bos_token="zz256", tokenizer_class="PreTrainedTokenizerFast"))
    )


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
@pytest.mark.parametrize("name", ["llama3", "qwen3"])
def test_what_is_written_after_a_prompt_is_what_transformers_writes(
    name, bos, tmp_path
):
    """For prompts of no, one and many tokens, where several ids end a text."""
    model, there = make(name), tmp_path / "there"
    model.config.eos_token_id = model.generation_config.eos_token_id = [
        published.EOS,
        257,
    ]
    model.config.bos_token_id = model.generation_config.bos_token_id = (
        BOS if bos else published.EOS
    )
    model.save_pretrained(there)
    published.tokenizer(there)
    if bos:
        with_bos(there)
    hf_import.from_hf(there, tmp_path / "run", [("config.mesh.data", "1")])
    experiment, state = reopen(tmp_path / "run")
    subject = RunContext(experiment, state.params, None)
    lm = HarnessLM(Model(subject, rows=3))
    library = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(there / "tokenizer.json")
    )
    prompts, spelled = ("", "h", "hello there"), {}
    for prompt in prompts:
        prompt_ids = library(prompt)["input_ids"] or [BOS if bos else published.EOS]
        assert (prompt_ids[0] == BOS) == bos
        options = dict(
            max_new_tokens=7,
            do_sample=False,
            pad_token_id=0,
            suppress_tokens=[experiment.tokenizer.mask],
        )
        with torch.no_grad():
            continuation = model.generate(torch.tensor([prompt_ids]), **options)[
                0, len(prompt_ids) :
            ].tolist()
        spelled[prompt] = (
            continuation[: continuation.index(e)]
            if (e := next((i for i in continuation if i in (published.EOS, 257)), None))
            else continuation
        )
    replies = experiment.generator(
        state.params, replace(experiment.run.sampler, temperature=0.0)
    )([Request.prompt(p, 7) for p in prompts])
    ids = {p: r.ids[len(p) :] for p, r in zip(prompts, replies, strict=True)}
    ended = {
        p: samples.before(experiment.tokenizer.vocab, x).tolist()
        for p, x in ids.items()
    }
    assert ended == spelled
    instances = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(p, dict(max_gen_toks=7)),
            idx=0,
            metadata=("t", 0, 1),
        )
        for p in prompts
    ]
    assert lm.generate_until(instances) == [
        experiment.tokenizer.decode(spelled[p]) for p in prompts
    ]
