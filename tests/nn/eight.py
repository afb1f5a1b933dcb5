"""Experts over eight devices, two groups or one of them on each, are those of one device.   python -m tests.nn.eight"""

import jax

jax.config.update("jax_num_cpu_devices", 8)

from tests import tiny  # noqa: E402
from tests.nn import test_experts as t  # noqa: E402

for name, sizes in (("moge-16", dict(expert=8)), ("moge-8", dict(data=2, expert=4))):
    given = t.given(name)
    there = t.value_and_gradients(t.layer(name, mesh=t.mesh(**sizes)), *given)
    tiny.close(there, t.value_and_gradients(t.layer(name), *given), 2e-6)
    print(name, sizes)
