"""A GGUF file written by the gguf package: every metadata type, every element type this engine knows, and the numbers
that the package quantizes to and reads back. Writes tests/goldens/gguf_reference.gguf.
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

PATH = Path(__file__).resolve().parent.parent / "goldens" / "gguf_reference.gguf"


def values(rows, columns):
    """Numbers of many magnitudes, a block of zeros, and numbers that fall between two codes."""
    random = np.random.default_rng(7)
    data = random.standard_normal((rows, columns)) * np.exp2(random.integers(-12, 6, (rows, 1)))
    data[0, :32] = 0
    data[1, :32] = np.arange(32) - 15.5
    data[1, 0] = 127
    data[2, :32] = (np.arange(32) - 16) / 2
    return data.astype(np.float32)


def main():
    writer = GGUFWriter(PATH, "reference")
    for kind, value in {
        "UINT8": 200, "INT8": -100, "UINT16": 60000, "INT16": -30000, "UINT32": 4000000000, "INT32": -2000000000,
        "FLOAT32": 0.15625, "BOOL": True, "STRING": "a red apple, 红苹果", "UINT64": 2**63, "INT64": -(2**62), "FLOAT64": 0.1,
    }.items():  # fmt: skip
        writer.add_key_value(f"value.{kind.lower()}", value, GGUFValueType[kind])
    writer.add_array("array.string", ["a", "", "红"])
    writer.add_key_value("array.int32", [1, -2, 3], GGUFValueType.ARRAY, GGUFValueType.INT32)
    conv = values(4, 288).reshape(4, 32, 3, 3)
    writer.add_key_value("comfy.gguf.orig_shape.conv", list(conv.shape), GGUFValueType.ARRAY, GGUFValueType.INT32)
    # The engine writes metadata in the order of keys.
    writer.kv_data[0] = dict(sorted(writer.kv_data[0].items()))

    data = values(6, 96)
    writer.add_tensor("bias", data[3, :5].copy())
    writer.add_tensor("f32", data)
    writer.add_tensor("f16", data.astype(np.float16))
    for name, kind in {"q8_0": GGMLQuantizationType.Q8_0, "q4_0": GGMLQuantizationType.Q4_0}.items():
        packed = quants.quantize(data, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        writer.add_tensor(f"{name}.dequantized", quants.dequantize(packed, kind))
    writer.add_tensor("conv", quants.quantize(conv.reshape(4, 288), GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    names = [tensor.name for tensor in GGUFReader(PATH).tensors]
    print(f"{PATH.name}: {PATH.stat().st_size} bytes, {names}")


if __name__ == "__main__":
    main()
