#!/usr/bin/env python3
"""What an unstructured choice of 4-bit weights would gain, and what its mask costs: OPT in NumPy.

Squeeze10-LLM as the papers count it keeps single weights at 4 bits wherever they lie; Tenfold's
kernels keep whole input columns. Both are done here in the same few lines, GPTQ with rows as
groups in float64, so that only the choice differs. A reference for quality: no such file exists.

  bench/unstructured.py --tenfold build/release/tools/tenfold --shared ../shared
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tools"))
from check_quantizer import Opt, draw  # noqa: E402

DAMPING = 0.1
ALTERNATIONS = 15


def binarized(weights, kept):
    """mu +- a of each row's weights that are not kept: the two values of each row."""
    low = np.ma.masked_array(weights, kept)
    mean = low.mean(1, keepdims=True)
    deviation = np.abs(low - mean).mean(1, keepdims=True)
    return mean.filled(0), deviation.filled(0)


def scores(weights, hessian, feedback, kept, strength):
    """PBAR of every weight (quantizer/squeeze/salience.h)."""
    mean, deviation = binarized(weights, kept)
    error = (np.abs(weights - mean) - deviation) ** 2
    alone, whole = error * feedback, error * np.diag(hessian)
    return alone / alone.mean() + strength * whole / whole.mean()


def choose(matrices, hessian, feedback, share, structured, strength):
    """Which weights keep 4 bits, [rows, cols] of each matrix; three rounds, as the choice decides
    what is binarized. Structured: whole columns, the same for all matrices of the input."""
    kept = [np.zeros(m.shape, bool) for m in matrices]
    cols = matrices[0].shape[1]
    for _ in range(3):
        found = [scores(m, hessian, feedback, k, strength) for m, k in zip(matrices, kept)]
        if structured:
            by_column = sum(f.sum(0) for f in found)
            first = max(16, round(share * cols / 16) * 16)
            columns = np.argsort(-by_column, kind="stable")[:first]
            for k in kept:
                k[:] = False
                k[:, columns] = True
        else:
            for k, f in zip(kept, found):
                k[:] = f >= np.quantile(f, 1 - share)
    return kept


def column_factors(weights, kept):
    """What ARB-RC multiplies columns by, relative: |w - mu| of what is not kept as the product of a
    factor of the row and one of the column, by alternating least squares."""
    low = ~kept
    distance = np.abs(weights - binarized(weights, kept)[0]) * low
    factors = np.ones(weights.shape[1])
    for _ in range(ALTERNATIONS):
        rows = (distance * factors).sum(1) / (low * factors**2).sum(1)
        columns = rows @ distance / np.maximum(rows**2 @ low, 1e-12)
        factors = np.where(low.any(0), columns, 1)
        factors /= factors[low.any(0)].mean()
    return np.clip(factors, 0.1, 10)


def alternated(weights, kept, factors):
    """mu and a of each row that make c (mu +- a) nearest to its weights that are not kept, found in
    turn with the signs."""
    wanted, power = weights / factors, ~kept * factors**2
    total = power.sum(1, keepdims=True)
    mean = (power * wanted).sum(1, keepdims=True) / total
    for _ in range(ALTERNATIONS):
        signs = np.where(wanted >= mean, 1, -1)
        deviation = (power * signs * (wanted - mean)).sum(1, keepdims=True) / total
        mean = (power * (wanted - signs * deviation)).sum(1, keepdims=True) / total
    return mean, deviation


def gptq(weights, kept, upper, order, binarizer):
    """4 bits where kept, one elsewhere; rows are groups; columns in the order of their power."""
    factors = (column_factors(weights, kept) if binarizer == "both" else
               np.ones(weights.shape[1]))
    mean, deviation = (binarized(weights, kept) if binarizer == "first" else
                       alternated(weights, kept, factors))
    low, high = weights.min(1, keepdims=True), weights.max(1, keepdims=True)
    scale = np.maximum((high - low) / 15, 1e-12)
    left, values = weights[:, order].copy(), np.empty_like(weights)
    for j, column in enumerate(order):
        w = left[:, j]
        four = scale[:, 0] * np.clip(np.round((w - low[:, 0]) / scale[:, 0]), 0, 15) + low[:, 0]
        signs = np.where(w >= factors[column] * mean[:, 0], 1, -1)
        one = factors[column] * (mean[:, 0] + signs * deviation[:, 0])
        values[:, column] = np.where(kept[:, column], four, one)
        error = (w - values[:, column]) / upper[j, j]
        left[:, j + 1:] -= np.outer(error, upper[j, j + 1:])
    return values


def quantize(folder, sequences, share, structured, strength, binarizer):
    """A model whose layers are quantized one after the other, its share of kept weights, and its
    columns by weight: a bit each says which they are."""
    model = Opt(folder)
    streams = [model.embed(np.array(s)) for s in sequences]
    kept_weights = weights = columns = 0

    def make(names, inputs):
        nonlocal kept_weights, weights, columns
        x = np.concatenate(inputs)
        hessian = x.T @ x / len(x)
        damped = hessian + DAMPING * np.diag(np.maximum(np.diag(hessian), 1e-9))
        order = np.argsort(-np.diag(hessian), kind="stable")
        upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
        # From left to right, what of each input no later one has.
        feedback = 1 / np.diag(np.linalg.cholesky(np.linalg.inv(damped)).T) ** 2
        matrices = [model.t[name + ".weight"] for name in names]
        for name, kept in zip(names, choose(matrices, hessian, feedback, share, structured,
                                            strength)):
            model.t[name + ".weight"] = gptq(model.t[name + ".weight"], kept, upper, order,
                                              binarizer)
            kept_weights += kept.sum()
            weights += kept.size
            columns += kept.shape[1]

    for i in range(model.config["num_hidden_layers"]):
        layer = f"decoder.layers.{i}"
        normed = [model.norm(f"{layer}.self_attn_layer_norm", x) for x in streams]
        make([f"{layer}.self_attn.{p}_proj" for p in "qkv"], normed)
        seen = []
        linear = model.linear
        model.linear = lambda name, x: (seen.append(x) or linear(name, x)
                                        if name.endswith("out_proj") else linear(name, x))
        for x in normed:
            model.attention(layer, x)
        model.linear = linear
        make([f"{layer}.self_attn.out_proj"], seen)
        streams = [x + model.attention(layer, n) for x, n in zip(streams, normed)]
        normed = [model.norm(f"{layer}.final_layer_norm", x) for x in streams]
        make([f"{layer}.fc1"], normed)
        hidden = [np.maximum(model.linear(f"{layer}.fc1", x), 0) for x in normed]
        make([f"{layer}.fc2"], hidden)
        streams = [x + model.linear(f"{layer}.fc2", h) for x, h in zip(streams, hidden)]
    return model, kept_weights / weights, columns / weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenfold", required=True)
    parser.add_argument("--shared", required=True)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--sequences", type=int, default=28)
    parser.add_argument("--shares", type=float, nargs="+", default=(0.125, 0.2, 0.3))
    parser.add_argument("--skip", type=int, default=0, help="tokens of the calibration text")
    parser.add_argument("--binarizer", choices=("first", "rows", "both"), default="first",
                        help="mean and mean distance; refined in turn with signs (ARB); and with a "
                        "factor for each column (ARB-RC), whose bits are not counted")
    args = parser.parse_args()
    shared = pathlib.Path(args.shared)
    folder = shared / "models/opt-1m"

    def tokens(file, *flags):
        return json.loads(subprocess.check_output([args.tenfold, "tokenize", "-m", folder, "--json",
                                                   *flags, "-f", shared / "data" / file]))
    wiki = np.array(tokens("wikitext2/wiki.test.raw"))
    bos = Opt(folder).config["bos_token_id"]
    sequences = draw(tokens("calibration/c4.txt", "--no-special")[args.skip:], bos,
                     args.sequences, 256)
    print("| choice | kept | codes | mask | bits | WikiText-2 |\n|---|---|---|---|---|---|")
    for share in args.shares:
        for structured in (True, False):
            model, kept, by_column = quantize(folder, sequences, share, structured, 1.0,
                                              args.binarizer)
            codes = 1 + 3 * kept
            entropy = -kept * math.log2(kept) - (1 - kept) * math.log2(1 - kept)
            mask = by_column if structured else entropy
            name = "columns" if structured else "single weights"
            print(f"| {name} | {kept:.3f} | {codes:.3f} | {mask:.3f} | {codes + mask:.3f} | "
                  f"{model.perplexity(wiki, args.windows):.1f} |", flush=True)


if __name__ == "__main__":
    main()
