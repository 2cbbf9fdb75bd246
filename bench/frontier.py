#!/usr/bin/env python3
"""File size against perplexity on SmolLM2: our recipes and llama.cpp's types, side by side.

Makes every file, measures it, appends what it found to a results file (run again, it goes on where
it stopped), prints a table and writes a report. llama.cpp's files get an importance matrix of as
many tokens of the same calibration text; needs llama.cpp from build_llama_cpp.sh.

  bench/frontier.py --build build/release --shared ../shared -o frontier.html
  bench/frontier.py --build build/release --shared ../shared -o frontier.html --sides llama.cpp
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from measured import Measured, cache_folder


def rule(matrices: str, bits: int, layers=None) -> dict:
    made = {"matrices": matrices.split(","), "bits": bits}
    return made | ({"layers": layers} if layers else {})


# Name: flags, rules. All by GPTQ; groups of 64: rows of 576 columns are nine of them.
RECIPES = {
    "4 bits g32": (["--bits", 4, "--group", 32, "--embed-bits", 4], []),
    "4 bits": (["--bits", 4, "--embed-bits", 4], []),
    "4 bits, 11 gates 3": (["--bits", 4, "--embed-bits", 4], [rule("gate", 3, [8, 18])]),
    "3 bits, down, v and 20 ups 4": (["--bits", 3, "--embed-bits", 4],
                                     [rule("down,v", 4), rule("up", 4, [0, 19])]),
    "3 bits": (["--bits", 3, "--embed-bits", 4], []),
    "3 bits, 12 gates 2": (["--bits", 3, "--embed-bits", 4], [rule("gate", 2, [9, 20])]),
    "2 bits, down, up and v 3": (["--bits", 2, "--embed-bits", 3], [rule("down,up,v", 3)]),
    "2 bits, v and 23 downs 3": (["--bits", 2, "--embed-bits", 3],
                                 [rule("down,v", 3), rule("down", 2, [12, 18])]),
}
# Name: type, flags. The default embedding of most types is Q8_0 or Q6_K: 29 MiB of this model.
PEERS = {
    "Q4_0": ("Q4_0", []),
    "Q4_K_M": ("Q4_K_M", []),
    "Q2_K": ("Q2_K", []),
    "Q2_K_S": ("Q2_K_S", []),
    "IQ2_S": ("IQ2_S", []),
    "IQ2_XXS": ("IQ2_XXS", []),
    "IQ1_S": ("IQ1_S", []),
    "IQ4_NL, embedding q4_1": ("IQ4_NL", ["--token-embedding-type", "q4_1"]),
    "IQ4_NL, embedding iq4_nl": ("IQ4_NL", ["--token-embedding-type", "iq4_nl"]),
    "Q4_0, embedding q4_0": ("Q4_0", ["--token-embedding-type", "q4_0"]),
    "Q2_K, embedding iq4_nl": ("Q2_K", ["--token-embedding-type", "iq4_nl"]),
    "IQ4_NL, down iq3_s, embedding iq4_nl":
        ("IQ4_NL", ["--token-embedding-type", "iq4_nl", "--tensor-type", "ffn_down=iq3_s"]),
    "IQ4_NL, down q2_K, embedding iq4_nl":
        ("IQ4_NL", ["--token-embedding-type", "iq4_nl", "--tensor-type", "ffn_down=q2_K"]),
    "IQ2_XXS, embedding iq4_nl": ("IQ2_XXS", ["--token-embedding-type", "iq4_nl"]),
    "IQ4_NL, gate q2_0, embedding iq4_nl":
        ("IQ4_NL", ["--token-embedding-type", "iq4_nl", "--tensor-type", "ffn_gate=q2_0"]),
    "Q2_0, embedding iq4_nl": ("Q2_0", ["--token-embedding-type", "iq4_nl"]),
}


def run(command, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE,
                          **options)
    if done.returncode != 0:
        sys.exit(f"frontier.py: failed: {' '.join(map(str, command))}\n{done.stdout}")
    return done


class Frontier:
    def __init__(self, args):
        self.args = args
        shared = pathlib.Path(args.shared)
        self.text = shared / "data/wikitext2/wiki.test.raw"
        self.calibration = shared / "data/calibration/c4.txt"
        self.tenfold = pathlib.Path(args.build, "tools/tenfold")
        self.llama = pathlib.Path(args.llama_cpp)
        self.folder = pathlib.Path(args.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.measured = Measured(self.folder / "runs.jsonl")
        source = pathlib.Path(args.source).stem
        self.protocol = f"{source} {args.windows} windows {args.calib_seqs} sequences"
        self.floats_file = self.folder / f"{source}-f16.gguf"
        self.importance_file = self.folder / f"{source}-imatrix-{args.calib_seqs}.gguf"

    def file_of(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.gguf"

    def ours(self, name: str) -> dict:
        flags, rules = RECIPES[name]
        group = [] if "--group" in flags else ["--group", 64]
        words = ["--method", "gptq", *flags, *group, "--calib-seqs", self.args.calib_seqs]
        key = " ".join(["tenfold", self.protocol, self.args.activations, name, *map(str, words),
                        json.dumps(rules)])

        def make() -> dict:
            file = self.file_of(name)
            with tempfile.NamedTemporaryFile("w", suffix=".json") as recipe:
                json.dump({"rules": rules}, recipe)
                recipe.flush()
                made = run([self.tenfold, "quantize", "--quiet", "--json", "--force", "-m",
                            self.args.source, "-o", file, "--recipe", recipe.name, "--calib",
                            self.calibration, *words])
            made = json.loads(made.stdout.splitlines()[-1])
            found = json.loads(run([self.tenfold, "eval", "--quiet", "--json", "--activations",
                                    self.args.activations, "-m", file, "--ppl", self.text,
                                    "--window", 512, "--score", "half",
                                    "--windows", self.args.windows]).stdout)
            return {**found, "model": name, "series": "tenfold", "seconds": made["seconds"],
                    "peak_rss_bytes": made["peak_rss_bytes"]}

        return self.measured.remember(key, make)

    def floats(self) -> pathlib.Path:
        """The source as F16, which llama-quantize reads."""
        file = self.floats_file
        if not file.exists():
            run([self.tenfold, "convert", "--quiet", "-m", self.args.source, "-o", file,
                 "--type", "f16"])
        return file

    def importance(self) -> pathlib.Path:
        file = self.importance_file
        if not file.exists():
            part = file.with_suffix(".part.gguf")
            run([self.llama / "llama-imatrix", "-m", self.floats(), "-f", self.calibration, "-o",
                 part, "-c", 512, "--chunks", self.args.calib_seqs, "-t", os.cpu_count()],
                stderr=subprocess.STDOUT)
            part.rename(file)
        return file

    def theirs(self, name: str) -> dict:
        kind, flags = PEERS[name]

        def make() -> dict:
            file = self.file_of(f"llama.cpp {name}")
            start = time.monotonic()
            said = run([self.llama / "llama-quantize", "--imatrix", self.importance(), *flags,
                        self.floats(), file, kind], stderr=subprocess.STDOUT).stdout
            seconds = time.monotonic() - start
            bits = re.search(r"quant size *=.*\(([0-9.]+) BPW\)", said)
            said = run([self.llama / "llama-perplexity", "-m", file, "-f", self.text, "-c", 512,
                        "--chunks", self.args.windows, "-t", os.cpu_count()],
                       stderr=subprocess.STDOUT).stdout
            found = re.search(r"Final estimate: PPL = ([0-9.]+)", said)
            size = file.stat().st_size
            file.unlink()
            return {"model": f"llama.cpp {name}", "series": "llama.cpp", "seconds": seconds,
                    "ppl": float(found[1]), "bits_per_weight": float(bits[1]), "file_bytes": size}

        return self.measured.remember(
            " ".join(["llama.cpp", self.protocol, name, kind, *flags]), make)

    def print(self) -> None:
        rows = []
        if "tenfold" in self.args.sides:
            rows += [self.ours(name) for name in RECIPES]
        if "llama.cpp" in self.args.sides:
            rows += [self.theirs(name) for name in PEERS]
        rows.sort(key=lambda row: row["file_bytes"])
        print("| MiB | bits | perplexity | model |\n|---|---|---|---|")
        for row in rows:
            best = all(row["ppl"] <= other["ppl"] for other in rows
                       if other["file_bytes"] <= row["file_bytes"])
            print(f"| {row['file_bytes'] / 2**20:.1f} | {row['bits_per_weight']:.2f} | "
                  f"{row['ppl']:.2f}{' *' if best else ''} | {row['model']} |")
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as runs:
            models = []
            for row in rows:
                if row["series"] == "tenfold":  # a model is found by its path
                    models.append(self.file_of(row["model"]))
                    row = {**row, "model": str(models[-1])}
                runs.write(json.dumps(row) + "\n")
            runs.flush()
            if self.args.output and models:
                run([self.tenfold, "report", "--quiet", "--force", *models, "-o",
                     self.args.output, "--runs", runs.name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default="build/release", help="folder of the build")
    add("--shared", default="../shared", help="where texts lie")
    add("--source", default=cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    built = sorted(cache_folder().glob("llama.cpp-*/native/bin"))  # by build_llama_cpp.sh
    add("--llama-cpp", default=built[-1] if built else cache_folder() / "llama.cpp",
        help="folder of its programs")
    add("--folder", default=cache_folder() / "frontier",
        help="of the files made, and what was measured")
    add("--sides", default="tenfold,llama.cpp", type=lambda text: text.split(","))
    add("--calib-seqs", type=int, default=32, help="sequences of 512 tokens, for both sides")
    add("--windows", type=int, default=40)
    add("--activations", default="int8x2")
    add("-o", "--output", help="the report")
    Frontier(parser.parse_args()).print()


if __name__ == "__main__":
    main()
