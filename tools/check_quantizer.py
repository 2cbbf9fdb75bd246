#!/usr/bin/env python3
"""Checks the quantizer against an independent implementation in NumPy, on an OPT directory.

Run by hand; needs numpy and a build. OPT is a directory of the OPT family with safetensors, the texts
are any:

  python3 tools/check_quantizer.py --tenfold build/release/tools/tenfold --model OPT \
      --text TEXT --calib CALIBRATION_TEXT

1. Rounding to nearest with min-max ranges at 2, 3 and 4 bits, groups of 128: the perplexity of the
   model run in NumPy in float64 against `tenfold eval --activations int8x2` of the file.
2. GPTQ (Frantar et al., 2022) written with the inverse Hessian's Cholesky factor as in the paper,
   on the inputs of the first layer's q, k and v: codes against those of the file.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import tempfile

import numpy as np

GROUP = 128
WINDOW = 256


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    types = {"F32": np.float32, "F16": np.float16}
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length + begin:8 + length + end], types[entry["dtype"]])
        tensors[name.removeprefix("model.")] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


def grid(weights, bits):
    """Scale and zero point of groups [..., G]: the range holds 0, the scale is an f16."""
    top = 2**bits - 1
    low = np.minimum(weights.min(-1, keepdims=True), 0)
    high = np.maximum(weights.max(-1, keepdims=True), 0)
    scale = ((high - low) / top).astype(np.float16).astype(np.float64)
    safe = np.where(scale > 0, scale, 1)
    return safe, np.clip(np.round(-low / safe), 0, top)


def rounded(weights, scale, zero, bits):
    return np.clip(np.floor(weights / scale + zero + 0.5), 0, 2**bits - 1)


def round_matrix(matrix, bits):
    rows, cols = matrix.shape
    groups = matrix.reshape(rows, cols // GROUP, GROUP)
    scale, zero = grid(groups, bits)
    return (scale * (rounded(groups, scale, zero, bits) - zero)).reshape(rows, cols)


class Opt:
    """OPT with norms before the blocks, in float64."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.t = read_safetensors(folder / "model.safetensors")

    def linear(self, name, x):
        return x @ self.t[name + ".weight"].T + self.t[name + ".bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / deviation * self.t[name + ".weight"] + self.t[name + ".bias"]

    def embed(self, ids):
        positions = np.arange(len(ids)) + 2
        return (self.t["decoder.embed_tokens.weight"][ids]
                + self.t["decoder.embed_positions.weight"][positions])

    def attention(self, layer, x):
        heads = self.config["num_attention_heads"]
        q, k, v = (self.linear(f"{layer}.self_attn.{part}_proj", x)
                   .reshape(len(x), heads, -1).transpose(1, 0, 2) for part in "qkv")
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(f"{layer}.self_attn.out_proj",
                           (weights @ v).transpose(1, 0, 2).reshape(len(x), -1))

    def log_probabilities(self, ids):
        x = self.embed(ids)
        for i in range(self.config["num_hidden_layers"]):
            layer = f"decoder.layers.{i}"
            x = x + self.attention(layer, self.norm(f"{layer}.self_attn_layer_norm", x))
            h = self.norm(f"{layer}.final_layer_norm", x)
            x = x + self.linear(f"{layer}.fc2", np.maximum(self.linear(f"{layer}.fc1", h), 0))
        logits = (self.norm("decoder.final_layer_norm", x)
                  @ self.t["decoder.embed_tokens.weight"].T)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def perplexity(self, ids, windows):
        nll = []
        for w in range(windows):
            window = ids[w * WINDOW:(w + 1) * WINDOW]
            predicted = self.log_probabilities(window)
            nll.extend(-predicted[np.arange(WINDOW - 1), window[1:]])
        return np.exp(np.mean(nll))


def check_rounding(args, run, folder):
    ids = json.loads(run("tokenize", "-m", args.model, "--json", "-f", args.text))
    for bits in (2, 3, 4):
        model = Opt(args.model)
        for name, tensor in model.t.items():
            if ".layers." in name and tensor.ndim == 2:
                model.t[name] = round_matrix(tensor, bits)
        expected = model.perplexity(np.array(ids), args.windows)
        file = folder / f"rtn{bits}.gguf"
        run("quantize", "--quiet", "-m", args.model, "-o", file, "--bits", bits, "--group", GROUP,
            "--range", "minmax", "--min", "zero", "--embed-bits", 16, "--head-bits", 16)
        found = json.loads(run("eval", "--quiet", "--json", "-m", file, "--ppl", args.text,
                               "--window", WINDOW, "--windows", args.windows,
                               "--activations", "int8x2", "--kv", "f32"))["ppl"]
        off = found / expected - 1
        print(f"rtn {bits} bits g{GROUP}: NumPy {expected:.4f}, Tenfold {found:.4f} ({off:+.3%})")
        assert abs(off) < 2e-3


def splitmix64(state):
    mask = 2**64 - 1
    state = (state + 0x9e3779b97f4a7c15) & mask
    z = state
    z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & mask
    z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & mask
    return state, z ^ (z >> 31)


def draw(ids, bos, sequences, length):
    """The sequences of quantizer/calibration.h, seed 0, each beginning with BOS."""
    length -= 1
    order = list(range(len(ids) // length))
    state = 0
    drawn = []
    for i in range(sequences):
        state, z = splitmix64(state)
        j = i + z % (len(order) - i)
        order[i], order[j] = order[j], order[i]
        drawn.append([bos] + ids[order[i] * length:(order[i] + 1) * length])
    return drawn


def gptq(weights, hessian, bits):
    """Values [rows, cols]; grids are those of the weights as they are, strongest inputs first."""
    rows, cols = weights.shape
    scale, zero = grid(weights.reshape(rows, cols // GROUP, GROUP), bits)
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left = weights[:, order].copy()
    values = np.empty_like(weights)
    for j, column in enumerate(order):
        s, z = scale[:, column // GROUP, 0], zero[:, column // GROUP, 0]
        value = s * (rounded(left[:, j], s, z, bits) - z)
        values[:, column] = value
        error = (left[:, j] - value) / upper[j, j]
        left[:, j + 1:] -= np.outer(error, upper[j, j + 1:])
    return values


def check_gptq(args, run, folder):
    bits, damping, sequences, length = 3, 0.1, 32, 128
    file, exported = folder / "gptq.gguf", folder / "gptq"
    run("quantize", "--quiet", "-m", args.model, "-o", file, "--bits", bits, "--group", GROUP,
        "--range", "minmax", "--min", "zero", "--method", "gptq", "--damping", damping,
        "--calib", args.calib, "--calib-seqs", sequences, "--calib-len", length)
    run("export", "--quiet", "-m", file, "-o", exported, "--type", "f32")
    made = read_safetensors(exported / "model.safetensors")
    model = Opt(args.model)
    ids = json.loads(run("tokenize", "-m", args.model, "--json", "--no-special", "-f", args.calib))
    bos = model.config["bos_token_id"]
    if ids[0] == bos:
        ids = ids[1:]
    drawn = draw(ids, bos, sequences, length)[:sequences - sequences // 8]
    layer = "decoder.layers.0"
    x = np.concatenate([model.norm(f"{layer}.self_attn_layer_norm", model.embed(np.array(s)))
                        for s in drawn])
    hessian = x.T @ x / len(x)
    hessian += damping * np.diag(np.diag(hessian))
    for part in "qkv":
        name = f"{layer}.self_attn.{part}_proj.weight"
        expected = gptq(model.t[name], hessian, bits)
        same = np.isclose(made[name], expected, rtol=1e-5, atol=1e-7).mean()
        nearest = np.isclose(made[name], round_matrix(model.t[name], bits), rtol=1e-5,
                             atol=1e-7).mean()
        print(f"gptq {part}: {same:.3%} of the codes agree (rounding to nearest: {nearest:.1%})")
        assert same > 0.995


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--tenfold", "--model", "--text", "--calib"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--windows", type=int, default=100)
    args = parser.parse_args()

    def run(*command):
        return subprocess.run([str(args.tenfold), *map(str, command)], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    with tempfile.TemporaryDirectory() as folder:
        check_rounding(args, run, pathlib.Path(folder))
        check_gptq(args, run, pathlib.Path(folder))


if __name__ == "__main__":
    main()
