"""Published weights that transformers made: the same logits as its own networks, and the same bytes on the way back into its files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from dlm import convert
from dlm.run import assemble
from dlm.run.contracts import Canvas
from tests.hf import published

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
SLOW = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
EXPERTS = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=20, head_dim=16)
MADE = {
    "llama2": ("Llama", dict(rms_norm_eps=1e-5)),
    "llama3": ("Llama", dict(rope_theta=500_000.0, rope_scaling=SLOW, tie_word_embeddings=True)),
    "linear": ("Llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0), attention_bias=True)),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3moe": ("Qwen3Moe", dict(EXPERTS, norm_topk_prob=True, mlp_only_layers=[0])),
    "qwen3moe-plain": ("Qwen3Moe", dict(EXPERTS, norm_topk_prob=False, num_hidden_layers=4, decoder_sparse_step=2)),
    "mixtral": ("Mixtral", dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
}


def make(name):
    """A tiny network of random weights, large enough that every one of them is seen in its logits."""
    family, changes = MADE[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**BASE | changes)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, x in model.named_parameters():
            x.copy_(torch.randn_like(x) * 0.2 + (1 if "norm" in key else 0))
    return model


def tensors(folder):
    return {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}


@pytest.mark.parametrize("name", MADE)
def test_the_same_logits_and_the_same_bytes_back(name, tmp_path):
    model, there = make(name), tmp_path / "there"
    model.save_pretrained(there, max_shard_size="60KB")
    published.tokenizer(there)
    convert.from_hf(there, tmp_path / "run")
    experiment, state = assemble.reopen(tmp_path / "run")
    ids_BL = np.random.default_rng(0).integers(0, 256, (2, 24))
    read_BL = np.concatenate([np.full((2, 1), experiment.run.nn.vocab.bos), ids_BL[:, :-1]], 1)
    with torch.no_grad():
        want_BLV = model(torch.tensor(read_BL)).logits.numpy()
    canvas = Canvas(jnp.asarray(ids_BL, jnp.int32), jnp.zeros(ids_BL.shape), jnp.zeros(ids_BL.shape, bool))
    got_BLV = np.asarray(experiment.denoise(state.params, canvas, mask=experiment.objective.mask).prediction.logits_BLV)
    said = np.isfinite(got_BLV[0, 0])
    assert (~said).sum() == 1 and not said[experiment.run.nn.vocab.mask], "all but the mask, which had a spare row"
    np.testing.assert_allclose(got_BLV[..., said], want_BLV[..., said], atol=1e-4)
    convert.to_hf(tmp_path / "back", tmp_path / "run", None, None, None, 60_000)
    old, new = tensors(there), tensors(tmp_path / "back")
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old)
    assert json.loads((there / "config.json").read_text()) == json.loads((tmp_path / "back" / "config.json").read_text())


def test_what_goes_back_is_read_by_transformers(tmp_path):
    """In bfloat16; the tokenizer too, as it was."""
    model = make("qwen3").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "there")
    published.tokenizer(tmp_path / "there")
    convert.from_hf(tmp_path / "there", tmp_path / "run")
    convert.to_hf(tmp_path / "back", tmp_path / "run", None, None, None, 10**9)
    assert {x.dtype for x in tensors(tmp_path / "back").values()} == {torch.bfloat16}
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "back").decode(list(range(20)))
    assert json.loads((tmp_path / "back" / "tokenizer.json").read_text()) == json.loads((tmp_path / "there" / "tokenizer.json").read_text())
