"""Writes one golden: a tiny random model, its inputs and its outputs, as tests/goldens/<name>.safetensors."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def round_weights(model):
    """Rounds every weight to f16, so that the golden can store halves and both sides still compute with the same numbers."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    return model.eval()


def save(name, config, weights, inputs, outputs):
    """Weights as F16, inputs and outputs as they are, the configuration as JSON in the metadata."""
    tensors = {f"weights.{key}": value.half() for key, value in weights.items() if value.is_floating_point()}
    tensors |= {f"input.{key}": value for key, value in inputs.items()}
    tensors |= {f"output.{key}": value for key, value in outputs.items()}
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    path = GOLDENS / f"{name}.safetensors"
    GOLDENS.mkdir(exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
