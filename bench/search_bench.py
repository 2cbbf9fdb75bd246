#!/usr/bin/env python3
"""How fast InvarExplore gets where the naive search ends: on opt-1m, 2 bits in groups of 128.

The naive search is the released code's: random moves of a tenth of an FFN's channels, all
sequences run for each. Its loss after --steps steps, the median over the seeds, is the target.
Ours is run with its defaults, but for the same target; what counts is when its loss first is as
low. A naive step is counted as a whole forward pass, though even the naive search here starts at
the changed layer, so that the ratio of seconds is less than that to a search without that cache.

  bench/search_bench.py --build build/release --shared ../shared
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TEXT = ["--target", "text", "--patience", 0]  # so that losses compare
NAIVE = [*TEXT, "--together", 1, "--ranked", 0, "--local", 0, "--early", 0, "--couplings", "ffn"]


class Bench:
    def __init__(self, args):
        self.args = args
        self.tenfold = pathlib.Path(args.build, "tools/tenfold")
        self.shared = pathlib.Path(args.shared)

    def run(self, words) -> str:
        done = subprocess.run([str(self.tenfold), *map(str, words)], text=True,
                              stdout=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit(f"search_bench.py: failed: {' '.join(map(str, words))}")
        return done.stdout

    def search(self, seed: int, steps: int, flags) -> dict:
        """What the file says of its search, and the seconds it took."""
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder, "model.gguf")
            start = time.monotonic()
            self.run(["quantize", "--quiet", "-m", self.shared / "models/opt-1m", "-o", model,
                      "--bits", 2, "--group", 128, "--range", "minmax", "--calib",
                      self.shared / "data/calibration/c4.txt", "--calib-seqs", self.args.calib_seqs,
                      "--calib-len", 256, "--seed", seed, "--search", "invarexplore",
                      "--steps", steps, *flags])
            seconds = time.monotonic() - start
            found = json.loads(self.run(["inspect", "--json", "-m", model]))
        return {**found["search"], "layers": found["layers"], "seconds": seconds}

    def print_rates(self, name: str, found: dict) -> None:
        rate = {key: found[key] / found["seconds"] for key in ("proposals", "confirmed", "accepted")}
        print(f"| {name} | {found['steps']} | {found['loss']:.4f} | {found['held_out']:.4f} | "
              f"{found['seconds']:.0f} | {rate['proposals']:.0f} | {rate['confirmed']:.1f} | "
              f"{rate['accepted']:.2f} | {found['layer_forwards']} |", flush=True)

    def print(self) -> None:
        print("| search | steps | loss | held out | s | proposals/s | evaluations/s | accepted/s | "
              "layer forwards |\n|---|---|---|---|---|---|---|---|---|")
        seeds = range(self.args.seeds)
        naive = [self.search(seed, self.args.steps, NAIVE) for seed in seeds]
        for seed, found in zip(seeds, naive):
            self.print_rates(f"naive, seed {seed}", found)
        target = statistics.median(found["loss"] for found in naive)
        sequences = self.args.calib_seqs - max(1, self.args.calib_seqs // 8)
        whole = self.args.steps * naive[0]["layers"] * sequences
        seconds = statistics.median(found["seconds"] for found in naive)
        ratios = []
        for seed in seeds:
            found = self.search(seed, self.args.our_steps, TEXT)
            self.print_rates(f"ours, seed {seed}", found)
            there = next((s for s in found["history"] if s["loss"] <= target), None)
            if there is None:
                print(f"Seed {seed} does not get to {target:.4f}.")
                continue
            # As if steps took the same time; the search is timed to its end, start included.
            took = found["seconds"] * (there["step"] + 1) / found["steps"]
            ratios.append((there["step"] + 1, whole / there["layer_forwards"], seconds / took))
        print()
        for steps, forwards, time_ratio in ratios:
            print(f"- As low as {target:.4f} after {steps} steps: {forwards:.0f} x fewer layer "
                  f"forwards, {time_ratio:.1f} x less time.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default="build/release", help="folder of the build")
    add("--shared", default="../shared", help="where models and texts lie")
    add("--steps", type=int, default=2000, help="of the naive search")
    add("--our-steps", type=int, default=20)
    add("--seeds", type=int, default=3)
    add("--calib-seqs", type=int, default=32)
    Bench(parser.parse_args()).print()


if __name__ == "__main__":
    main()
