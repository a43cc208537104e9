"""The backends keep the contract that every backend must keep."""

from __future__ import annotations

import torch
from unisep_classic import centre, factors, harmonic, independent, repeating

from unisep import Backend
from unisep.testing import BackendContract

ARGUMENTS = {"weights": None, "device": torch.device("cpu"), "dtype": torch.float32}


class TestHPSS(BackendContract):
    plugin_module = "unisep_classic.plugin"

    def load_backend(self) -> Backend:
        return harmonic.load(**ARGUMENTS)


class TestRepetSim(BackendContract):
    def load_backend(self) -> Backend:
        return repeating.load(**ARGUMENTS)


class TestStereoCentre(BackendContract):
    def load_backend(self) -> Backend:
        return centre.load(**ARGUMENTS)


class TestICA(BackendContract):
    def load_backend(self) -> Backend:
        return independent.load(**ARGUMENTS)


class TestNMF(BackendContract):
    def load_backend(self) -> Backend:
        return factors.load(**ARGUMENTS)
