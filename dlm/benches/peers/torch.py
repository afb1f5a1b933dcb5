"""The backbone and its update as a plain eager PyTorch program, float32 on all cores, with AdamW.

It has the same dimensions, weights and batch, and is written in the usual way (fused attention,
fused AdamW), so that the comparison is fair. The masked loss uses the linear schedule; no average
of the parameters is computed.
"""

from typing import Any

import jax
import numpy as np

from dlm.app.experiment import Experiment
from dlm.core.contracts import Batch, Canvas
from dlm.core.errors import UserError
from dlm.core.run import Run
from dlm.nn.config import ModelConfig
from dlm.nn.visibility import is_autoregressive
from dlm.runs import directory

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    raise UserError(
        "--peer=torch needs PyTorch: pip install -r requirements-parity.txt"
    ) from error

CLOSE = 1e-3  # largest difference of logits that still means the same model
# No schedule: the rate is small, so that many updates on one batch stay ordinary numbers.
RATE = 1e-2
IGNORED = -100  # target of a position that cross_entropy leaves out


class Twin:
    """Our model's twin, ready to update on our batch."""

    name = f"PyTorch {torch.__version__}"

    def __init__(
        self,
        experiment: Experiment,
        params: Any,
        batch: Batch,
    ):
        run = experiment.run
        self.visibility = experiment.objective.visibility
        self.shifts = self.visibility.shift == "input"
        _check(run)
        if self.visibility.shift == "output":
            raise UserError(
                "--peer=torch does not know objectives.adapted: choose ar or masked"
            )
        torch.set_num_threads(directory.environment()["cores"])
        self.clip = run.optim.clip
        self.vocab = run.nn.vocab
        # The same numbers, so that the logits can be compared.
        arrays = jax.tree.map(np.asarray, params)
        causal = is_autoregressive(self.visibility)
        self.model = Model(run.nn, causal, arrays)
        parameters = list(self.model.parameters())
        self.parameters = sum(p.numel() for p in parameters)

        # The batch is one of ours.
        self.x_BL = _tensor(batch.tokens_BL).long()
        self.weights_BL = _tensor(batch.weights_BL)
        self.noisable_BL = _tensor(batch.noisable_BL)
        self.segments_BL = _tensor(batch.layout.segments_BL)
        self.positions_BL = _tensor(batch.layout.positions_BL)

        # A twin of another model would be no peer.
        self.difference = self._difference(experiment, params, batch)
        leaves = jax.tree.leaves(params)
        ours = sum(x.size for x in leaves)
        if self.parameters != ours or self.difference > CLOSE:
            counts = f"{self.parameters} parameters for {ours}"
            logits = f"logits by {self.difference:.2g}"
            raise RuntimeError(f"the twin differs: {counts}, {logits}")
        self.optimizer = _optimizer(run.optim, self.model)

    def update(self) -> None:
        """Makes one update on the batch, with new noise."""
        if self.shifts:
            read_BL, counted_BL, weight_BL = self._shifted()
        else:
            read_BL, counted_BL, weight_BL = self._corrupted()
        logits_BLV = self._logits(read_BL)
        targets_BL = self.x_BL.masked_fill(~counted_BL, IGNORED)
        # One row for each token of the batch.
        logits_TV = logits_BLV.flatten(0, 1)
        targets_T = targets_BL.flatten()
        nats_T = F.cross_entropy(logits_TV, targets_T, reduction="none")
        nats_BL = nats_T.view_as(weight_BL) * weight_BL
        loss = nats_BL.sum() / self.weights_BL.sum()
        # One ordinary step of PyTorch.
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip:
            parameters = self.model.parameters()
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        loss.item()  # waits for the result

    def _logits(self, read_BL: torch.Tensor) -> torch.Tensor:
        return self.model(read_BL, self.segments_BL, self.positions_BL)

    def _corrupted(self):
        """Masks each token with probability t, stratified over the batch."""
        B, L = self.x_BL.shape
        stratum_B1 = torch.randperm(B)[:, None]
        u_B1 = stratum_B1 + torch.rand(B, 1)
        t_B1 = u_B1.clamp_min(1e-6) / B
        # The linear schedule: a token is masked with probability t.
        below_BL = torch.rand(B, L) < t_B1
        hit_BL = below_BL & self.noisable_BL
        z_BL = self.x_BL.masked_fill(hit_BL, self.vocab.mask)
        counted_BL = hit_BL & (self.weights_BL > 0)
        return z_BL, counted_BL, self.weights_BL / t_B1

    def _shifted(self):
        """Gives every position the token before it, or bos at the beginning of its segment."""
        bos = self.vocab.bos
        before_BL = _previous(self.x_BL, bos)
        segments_BL = self.segments_BL
        # The first token of a document must not see the one before.
        starts_BL = segments_BL != _previous(segments_BL, 0)
        starts_BL[:, 0] = False  # there the token before is bos in any case
        read_BL = before_BL.masked_fill(starts_BL, bos)
        counted_BL = self.weights_BL > 0
        return read_BL, counted_BL, self.weights_BL

    @torch.no_grad()
    def _difference(
        self,
        experiment: Experiment,
        params: Any,
        batch: Batch,
    ) -> float:
        """Returns the largest difference of our logits and the twin's on the clean batch."""
        clean_BL = 0.0 * batch.weights_BL  # times
        canvas = Canvas.of(batch, batch.tokens_BL, clean_BL, self.visibility)

        @jax.jit
        def logits(params, canvas):
            output = experiment.net(params)(canvas)
            return output.prediction.logits_BLV

        ours_BLV = np.asarray(logits(params, canvas))
        read_BL = self.x_BL
        if self.shifts:
            read_BL, _, _ = self._shifted()
        theirs_BLV = self._logits(read_BL).numpy()
        # Ids that are never predicted have a logit of −∞ on both sides.
        valid = np.isfinite(theirs_BLV)
        difference = ours_BLV[valid] - theirs_BLV[valid]
        return float(np.abs(difference).max())


def _previous(x_BL: torch.Tensor, first: int) -> torch.Tensor:
    """Shifts each row by one position, and puts `first` before it."""
    without_last_BL = x_BL[:, :-1]
    return F.pad(without_last_BL, (1, 0), value=first)


def _check(run: Run) -> None:
    """Raises UserError for a config that the twin does not implement."""
    optim, c = run.optim, run.nn
    cpu = jax.default_backend() == "cpu"
    plain = cpu and c.compute.dtype == "float32"
    if not plain or c.time != "none" or optim.kind != "adamw":
        raise UserError(
            "--peer=torch is a float32 twin on CPU, with AdamW and without time conditioning: "
            "choose such a config"
        )
    dense = not c.experts.count and not c.mtp_layers
    if not dense or c.attention.latent.kv_rank or c.norm.kind != "pre":
        raise UserError(
            "--peer=torch knows dense pre-norm layers with grouped-query attention alone: "
            "choose such a config"
        )
    if c.attention.bias != "none" or c.attention.rope.kind != "plain":
        raise UserError(
            "--peer=torch knows neither attention.bias nor attention.rope.kind: "
            "leave them as they are"
        )


def _optimizer(optim: Any, model: "Model") -> torch.optim.Optimizer:
    decayed, others = [], []
    for name, parameter in model.named_parameters():
        # As ours: neither norms nor embeddings are decayed.
        if name in model.decayed:
            decayed.append(parameter)
        else:
            others.append(parameter)
    groups = [
        dict(params=decayed, weight_decay=optim.weight_decay),
        dict(params=others, weight_decay=0.0),
    ]
    return torch.optim.AdamW(
        groups,
        lr=optim.lr * RATE,
        betas=(optim.b1, optim.b2),
        fused=True,
    )


# ------------------------------------------------------------------------------------------- model


def _tensor(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array))


def _parameter(array: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.tensor(np.ascontiguousarray(array)))


class Linear(nn.Module):
    """Computes x·W, for a weight that we store as (inputs…, outputs…); weights are decayed."""

    def __init__(self, weight: np.ndarray, inputs: int):
        super().__init__()
        size = int(np.prod(weight.shape[:inputs]))
        # torch stores (outputs, inputs).
        matrix = weight.reshape(size, -1)
        self.weight = _parameter(matrix.T)

    def forward(self, x):
        return F.linear(x, self.weight)


class Norm(nn.Module):
    def __init__(self, gain: np.ndarray, epsilon: float):
        super().__init__()
        self.weight = _parameter(gain)
        self.epsilon = epsilon

    def forward(self, x):
        shape = self.weight.shape
        return F.rms_norm(x, shape, self.weight, self.epsilon)


class Attention(nn.Module):
    def __init__(self, c: ModelConfig, layer: dict):
        super().__init__()
        self.c = c.attention
        epsilon = c.norm.epsilon
        self.q = Linear(layer["q_DHK"], 1)
        self.k = Linear(layer["k_DJK"], 1)
        self.v = Linear(layer["v_DJK"], 1)
        self.o = Linear(layer["o_HKD"], 2)
        if self.c.qk_norm == "rms":
            self.q_norm = Norm(layer["q_norm_K"], epsilon)
            self.k_norm = Norm(layer["k_norm_K"], epsilon)

    def forward(self, x, cos, sin, allowed):
        c = self.c
        q = _in_heads(self.q(x), c.heads)
        k = _in_heads(self.k(x), c.kv_heads)
        v = _in_heads(self.v(x), c.kv_heads)
        if c.qk_norm == "rms":
            q = self.q_norm(q)
            k = self.k_norm(k)
        q = _rotated(q, cos, sin)
        k = _rotated(k, cos, sin)
        # torch has the heads before the positions.
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=allowed,
            enable_gqa=c.heads != c.kv_heads,
        )
        out = out.transpose(1, 2)
        return self.o(out.flatten(2))


def _in_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    B, L, _ = x.shape
    return x.view(B, L, heads, -1)


class FeedForward(nn.Module):
    def __init__(self, c: ModelConfig, layer: dict):
        super().__init__()
        self.kind = c.ffn.kind
        self.up = Linear(layer["up_DF"], 1)
        self.down = Linear(layer["down_FD"], 1)
        if self.kind == "swiglu":
            self.gate = Linear(layer["gate_DF"], 1)

    def forward(self, x):
        h = self.up(x)
        match self.kind:
            case "swiglu":
                h = F.silu(self.gate(x)) * h
            case "gelu":
                h = F.gelu(h, approximate="tanh")
            case _:
                h = F.relu(h).square()
        return self.down(h)


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, c: ModelConfig, layer: dict):
        super().__init__()
        epsilon = c.norm.epsilon
        self.attend_norm = Norm(layer["attend_norm_D"], epsilon)
        self.ffn_norm = Norm(layer["ffn_norm_D"], epsilon)
        self.attention = Attention(c, layer["attention"])
        self.ffn = FeedForward(c, layer["ffn"])

    def forward(self, h, cos, sin, allowed):
        x = self.attend_norm(h)
        h = h + self.attention(x, cos, sin, allowed)
        x = self.ffn_norm(h)
        return h + self.ffn(x)


def _rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    first = a * cos - b * sin
    second = b * cos + a * sin
    return torch.cat([first, second], -1)


class Model(nn.Module):
    """ids → logits, from our parameter tree."""

    def __init__(self, c: ModelConfig, causal: bool, params: dict):
        super().__init__()
        self.causal = causal
        self.embed = _parameter(params["embed_VD"])
        self.head = self.embed
        if c.embeddings == "untied":
            self.head = _parameter(params["unembed_VD"])
        self.norm = Norm(params["norm_D"], c.norm.epsilon)
        self.blocks = nn.ModuleList()
        for n in range(c.layers):
            layer = _layer(params["layers"], n)
            self.blocks.append(Block(c, layer))
        modules = dict(self.named_modules())
        linear = [
            name for name, module in modules.items() if isinstance(module, Linear)
        ]
        self.decayed = {f"{name}.weight" for name in linear}
        size = c.attention.head_size
        # Frequencies as in our rotary embedding.
        exponent = -torch.arange(0, size, 2) / size
        self.register_buffer("theta", c.attention.rope.base**exponent)
        # Some ids are never predicted.
        assert c.vocab is not None, "a built run has its vocabulary"
        never = torch.tensor(c.vocab.never)
        never_V = torch.zeros(c.vocab.size)
        never_V = never_V.index_fill(0, never, -torch.inf)
        self.register_buffer("never_V", never_V)

    def forward(self, z_BL, segments_BL, positions_BL):
        angle = positions_BL[..., None, None] * self.theta
        cos, sin = angle.cos(), angle.sin()
        # Attention never crosses the border of a document.
        query = segments_BL[:, None, :, None]
        key = segments_BL[:, None, None, :]
        allowed = query == key
        if self.causal:
            allowed = allowed.tril()
        h = F.embedding(z_BL, self.embed)
        for block in self.blocks:
            h = block(h, cos, sin, allowed)
        h = self.norm(h)
        return F.linear(h, self.head, self.never_V)


def _layer(tree: dict, n: int) -> dict:
    """Takes layer n out of parameters that are stacked along their first axis."""
    layer = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            layer[name] = _layer(value, n)
        else:
            layer[name] = value[n]
    return layer
