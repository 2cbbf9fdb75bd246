#!/usr/bin/env python3
"""Makes the torch archives in this folder, byte for byte the same each time, without torch.

usage: make_fixtures.py [FOLDER]

torch.save pickles tensors as calls of torch._utils functions and storages as persistent ids; fake
modules with those names give the same pickle. Most archives are laid out as torch's C++ writer does
it (64-byte aligned data, sizes in data descriptors, zip64 end records); some by Python's zipfile.
"""
import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile
import zlib

torch = types.ModuleType("torch")
torch_utils = types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": torch_utils})


def _rebuild_tensor_v2(*args):
    raise NotImplementedError


def _rebuild_parameter(*args):
    raise NotImplementedError


for function in (_rebuild_tensor_v2, _rebuild_parameter):
    function.__module__ = "torch._utils"
    setattr(torch_utils, function.__name__, function)


def bf16(value):
    return struct.pack("<f", value)[2:]


def packer(code):
    return lambda value: struct.pack("<" + code, value)


STORAGES = {
    "FloatStorage": packer("f"), "HalfStorage": packer("e"), "BFloat16Storage": bf16,
    "DoubleStorage": packer("d"), "LongStorage": packer("q"), "BoolStorage": packer("?"),
    "ByteStorage": packer("B"), "ComplexFloatStorage": packer("d"),
}
for class_name in STORAGES:
    setattr(torch, class_name, type(class_name, (), {"__module__": "torch"}))


class Storage:
    def __init__(self, kind, values):
        self.kind, self.values = kind, values


class Tensor:
    def __init__(self, storage, size, offset=0, stride=None):
        self.storage, self.offset, self.size = storage, offset, tuple(size)
        if stride is None:
            stride = []
            step = 1
            for extent in reversed(self.size):
                stride.insert(0, step)
                step *= extent
        self.stride = tuple(stride)

    def __reduce_ex__(self, protocol):
        return (_rebuild_tensor_v2, (self.storage, self.offset, self.size, self.stride, False,
                                     collections.OrderedDict()))


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce_ex__(self, protocol):
        return _rebuild_parameter, (self.tensor, True, collections.OrderedDict())


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce_ex__(self, protocol):
        return self.function, self.args


class Pickler(pickle.Pickler):
    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages = []

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            self.storages.append(obj)
        return ("storage", getattr(torch, obj.kind), str(self.storages.index(obj)), "cpu",
                len(obj.values))


def records(obj, protocol=2, prefix="pytorch_model", byteorder="little"):
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.dump(obj)
    result = [("data.pkl", file.getvalue()), ("byteorder", byteorder.encode())]
    for i, storage in enumerate(pickler.storages):
        pack = STORAGES[storage.kind]
        result.append((f"data/{i}", b"".join(pack(value) for value in storage.values)))
    result.append(("version", b"3\n"))
    return [(f"{prefix}/{name}", data) for name, data in result]


def torch_zip(entries):
    out, central = bytearray(), bytearray()
    for name, data in entries:
        name, offset, crc = name.encode(), len(out), zlib.crc32(data)
        padding = -(offset + 30 + len(name) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        out += struct.pack("<IHHHHHIIIHH", 0x04034B50, 0, 0x808, 0, 0, 0, 0, 0, 0, len(name),
                           len(extra)) + name + extra + data
        out += struct.pack("<IIII", 0x08074B50, crc, len(data), len(data))
        central += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 0, 0, 0x808, 0, 0, 0, crc,
                               len(data), len(data), len(name), 0, 0, 0, 0, 0, offset) + name
    start, count = len(out), len(entries)
    end64 = start + len(central)
    out += central
    out += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 0x31E, 45, 0, 0, count, count, len(central),
                       start)
    out += struct.pack("<IIQI", 0x07064B50, 0, end64, 1)
    out += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(central), start, 0)
    return bytes(out)


def python_zip(entries, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)
    return file.getvalue()


def state_dict():
    shared = Storage("FloatStorage", [0.5 * i for i in range(10)])
    result = collections.OrderedDict()
    result["embed.weight"] = Tensor(shared, (2, 3))
    result["embed.tail"] = Tensor(shared, (1, 4), offset=6, stride=(99, 1))
    result["half"] = Tensor(Storage("HalfStorage", [1.0, -2.0, 0.25, 65504.0]), (4,))
    result["brain"] = Parameter(Tensor(Storage("BFloat16Storage", [1.5, -3.0]), (2, 1)))
    result["scalar"] = Tensor(Storage("FloatStorage", [7.0]), ())
    result["counter"] = Tensor(Storage("LongStorage", [42]), ())
    result["mask"] = Tensor(Storage("BoolStorage", [True, False]), (2,))
    result._metadata = collections.OrderedDict([("", {"version": 1})])
    return result


def small(kind="FloatStorage", **kwargs):
    return {"w": Tensor(Storage(kind, [1.0, 2.0, 3.0, 4.0]), (2, 2), **kwargs)}


def fixtures():
    evil = {"w": Call(os.system, "echo no")}
    yield "state_dict.bin", torch_zip(records(state_dict()))
    yield "protocol4.bin", python_zip(records(state_dict(), protocol=4, prefix="archive"))
    yield "nested_model.bin", torch_zip(records({"epoch": 3, "lr": 0.5, "model": small()}))
    yield "nested_state_dict.bin", torch_zip(records({"state_dict": small(), "args": None}))
    yield "os_system.bin", torch_zip(records(evil))
    yield "builtins_eval.bin", torch_zip(records([Call(eval, "1")], protocol=4))
    yield "float64.bin", torch_zip(records(small("DoubleStorage")))
    yield "complex.bin", torch_zip(records(small("ComplexFloatStorage")))
    yield "transposed.bin", torch_zip(records(small(stride=(1, 2))))
    yield "outside_storage.bin", torch_zip(records(small(offset=1)))
    yield "big_endian.bin", torch_zip(records(small(), byteorder="big"))
    yield "compressed.bin", python_zip(records(small()), zipfile.ZIP_DEFLATED)
    yield "not_a_dict.bin", torch_zip(records([1, 2]))
    yield "no_tensors.bin", torch_zip(records({"a": 1}))
    yield "legacy.bin", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for name, data in fixtures():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
