"""Hostile and damaged files: every one a WeightsError, and nothing of it is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from unisep_onnx.backend import load_onnx
from unisep_onnx.description import KEY, Description, described, read

from unisep.errors import WeightsError

CPU = torch.device("cpu")
FACTS = Description(name="hostile", sources=("a",), sample_rate_hz=8000, channels=1, segment_samples=100)


def small(*nodes: onnx.NodeProto, tensors: tuple[TensorProto, ...] = (), **changed: object) -> onnx.ModelProto:
    """A file that gives the mixture back, but for what a test adds."""
    body = [*nodes, helper.make_node("Unsqueeze", ["mixture", "axis"], ["sources"])]
    axis = numpy_helper.from_array(np.array([1]), "axis")
    float32 = TensorProto.FLOAT
    values = {
        "inputs": [helper.make_tensor_value_info("mixture", float32, ["batch", 1, 100])],
        "outputs": [helper.make_tensor_value_info("sources", float32, ["batch", 1, 1, 100])],
        **changed,
    }
    graph = helper.make_graph(body, "graph", values["inputs"], values["outputs"], [axis, *tensors])
    opsets = [helper.make_opsetid("", 18), *values.get("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def external(tmp_path: Path) -> onnx.ModelProto:
    (tmp_path / "secret").write_bytes(b"\0" * 400)
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[100], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../../../../etc/passwd")
    return small(tensors=(tensor,))


def hidden(tmp_path: Path) -> onnx.ModelProto:
    """The same, in a branch inside a branch."""
    tensor = external(tmp_path).graph.initializer[1]
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, [100])
    inner = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "inner", [], [value])
    branch = helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=inner)
    outer = helper.make_graph([branch], "outer", [], [value])
    yes = numpy_helper.from_array(np.array(True), "yes")
    return small(helper.make_node("If", ["yes"], ["unused"], then_branch=outer, else_branch=outer), tensors=(yes,))


def giant(tmp_path: Path) -> onnx.ModelProto:
    return small(tensors=(TensorProto(name="giant", data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"\0" * 8),))


def negative(tmp_path: Path) -> onnx.ModelProto:
    return small(tensors=(TensorProto(name="less", data_type=TensorProto.FLOAT, dims=[-2], raw_data=b"\0" * 8),))


def custom(tmp_path: Path) -> onnx.ModelProto:
    node = helper.make_node("Run", ["mixture"], ["unused"], domain="evil.example")
    return small(node, opsets=[helper.make_opsetid("evil.example", 1)])


def unimported(tmp_path: Path) -> onnx.ModelProto:
    return small(helper.make_node("Run", ["mixture"], ["unused"], domain="evil.example"))


def functions(tmp_path: Path) -> onnx.ModelProto:
    model = small()
    same = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("", "Again", ["x"], ["y"], [same], [helper.make_opsetid("", 18)]))
    return model


def other_input(tmp_path: Path) -> onnx.ModelProto:
    return small(inputs=[helper.make_tensor_value_info("mixture", TensorProto.FLOAT, ["batch", 2, 100])])


def other_type(tmp_path: Path) -> onnx.ModelProto:
    return small(inputs=[helper.make_tensor_value_info("mixture", TensorProto.DOUBLE, ["batch", 1, 100])])


def other_output(tmp_path: Path) -> onnx.ModelProto:
    return small(outputs=[helper.make_tensor_value_info("stems", TensorProto.FLOAT, ["batch", 1, 1, 100])])


def unknown_operator(tmp_path: Path) -> onnx.ModelProto:
    return small(helper.make_node("NoSuchThing", ["mixture"], ["unused"]))


def test_the_small_file_is_one_that_works(tmp_path: Path) -> None:
    path = tmp_path / "good.onnx"
    path.write_bytes(described(small(), FACTS))
    mixture = torch.randn(2, 1, 100)
    assert torch.equal(
        load_onnx(weights=path, device=CPU, dtype=torch.float32).separate(mixture).sources, mixture[:, None]
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (external, "another file"), (hidden, "another file"), (giant, "claims"), (negative, "claims"),
        (custom, "evil.example"), (unimported, "evil.example"), (functions, "functions"), (other_input, "mixture"),
        (other_type, "mixture"), (other_output, "outputs"), (unknown_operator, "NoSuchThing"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(make: Callable[[Path], onnx.ModelProto], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(described(make(tmp_path), FACTS))
    with pytest.raises(WeightsError, match=reason):
        load_onnx(weights=path, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"PK\x03\x04" + b"\0" * 100, b"\xff" * 1000, b"\x08\x09"])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"ONNX|does not say what it is"):
        read(path)


def test_a_file_cut_short_anywhere_is_refused(written: Callable[[str], Path]) -> None:
    path = written("film")
    content = path.read_bytes()
    for n_bytes in np.linspace(0, len(content) - 1, 50, dtype=int):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(WeightsError):
            load_onnx(weights=path, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    "changed",
    [
        {"segment_samples": 1 << 40}, {"segment_samples": 0}, {"sample_rate_hz": 10**12}, {"channels": 3},
        {"sources": ["x"] * 1000}, {"sources": []}, {"query_dim": 5}, {"space": "toy-1"}, {"format": 2},
        {"normalisation": "album"}, {"extra": 1}, {"name": ""},
    ],
)  # fmt: skip
def test_claims_that_cannot_be_right_are_refused(changed: dict[str, object], tmp_path: Path) -> None:
    import json

    model = small()
    helper.set_model_props(model, {KEY: json.dumps({**FACTS.model_dump(), **changed})})
    path = tmp_path / "claims.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.onnx"):
        read(tmp_path / "gone.onnx")
    with pytest.raises(WeightsError, match="export"):
        load_onnx(weights=None, device=CPU, dtype=torch.float32)
