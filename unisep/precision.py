"""In which number type a backend computes: what the user asked for, or what suits the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unisep.backend import BackendSpec
from unisep.errors import OptionError, suggest

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The precision asked for on one device, checked.

    name: "float32", "bfloat16" or "float16" for every backend; "auto" leaves it to each backend: the faster type
        that its spec vouches for on this kind of device (`BackendSpec.auto_precision`), where the device
        computes in it, else float32.

    Raises:
        OptionError: an unknown name, or a type that the processor does not compute in.
    """

    name: str
    device: torch.device

    def __post_init__(self) -> None:
        if self.name != "auto" and self.name not in _DTYPES:
            raise OptionError(
                f"precision={self.name!r} is unknown. {suggest(str(self.name), ['auto', *_DTYPES])}"
            )
        if self.name == "float16" and self.device.type == "cpu":
            raise OptionError("precision='float16' needs an accelerator. On the CPU use 'auto' or 'float32'.")
        if self.name == "bfloat16" and not self._computes(torch.bfloat16):
            raise OptionError(
                "precision='bfloat16': this processor has no bfloat16 arithmetic (as AVX-512 BF16 and AMX are), and "
                "torch would imitate it a hundred times slower. Use 'auto' or 'float32'."
            )

    def dtype_for(self, spec: BackendSpec) -> torch.dtype:
        """The dtype in which the backend of `spec` is to be loaded."""
        if self.name != "auto":
            return _DTYPES[self.name]
        fast = _DTYPES[spec.auto_precision.get(self.device.type, "float32")]
        return fast if self._computes(fast) else torch.float32

    def _computes(self, dtype: torch.dtype) -> bool:
        if dtype == torch.float32 or self.device.type != "cpu":
            return True
        return dtype == torch.bfloat16 and cpu_computes_bfloat16()


def cpu_computes_bfloat16() -> bool:
    """Whether products in bfloat16 are fast on this processor; elsewhere torch imitates them number by number."""
    try:
        # Not part of torch's public interface, which has no such question: without it the answer is no.
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
