"""Safetensors files of F32 tensors, for the tests of `gleaner route`."""

import json
import struct


def write(path, tensors):  # name -> (shape, values)
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        part = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read(path):  # name -> (shape, values)
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack_from("<Q", data)[0]
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        values = struct.unpack_from(f"<{(end - first) // 4}f", data, 8 + length + first)
        tensors[name] = (entry["shape"], list(values))
    return tensors
