"""The hooks of this plugin. Imports nothing heavy, since it is read whenever plugins are listed."""

from __future__ import annotations

from collections.abc import Iterable

from unisep import BackendSpec, CommandSpec, hookimpl


@hookimpl
def unisep_backends() -> Iterable[BackendSpec]:
    """Declare a backend a runtime; which model it is, the file says."""
    return [
        BackendSpec(
            name=name,
            load=f"unisep_onnx.backend:load_{name}",
            summary=f"files of `unisep export` under {runtime}: {name}@model.onnx",
            reads_files=True,
        )
        for name, runtime in (("onnx", "onnxruntime"), ("openvino", "OpenVINO"))
    ]


@hookimpl
def unisep_commands() -> Iterable[CommandSpec]:
    """Declare `unisep export`."""
    return [CommandSpec(name="export", load="unisep_onnx.command:main", summary="write a model for other runtimes")]
