"""Active remasking: quality against forward passes, for each way to mask tokens again, on a trained byte model and on oracle worlds.

ReMDM (arXiv:2503.00307) and its kin spend passes on changing their mind. With an exact network there is nothing to mend, and remasking cannot
help; with a trained one each token is drawn from a law that is a little wrong, and errors pile up unless they can be taken back.

    python -m dlm.sweep --config=configs/challenges/remasking.py --workdir=runs/remasking
    python -m dlm.bench samplers --workdir=runs/remasking/masked-seed=0 --judge=runs/remasking/ar-seed=0 --out=runs/remasking/bench

What was seen in a world (below): remasking does not help, with an exact network nor with one that errs. Where the share of masks is kept
(rescale) a pass undoes what another one did, and as many passes leave more impossible bigrams, twice as many in 32 and 128. `loop` reveals
nine tenths in the first half of its passes, for which 8 are too few; in 128 it is as good as none. `confidence` pays at the end. `low_confidence` does
take back what cannot be, 0.1 % instead of 0.5 in 128 passes, and with it whatever is rare: it ends at 0.72 nats a token where p has 1.06,
half of the bigrams are others. The perfect judge of `quality` does so, too: where a token has four likely successors most that are right have
a probability below 1/2; more passes change little. The network's error is the same wherever the same is seen, so that drawing again draws
from the same wrong law. With an error that any change of the context makes another one (tried, not kept: to a network, like contexts are
alike) all but the last two come closer to p in 128 passes: none to 3.6 %, `loop` to 3.4, `confidence` to 4.2, `rescale` to 5.3.

    python -m dlm.bench samplers --worlds=chain --steps=8,32,128 --num=128 --noise=0.5 --out=runs/remasking/world \\
        --rules=ancestral,ancestral+rescale:eta=0.5,ancestral+confidence,ancestral+loop,ancestral+low_confidence,ancestral+quality

    V = 16, L = 64, 128 draws     impossible bigrams, % (se at most 0.5)             total variation of the bigrams from p's, %
    in steps                      exact network            error of 0.5 nats         exact network            error of 0.5 nats
                                    8      32     128        8      32     128         8      32     128        8      32     128
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    floor                           7.0    1.7    0.4                                  8.8    2.2    0.5
    p itself                        0.0    0.0    0.0                                  2.3    2.3    2.3
    ancestral                       7.2    1.8    0.5        7.3    1.8    0.5         9.7    3.8    3.8       27.4   25.7   24.6
    ancestral+rescale:eta=0.5       8.5    3.4    1.2        8.5    3.2    1.0        10.9    6.5    3.9       28.7   28.1   28.8
    ancestral+confidence            7.1    2.1    1.1        7.2    2.1    1.0         9.2    3.9    3.5       27.8   26.4   26.4
    ancestral+loop                 12.0    2.4    0.6       12.1    2.3    0.5        15.5    5.1    2.5       30.3   24.3   24.8
    ancestral+low_confidence       12.6    2.7    0.2       10.1    1.3    0.1        23.5   42.2   54.2       43.3   51.4   52.0
    ancestral+quality               6.0    6.5    6.5        6.3    6.8    6.8         9.7   31.9   37.5       32.9   46.1   47.9

    (commit a3adeaa, 2 cores of an AVX-512 Xeon shared with others, Python 3.11.7)

On this recipe's runs (masked 2.815 ± 0.030 bits/byte, a bound; the autoregressive judge 1.777) passes beyond 32 bring plain sampling nothing:
what is left is the network's error. Some of it can be taken back. With 256 passes `cap` lowers the judge's bits from 4.64 to 4.32 (2.4
standard errors of the difference), still falling where plain sampling stands still; `rescale` comes to 4.39, `switch` and `loop` do
not differ from none. `confidence` has the lowest figure of all, 4.12 in 128 passes, and pays with a quarter of a nat of entropy, so that some of
it is repetition; in 256 it keeps more variety and gains less. In 8 passes every rule is as good as none or, `loop`, worse. In a world with an
error nothing of this was seen: there the same wrong law is drawn from again.

    python -m dlm.bench samplers --worlds= --steps=8,32,128,256 --workdir=runs/remasking/masked-seed=0 --judge=runs/remasking/ar-seed=0 \
        --out=runs/remasking/bench \
        --rules=ancestral,ancestral+cap:eta=0.1,ancestral+rescale:eta=0.1,ancestral+confidence,ancestral+loop,ancestral+switch:eta=0.1

    32 samples of 128 bytes        bits/byte under the judge (se 0.13)      its perplexity               entropy, nats (se 0.06 at most)
    in passes                         8      32     128     256           8     32    128    256           8      32     128     256
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    ancestral                       5.17    4.61    4.59    4.64        36.0   24.5   24.1   24.9        2.91    2.88    2.82    2.90
    ancestral+cap:eta=0.1           5.21    4.78    4.43    4.32        37.0   27.4   21.5   19.9        2.93    2.87    2.82    2.80
    ancestral+rescale:eta=0.1       5.29    4.76    4.69    4.39        39.2   27.0   25.8   21.0        2.92    2.82    2.87    2.84
    ancestral+confidence            5.17    4.53    4.12    4.36        36.0   23.1   17.4   20.6        2.92    2.78    2.58    2.77
    ancestral+loop                  5.52    4.76    4.60    4.55        46.0   27.1   24.3   23.3        2.99    2.87    2.85    2.83
    ancestral+switch:eta=0.1        5.17    4.65    4.47    4.52        36.1   25.0   22.1   23.0        2.92    2.83    2.79    2.86

    (commit d1fb342, 2 cores of an AVX-512 Xeon shared with others, Python 3.11.7, one seed)

On the masked run of configs/quickstart.py (360 updates of BPE tokens, commit d727f3b) samples are as bad in 8 passes as in 128, and no rule
differs from none by more than 1.3 standard errors.

size=tiny   1,500 updates of 16 × 128 bytes for each of the two, half an hour of an idle laptop
size=small  20,000 updates of 64 × 256 bytes
"""

from ml_collections import ConfigDict

from dlm.core.config import choices
from dlm.sweeps.grid import chain, point, repeat

TRAINING = {
    "tiny": dict(steps=1500, batch=16, length=128, width=128, layers=4),
    "small": dict(steps=20_000, batch=64, length=256, width=512, layers=8),
}


def get_config(arg=None):
    t = TRAINING[choices(arg, size=tuple(TRAINING)).size]
    heads = t["width"] // 32
    return ConfigDict(
        dict(
            seed=0,
            steps=t["steps"],
            text=dict(name="text.bytes"),
            data=dict(
                source=dict(name="data.embedded", held_out=0.05),
                batch=t["batch"],
                length=t["length"],
            ),
            nn=dict(
                layers=t["layers"],
                width=t["width"],
                attention=dict(heads=heads, kv_heads=heads, head_size=32),
                ffn=dict(kind="relu2", width=4 * t["width"]),
            ),
            objective=dict(name="objectives.masked", pattern="count"),
            optim=dict(
                kind="muon",
                muon_lr=0.02,
                lr=3e-3,
                schedule="linear",
                warmup=t["steps"] // 10,
            ),
            sampler=dict(rule="ancestral", steps=64),
            evals=dict(bound=dict(samples=4, windows=128)),
            intervals=dict(log=20, save=0),
        )
    )


def sweep():
    ar = point(
        "ar", {"objective": "objectives.ar", "sampler.steps": 1, "sampler.block": 1}
    )
    return repeat(chain(ar, point("masked", {})), seeds=1)
