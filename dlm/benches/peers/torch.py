"""The backbone and its update as a plain eager PyTorch program: same dimensions, same weights, same batch, AdamW, float32, all cores.

It is written the way one writes PyTorch (fused attention, fused AdamW), so that it is a fair peer and not a straw man. The masked
loss uses the linear schedule; no average of the parameters is kept.
"""

import numpy as np

from dlm.core.errors import UserError
from dlm.nn.visibility import is_autoregressive
from dlm.runs import directory

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    raise UserError("--peer=torch needs PyTorch: pip install -r requirements-parity.txt") from error

CLOSE = 1e-3  # largest difference of logits that still means the same model
_ACTIVATIONS = dict(
    gelu=lambda h: F.gelu(h, approximate="tanh"), relu2=lambda h: F.relu(h).square()
)


class Twin:
    """Our model's twin, ready to update on our batch."""

    name = f"PyTorch {torch.__version__}"

    def __init__(self, experiment, params, batch):
        import jax

        run = experiment.run
        if (
            jax.default_backend() != "cpu"
            or run.nn.compute.dtype != "float32"
            or run.nn.time != "none"
            or run.optim.kind != "adamw"
        ):
            raise UserError(
                "--peer=torch is a float32 twin on CPU, with AdamW and without time conditioning: choose such a config"
            )
        c = run.nn
        if c.experts.count or c.attention.latent.kv_rank or c.mtp_layers or c.norm.kind != "pre":
            raise UserError(
                "--peer=torch knows dense pre-norm layers with grouped-query attention alone: choose such a config"
            )
        if c.attention.bias != "none" or c.attention.rope.kind != "plain":
            raise UserError(
                "--peer=torch knows neither attention.bias nor attention.rope.kind: leave them as they are"
            )
        if experiment.objective.visibility.shift == "output":
            raise UserError("--peer=torch does not know objectives.adapted: choose ar or masked")
        torch.set_num_threads(directory.environment()["cores"])
        self.optim, self.vocab = run.optim, run.nn.vocab
        self.visibility = experiment.objective.visibility
        self.shifts = self.visibility.shift == "input"
        self.model = Model(
            run.nn, is_autoregressive(self.visibility), jax.tree.map(np.asarray, params)
        )
        self.parameters = sum(p.numel() for p in self.model.parameters())
        ours = sum(x.size for x in jax.tree.leaves(params))
        self.x_BL = torch.tensor(np.asarray(batch.tokens_BL)).long()
        self.weights_BL, self.noisable_BL = (
            torch.tensor(np.asarray(a)) for a in (batch.weights_BL, batch.noisable_BL)
        )
        self.segments_BL, self.positions_BL = (
            torch.tensor(np.asarray(x))
            for x in (batch.layout.segments_BL, batch.layout.positions_BL)
        )
        self.difference = self._difference(experiment, params, batch)
        if self.parameters != ours or self.difference > CLOSE:
            raise RuntimeError(
                f"the twin differs: {self.parameters} parameters for {ours}, logits by {self.difference:.2g}"
            )
        groups = [[p for p in self.model.parameters() if p.decayed == d] for d in (True, False)]
        self.optimizer = torch.optim.AdamW(
            [
                dict(params=groups[0], weight_decay=self.optim.weight_decay),
                dict(params=groups[1], weight_decay=0.0),
            ],
            lr=self.optim.lr
            * 1e-2,  # no schedule: small, so that many updates on one batch stay ordinary numbers
            betas=(self.optim.b1, self.optim.b2),
            fused=True,
        )

    def update(self) -> None:
        """One update on the batch, with fresh noise."""
        read_BL, counted_BL, weight_BL = self._shifted() if self.shifts else self._corrupted()
        logits_BLV = self.model(read_BL, self.segments_BL, self.positions_BL)
        targets_BL = self.x_BL.masked_fill(~counted_BL, -100)
        nats_BL = F.cross_entropy(
            logits_BLV.flatten(0, 1), targets_BL.flatten(), reduction="none"
        ).view_as(weight_BL)
        loss = (nats_BL * weight_BL).sum() / self.weights_BL.sum()
        self.optimizer.zero_grad()
        loss.backward()
        if self.optim.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip)
        self.optimizer.step()
        loss.item()

    def _corrupted(self):
        B, L = self.x_BL.shape
        t_B1 = (torch.randperm(B)[:, None] + torch.rand(B, 1)).clamp_min(1e-6) / B
        hit_BL = (torch.rand(B, L) < t_B1) & self.noisable_BL
        return (
            self.x_BL.masked_fill(hit_BL, self.vocab.mask),
            hit_BL & (self.weights_BL > 0),
            self.weights_BL / t_B1,
        )

    def _shifted(self):
        """Every position reads the token before it, or bos where its segment starts."""
        read_BL = F.pad(self.x_BL[:, :-1], (1, 0), value=self.vocab.bos)
        starts_BL = F.pad(self.segments_BL[:, 1:] != self.segments_BL[:, :-1], (1, 0))
        return read_BL.masked_fill(starts_BL, self.vocab.bos), self.weights_BL > 0, self.weights_BL

    @torch.no_grad()
    def _difference(self, experiment, params, batch) -> float:
        """Largest difference of our logits and the twin's on the clean batch."""
        import jax

        from dlm.core.contracts import Canvas

        canvas = Canvas.of(batch, batch.tokens_BL, 0.0 * batch.weights_BL, self.visibility)
        ours = jax.jit(lambda p, c: experiment.net(p)(c).prediction.logits_BLV)(params, canvas)
        read_BL = self._shifted()[0] if self.shifts else self.x_BL
        theirs_BLV = self.model(read_BL, self.segments_BL, self.positions_BL).numpy()
        valid = np.isfinite(theirs_BLV)
        return float(np.abs(np.asarray(ours)[valid] - theirs_BLV[valid]).max())


def _parameter(array, decayed: bool) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(np.ascontiguousarray(array)))
    parameter.decayed = decayed
    return parameter


class Linear(nn.Module):
    """x·W for a weight that we keep as (inputs…, outputs…)."""

    def __init__(self, weight, inputs: int):
        super().__init__()
        size = int(np.prod(weight.shape[:inputs]))
        self.weight = _parameter(weight.reshape(size, -1).T, True)

    def forward(self, x):
        return F.linear(x, self.weight)


class Norm(nn.Module):
    def __init__(self, gain, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = _parameter(gain, False), epsilon

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Block(nn.Module):
    def __init__(self, c, layer: dict):
        super().__init__()
        self.c, a, f, e = c, layer["attention"], layer["ffn"], c.norm.epsilon
        self.attend_norm, self.ffn_norm = (
            Norm(layer["attend_norm_D"], e),
            Norm(layer["ffn_norm_D"], e),
        )
        self.q, self.k, self.v, self.o = (
            Linear(a["q_DHK"], 1),
            Linear(a["k_DJK"], 1),
            Linear(a["v_DJK"], 1),
            Linear(a["o_HKD"], 2),
        )
        if c.attention.qk_norm == "rms":
            self.q_norm, self.k_norm = Norm(a["q_norm_K"], e), Norm(a["k_norm_K"], e)
        self.up, self.down = Linear(f["up_DF"], 1), Linear(f["down_FD"], 1)
        if c.ffn.kind == "swiglu":
            self.gate = Linear(f["gate_DF"], 1)

    def forward(self, h, cos, sin, allowed):
        h = h + self.o(self.attended(self.attend_norm(h), cos, sin, allowed))
        x = self.ffn_norm(h)
        x = (
            F.silu(self.gate(x)) * self.up(x)
            if self.c.ffn.kind == "swiglu"
            else _ACTIVATIONS[self.c.ffn.kind](self.up(x))
        )
        return h + self.down(x)

    def attended(self, x, cos, sin, allowed):
        c, (B, L, _) = self.c.attention, x.shape
        q, k = self.q(x).view(B, L, c.heads, -1), self.k(x).view(B, L, c.kv_heads, -1)
        v = self.v(x).view(B, L, c.kv_heads, -1).transpose(1, 2)
        if c.qk_norm == "rms":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (_rotated(y, cos, sin).transpose(1, 2) for y in (q, k))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, enable_gqa=c.heads != c.kv_heads
        )
        return out.transpose(1, 2).reshape(B, L, -1)


def _rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Model(nn.Module):
    """ids → logits, from our parameter tree."""

    def __init__(self, c, causal: bool, params: dict):
        super().__init__()
        self.causal, a = causal, c.attention
        self.embed = _parameter(params["embed_VD"], False)
        self.head = (
            _parameter(params["unembed_VD"], False) if c.embeddings == "untied" else self.embed
        )
        self.norm = Norm(params["norm_D"], c.norm.epsilon)
        self.blocks = nn.ModuleList(Block(c, _layer(params["layers"], n)) for n in range(c.layers))
        self.register_buffer(
            "theta", a.rope.base ** (-torch.arange(0, a.head_size, 2) / a.head_size)
        )
        self.register_buffer(
            "never_V",
            torch.zeros(c.vocab.size).index_fill(0, torch.tensor(c.vocab.never), -torch.inf),
        )

    def forward(self, z_BL, segments_BL, positions_BL):
        angle = positions_BL[..., None, None] * self.theta
        cos, sin = angle.cos(), angle.sin()
        allowed = segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
        if self.causal:
            allowed = allowed.tril()
        h = F.embedding(z_BL, self.embed)
        for block in self.blocks:
            h = block(h, cos, sin, allowed)
        return F.linear(self.norm(h), self.head, self.never_V)


def _layer(tree: dict, n: int) -> dict:
    return {k: _layer(v, n) if isinstance(v, dict) else v[n] for k, v in tree.items()}
