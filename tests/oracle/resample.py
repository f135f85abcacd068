"""Goldens of picture scaling: Pillow's Image.resize on 32-bit floats, up and down, odd sizes.

Writes tests/goldens/resample.safetensors.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
FILTERS = {"nearest": Image.NEAREST, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
# [height, width] of the picture and of what it becomes.
SIZES = [([16, 12], [32, 24]), ([13, 7], [29, 31]), ([31, 40], [9, 17]), ([24, 24], [8, 24]), ([5, 9], [64, 3])]


def main():
    random, tensors = np.random.default_rng(0), {}
    for index, (old, new) in enumerate(SIZES):
        picture = random.uniform(-1, 2, old).astype(np.float32)
        tensors[f"input.{index}"] = picture[None, None]
        for name, kernel in FILTERS.items():
            scaled = Image.fromarray(picture, mode="F").resize((new[1], new[0]), kernel)
            tensors[f"output.{index}.{name}"] = np.asarray(scaled, np.float32)[None, None]
    save_file(tensors, GOLDENS / "resample.safetensors", metadata={"config": json.dumps(SIZES)})


if __name__ == "__main__":
    main()
