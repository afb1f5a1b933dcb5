"""The config of a run's device mesh. No JAX here."""

from dataclasses import dataclass
from typing import cast

from dlm.core.named import Place


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh has, and on which platform."""

    data: int = 0  # 0: all devices that the other axes leave
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1
    platform: str = (
        ""  # cpu, gpu, tpu, or a plugin's name (`machine.platform`); "": JAX's choice
    )
    plugin: Place = cast(
        Place, ""
    )  # shared library of the PJRT plugin that brings the platform

    def __post_init__(self):
        if min(self.fsdp, self.tensor, self.expert) < 1 or self.data < 0:
            raise ValueError(
                "mesh axes must be positive (data=0: all devices that the others leave)"
            )
        if self.platform and not self.platform.isidentifier():
            raise ValueError(
                f"platform={self.platform!r} must be one name, such as npu"
            )
        if self.plugin and not self.platform:
            remedy = "say under which name, for instance platform=npu"
            raise ValueError(f"plugin={self.plugin} brings a platform: {remedy}")
