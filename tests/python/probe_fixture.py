"""Fixtures that run a model folder through model_probe: what osp computes, tensor by tensor."""

import subprocess

import pytest


@pytest.fixture(scope="session")
def osp_outputs(osp_build, tmp_path_factory):
    """osp_outputs(folder, tokens, *options): the tensors that model_probe --forward writes, by name."""

    def run(folder, tokens, *options):
        from safetensors.torch import load_file, save_file

        files = tmp_path_factory.mktemp("probe")
        save_file({"tokens": tokens, "targets": tokens.clone()}, files / "in.safetensors")
        subprocess.run([osp_build / "model_probe", folder, files / "in.safetensors",
                        files / "out.safetensors", "--forward", *options], check=True)  # fmt: skip
        return load_file(files / "out.safetensors")

    return run


@pytest.fixture(scope="session")
def osp_logits(osp_outputs):
    """The logits alone."""
    return lambda folder, tokens, *options: osp_outputs(folder, tokens, *options)["logits"]
