#!/usr/bin/env python3
"""Counts of the CUDA products that need no GPU, as docs/gpu.md has them (2 bits, g128, 4096 columns).

    cuda_counts.py --test build/ci/tests/cuda/test_cuda --fakegpu build/ci/fakegpu
    cuda_counts.py --sass --cuobjdump PATH    (of the PyPI package nvidia-cuda-cuobjdump, or CUDA's)

--test: what the interpreter counts in PTX, for what 128 rows add. --sass: instructions of the inner
loops as ptxas writes them, registers and spills.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS, COLS = 128, 4096
FILE_BYTES = ROWS * COLS // (16 * 256) * (1024 + 64 + 8)  # codes, scales and zero points
INTEGER = {"LOP3", "SHF", "IMAD", "IADD3", "LEA", "PRMT", "ISETP", "SEL", "MOV", "CS2R", "PLOP3", "P2R", "R2P",
           "IABS", "IMNMX", "VIADD", "VIMNMX"}
FLOAT = {"FADD", "FMUL", "FFMA", "HADD2", "I2F", "I2FP"}


def launches(test, fakegpu):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "profile.json")
        env = dict(os.environ, LD_LIBRARY_PATH=fakegpu, PTXSIM_PROF_JSON=out, PTXSIM_SMS="1")
        subprocess.run([test, "--gtest_filter=CudaPackedLinear.Profile", "--gtest_brief=1"], env=env,
                       check=True, stdout=subprocess.DEVNULL)
        with open(out) as lines:
            found = [json.loads(line) for line in lines]
    return [one for one in found if "packed_" in one["name"]]


def interpreter(test, fakegpu):
    print("| tokens | kernel | bytes fetched / bytes in the file | bank conflicts | int + FP a weight | all a weight |"
          " mma, share |")
    print("|---|---|---|---|---|---|---|")
    found = launches(test, fakegpu)
    for tokens, (one, two) in zip((1, 16, 64), zip(found[::2], found[1::2])):
        weights = ROWS * COLS / 32  # a warp's instruction is a weight's of each lane
        added = {
k: two[k] - one[k] for k in one if isinstance(one[k], (int, float)) and k in two}
        kinds = {
k: two["warp_instrs_by_class"][k] - one["warp_instrs_by_class"][k] for k in two["warp_instrs_by_class"]}
        alu = sum(kinds.get(k, 0) for k in ("int", "fp32", "half", "half2", "cvt", "dp4a"))
        name = "few" if "decode" in two["name"] else "many"
        sectors = added["global_load_sectors"] * 32 / FILE_BYTES
        print(f"| {tokens} | {name} | {sectors:.3f} | {added['shared_wavefronts_excess']} of {added['shared_wavefronts']} |"
              f" {alu / weights:.3f} | {added['warp_instrs'] / weights:.3f} |"
              f" {100 * kinds['mma'] / added['warp_instrs']:.1f} % |")


UNIT = """
#include "kernels/cuda/packed_decode.cuh"
#include "kernels/cuda/packed_gemm.cuh"
namespace tenfold::cuda {
#if TOKENS <= 16
  template __global__ void packed_decode<Q2, 128, 0, TOKENS>(BandProduct, DecodeShape);
#else
  template __global__ void packed_gemm<Q2, 128, 0>(BandProduct, GemmShape);
#endif
}
"""


def compile_unit(arch, tokens, folder):
    source, cubin = os.path.join(folder, "unit.cu"), os.path.join(folder, "unit.cubin")
    pathlib.Path(source).write_text(UNIT)
    log = subprocess.run(["nvcc", "-std=c++20", "-O3", f"-I{ROOT}", f"-DTOKENS={tokens}", f"-arch=sm_{arch}", "-cubin",
                          "-Xptxas=-v", source, "-o", cubin], check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", log).group(1)
    spills = re.search(r"(\d+) bytes spill stores", log).group(1)
    return cubin, registers, spills


def inner_loop(sass):
    """The instructions of the smallest loop that copies weights and multiplies, without what it skips when a row's activations
    stay in registers and no second plane counts: forward branches over loads from global memory."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", sass)]
    jumps = []
    for at, text in code:
        to = re.search(r"\bBRA.*?(0x[0-9a-f]+)", text)
        if to:
            jumps.append((at, int(to.group(1), 16)))
    loops = [(to, at) for at, to in jumps if to <= at]
    for what in ("IMMA", "LDGSTS"):
        loops = [l for l in loops if any(l[0] <= at <= l[1] and what in t for at, t in code)]
    begin, end = min(loops, key=lambda l: l[1] - l[0])
    skipped = set()
    for at, to in jumps:
        over = [(a, t) for a, t in code if at < a < to]
        if begin <= at < to <= end and any(re.search(r"\bLDG\b", t) for _, t in over) and not any(
                "IMMA" in t for _, t in over):
            skipped |= {a for a, _ in over}
    return [re.sub(r"^@!?U?P\w+ ", "", t).split()[0].split(".")[0] for a, t in code
            if begin <= a <= end and a not in skipped]


def machine_code(cuobjdump):
    print("| sm | tokens | registers | spilled bytes | loop | IMMA | int | FP | uniform | (int + FP) a weight |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    env = dict(os.environ, PATH=f"{pathlib.Path(cuobjdump).parent}:{os.environ['PATH']}")
    for arch in (80, 90):
        for tokens in (4, 8, 16, 64):
            with tempfile.TemporaryDirectory() as folder:
                cubin, registers, spills = compile_unit(arch, tokens, folder)
                sass = subprocess.run([cuobjdump, "-sass", cubin], check=True, capture_output=True, text=True,
                                      env=env).stdout
            loop = inner_loop(sass)
            kinds = collections.Counter(loop)
            integer = sum(n for k, n in kinds.items() if k in INTEGER)
            real = sum(n for k, n in kinds.items() if k in FLOAT)
            uniform = sum(n for k, n in kinds.items() if k.startswith("U"))
            print(f"| {arch} | {tokens} | {registers} | {spills} | {len(loop)} | {kinds['IMMA']} | {integer} | {real} |"
                  f" {uniform} | {(integer + real) / 128:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test")
    parser.add_argument("--fakegpu")
    parser.add_argument("--sass", action="store_true")
    parser.add_argument("--cuobjdump", default="cuobjdump")
    args = parser.parse_args()
    if args.test:
        interpreter(args.test, args.fakegpu or str(pathlib.Path(args.test).parent.parent.parent / "fakegpu"))
    if args.sass:
        machine_code(args.cuobjdump)


if __name__ == "__main__":
    main()
