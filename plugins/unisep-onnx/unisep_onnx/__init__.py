"""Exported models: written by `unisep export`, run under onnxruntime or OpenVINO."""
