"""What types a GGUF's tensors have, for files that Tenfold itself does not read."""

import struct
from collections import Counter
from dataclasses import dataclass, field

# ggml's ids: name, values of a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value
STRING, ARRAY = 8, 9


@dataclass
class Contents:
    head: str = ""  # type of the output matrix
    body: Counter = field(default_factory=Counter)  # bytes by type, layers alone
    step_bytes: int = 0  # that a decode step reads: all but an untied embedding table

    def body_text(self) -> str:
        return "+".join(name for name, _ in self.body.most_common() if name != "F32")


def read_types(path: str) -> Contents:
    with open(path, "rb") as file:
        def number(form: str):
            return struct.unpack("<" + form, file.read(struct.calcsize(form)))[0]

        def text() -> str:
            return file.read(number("Q")).decode()

        def skip(kind: int) -> None:
            if kind == STRING:
                file.seek(number("Q"), 1)
            elif kind == ARRAY:
                element, n = number("I"), number("Q")
                if element in SCALARS:
                    file.seek(SCALARS[element] * n, 1)
                else:
                    for _ in range(n):
                        skip(element)
            else:
                file.seek(SCALARS[kind], 1)

        if file.read(4) != b"GGUF":
            raise ValueError(f"{path}: not a GGUF")
        number("I")
        n_tensors, n_keys = number("Q"), number("Q")
        for _ in range(n_keys):
            text()
            skip(number("I"))
        tensors = {}
        for _ in range(n_tensors):
            name = text()
            elements = 1
            for _ in range(number("I")):
                elements *= number("Q")
            kind, _ = number("I"), number("Q")
            label, block, size = TYPES.get(kind, (f"type {kind}", 1, 0))
            tensors[name] = (label, elements // block * size)
    return summarize(tensors)


def summarize(tensors: dict) -> Contents:
    contents = Contents()
    tied = "output.weight" not in tensors
    contents.head = tensors["token_embd.weight" if tied else "output.weight"][0]
    for name, (label, size) in tensors.items():
        if name != "token_embd.weight" or tied:
            contents.step_bytes += size
        if name.startswith("blk."):
            contents.body[label] += size
    return contents
