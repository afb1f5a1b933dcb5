"""Experts over eight devices, one or two groups on each, equal those of one device.

python -m tests.nn.eight
"""

import jax

jax.config.update("jax_num_cpu_devices", 8)

from tests import tiny  # noqa: E402
from tests.nn import test_experts as t  # noqa: E402

for name in ("moge-8", "moge-16"):
    inputs = t.inputs_of(name)
    there = t.value_and_gradients(t.layer(name, mesh=t.mesh(expert=8)), *inputs)
    tiny.close(there, t.value_and_gradients(t.layer(name), *inputs), 2e-6)
    print(name)
