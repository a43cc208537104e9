"""The backends keep the contract that every backend must keep."""

from __future__ import annotations

import torch
from unisep_classic import methods

from unisep import Backend
from unisep.testing import BackendContract

ARGUMENTS = {"weights": None, "device": torch.device("cpu"), "dtype": torch.float32}


class TestHPSS(BackendContract):
    plugin_module = "unisep_classic.plugin"

    def load_backend(self) -> Backend:
        return methods.load_hpss(**ARGUMENTS)


class TestRepetSim(BackendContract):
    def load_backend(self) -> Backend:
        return methods.load_repet_sim(**ARGUMENTS)


class TestStereoCentre(BackendContract):
    def load_backend(self) -> Backend:
        return methods.load_stereo_centre(**ARGUMENTS)


class TestICA(BackendContract):
    def load_backend(self) -> Backend:
        return methods.load_ica(**ARGUMENTS)


class TestNMF(BackendContract):
    def load_backend(self) -> Backend:
        return methods.load_nmf(**ARGUMENTS)
