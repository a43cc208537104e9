"""Write the embedded query model, and the text tower of its encoder, for the page: python models.py dist."""

import io
import shutil
import sys
import warnings
from pathlib import Path

import torch
from unisep_clap.mini import VOCABULARY_FILE, load_mini
from unisep_onnx.export import OPSET, as_onnx, describe, opened


def write_separator(folder):
    backend, name, space, licence = opened("htdemucs-film", offline=True)
    Path(folder, "film.onnx").write_bytes(as_onnx(backend, describe(backend, name, space, licence)).content)


def write_text_tower(folder):
    """Token ids `[1, tokens]` in, a unit vector `[1, 256]` out; a phrase at a time needs no padding."""

    class Tower(torch.nn.Module):
        def __init__(self, tower):
            super().__init__()
            self.tower = tower

        def forward(self, ids):
            return self.tower(ids, torch.ones_like(ids, dtype=torch.bool))

    ids, tower = torch.tensor([[2, 5, 6, 3]]), Tower(load_mini().text_tower).eval()
    n_tokens = torch.export.Dim("tokens", min=2, max=tower.tower.config.n_positions)
    with warnings.catch_warnings():  # of the exporter, about itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            tower, (ids,), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["ids"], output_names=["vector"], dynamic_shapes=({1: n_tokens},),
        )  # fmt: skip
    file = io.BytesIO()
    program.save(file)
    Path(folder, "text.onnx").write_bytes(file.getvalue())


def write_vocabulary(folder):
    package = Path(sys.modules[load_mini.__module__].__file__).parent
    shutil.copyfile(package / "data" / VOCABULARY_FILE, Path(folder, VOCABULARY_FILE))


def main(folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_separator(folder)
    write_text_tower(folder)
    write_vocabulary(folder)


if __name__ == "__main__":
    main(sys.argv[1])
