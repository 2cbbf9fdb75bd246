#!/usr/bin/env python3
"""Runs Tenfold and llama.cpp in turns on the same model and prints medians and their ratios.

Each measurement is one run (after one to warm up) in a process of its own, as llama-bench works;
within a round the two programs follow each other, and every other round llama.cpp goes first.
compare_llama_cpp.sh builds what this needs and calls it.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from gguf_types import read_types

HEAD_BITS = {"Q4_0": 4, "Q6_K": 8, "Q8_0": 8, "F16": 16}  # ours that reads no less than the peer's


@dataclass
class Row:
    peer: str  # type as llama-quantize calls it
    bits: int  # of ours; 16: the F16 file itself
    group: int = 128  # and how tenfold quantize makes it
    options: tuple = ()


SYNTHETIC_ROWS = {
    "f16": Row("F16", 16), "q8": Row("Q8_0", 8), "q4": Row("Q4_0", 4), "q3": Row("Q3_K_S", 3),
    "q2": Row("Q2_K", 2), "q2_0": Row("Q2_0", 2), "tq2": Row("TQ2_0", 2), "tq1": Row("TQ1_0", 1),
    "q1": Row("Q1_0", 1), "mixed": Row("TQ1_0", 1, 128, ("--mixed", 0.2)),
}
SMOLLM2_ROWS = {"f16": Row("F16", 16), "q4_1": Row("Q4_1", 4, 32, ("--min", "f16"))}


def run(command, **options):
    command = [str(part) for part in command]
    return subprocess.run(command, text=True, capture_output=True, **options)


def output_of(command, **options) -> str:
    result = run(command, **options)
    if result.returncode != 0:
        sys.exit(f"compare.py: {' '.join(map(str, command))} failed:\n{result.stderr[-2000:]}")
    return result.stdout


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Models:
    """The files each row compares, made on demand in the cache folder."""

    def __init__(self, args):
        self.args = args
        self.tenfold = pathlib.Path(args.build, "tools/tenfold")
        self.llama_cpp = pathlib.Path(args.llama_cpp)
        cache = pathlib.Path(args.smollm2).parent
        self.shape, _, self.layers = args.model.partition(":")
        self.synthetic = args.model != "smollm2"
        self.rows = SYNTHETIC_ROWS if self.synthetic else SMOLLM2_ROWS
        self.source = pathlib.Path(args.smollm2)
        self.stem = cache / "SmolLM2-135M-Instruct"
        if self.synthetic:
            self.stem = cache / "synthetic" / f"{self.shape}-{self.layers or 'all'}"
        self.can_quantize = run([self.tenfold, "quantize", "--help"]).returncode == 0

    def beside(self, suffix: str) -> pathlib.Path:
        return self.stem.with_name(f"{self.stem.name}.{suffix}.gguf")

    def make(self, path: pathlib.Path, command) -> pathlib.Path:
        if not path.exists():
            note(f"Making {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            output_of([part if word == "OUT" else word for word in command])
            part.rename(path)
        return path

    def f16(self) -> pathlib.Path:
        path = self.beside("F16")
        if not self.synthetic:
            return self.make(path, [self.tenfold, "convert", "--quiet", "--force", "--type", "f16",
                                    "-m", self.source, "-o", "OUT"])
        layers = ["--layers", self.layers] if self.layers else []
        return self.make(path, [pathlib.Path(self.args.build, "bench/make_synthetic"), "--force",
                                "--shape", self.shape, *layers, "-o", "OUT"])

    def peer(self, row: Row) -> pathlib.Path:
        if row.peer == "F16":
            return self.f16()
        if not self.synthetic:
            return self.source
        head = self.args.head
        suffix = row.peer if head == "default" else f"{row.peer}.head-{head}"
        options = [] if head == "default" else ["--output-tensor-type", head.lower()]
        return self.make(self.beside(suffix), [self.llama_cpp / "llama-quantize", *options,
                                               self.f16(), "OUT", row.peer, self.args.threads])

    def ours(self, row: Row):
        """None where this build cannot make the row's width."""
        if row.bits == 16:
            return self.f16()
        if not self.can_quantize:
            return None if self.synthetic else self.source
        source = self.f16() if self.synthetic else self.source
        head = HEAD_BITS.get(read_types(self.peer(row)).head, 8)
        options = ["--bits", row.bits, "--group", self.args.group or row.group, *row.options,
                   "--head-bits", head]
        name = "".join(str(option).lstrip("-") for option in options)
        return self.make(self.beside(f"tenfold-{name}"),
                         [self.tenfold, "quantize", "--quiet", "--force", "-m", source,
                          "-o", "OUT", *options])


class Runner:
    def __init__(self, args, models: Models):
        self.args, self.models = args, models

    def bench(self, *options):
        isa = ["--isa", self.args.isa] if self.args.isa else []
        return json.loads(output_of([self.models.tenfold, "bench", "--quiet", "-b", 1, "-r", 1,
                                     "-o", "json", "--threads", self.args.threads, *isa, *options]))

    def tenfold(self, file, prompt: int, steps: int) -> dict:
        if prompt:
            result = self.bench("--no-limits", "-m", file, "-p", prompt, "-n", 0)
            return {"tok_s": result["prefill"][0]["tok_s"], "gop_s": result["prefill"][0]["gop_s"]}
        result = self.bench("-m", file, "-p", 0, "-n", steps)["decode"][0]
        return {key: result[key] for key in ("tok_s", "gb_s", "bandwidth_share")}

    def llama_cpp(self, file, prompt: int, steps: int) -> dict:
        command = [self.models.llama_cpp / "llama-bench", "-m", file, "-p", prompt, "-n", steps,
                   "-r", 1, "-o", "jsonl", "-t", self.args.threads, "-fa", self.args.fa]
        lines = output_of(command).splitlines()
        speed = max(json.loads(line)["avg_ts"] for line in lines)
        return {"tok_s": speed, "gb_s": read_types(file).step_bytes * speed * 1e-9}


def wait_until_calm(seconds: float) -> None:
    """Until other programs leave nine tenths of the processors idle, or the time is up."""
    def times():
        fields = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        idle, total = times()
        time.sleep(1)
        idle_now, total_now = times()
        if idle_now - idle > 0.9 * (total_now - total):
            return


def measure(args, models: Models, runner: Runner, results) -> None:
    tests = [(p, 0) for p in args.prompt] + [(0, n) for n in args.steps if n > 0]
    files = {name: (models.ours(models.rows[name]), models.peer(models.rows[name]))
             for name in args.only}
    for round_number in range(args.rounds):
        for name, (ours, theirs) in files.items():
            for prompt, steps in tests:
                sides = [("tenfold", runner.tenfold, ours), ("llama.cpp", runner.llama_cpp, theirs)]
                if round_number % 2 == 1:
                    sides.reverse()
                for side, speed, file in sides:
                    if file is None:
                        continue
                    wait_until_calm(args.calm)
                    test = f"prefill {prompt}" if prompt else f"decode {steps}"
                    results.append({"row": name, "test": test, "side": side, "file": str(file),
                                    "isa": args.isa or "best", **speed(file, prompt, steps)})
        note(f"round {round_number + 1} of {args.rounds}")


def spread(values) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.1f} ({min(values):.1f} ... {max(values):.1f})"


def median_of(results, side: str, key: str, scale: float = 1, digits: int = 1) -> str:
    values = [r[key] for r in results if r["side"] == side and r.get(key) is not None]
    return f"{scale * statistics.median(values):.{digits}f}" if values else ""


def table_line(name: str, test: str, of) -> str:
    ours = [r["tok_s"] for r in of if r["side"] == "tenfold"]
    theirs = [r["tok_s"] for r in of if r["side"] == "llama.cpp"]
    types = read_types(next(r["file"] for r in of if r["side"] == "llama.cpp"))
    ratio = pairs = ""
    if ours:
        ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}"
        quotients = sorted(a / b for a, b in zip(ours, theirs))
        pairs = f"{quotients[0]:.2f} ... {quotients[-1]:.2f}"
    cells = [name, f"{types.body_text()}, {types.head}", test, spread(ours), spread(theirs), ratio,
             pairs]
    if test.startswith("decode"):
        cells += [median_of(of, "tenfold", "gb_s"),
                  median_of(of, "tenfold", "bandwidth_share", 100, 0),
                  median_of(of, "llama.cpp", "gb_s"), ""]
    else:
        cells += ["", "", "", median_of(of, "tenfold", "gop_s", digits=0)]
    return "| " + " | ".join(cells) + " |"


def table(results, row_names) -> str:
    head = ["row", "llama.cpp: layers, head", "test", "Tenfold tok/s", "llama.cpp tok/s",
            "ratio of medians", "pairwise ratios", "Tenfold GB/s", "% of read bandwidth",
            "llama.cpp GB/s", "Tenfold Gop/s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in row_names:
        for test in dict.fromkeys(r["test"] for r in results if r["row"] == name):
            lines.append(table_line(name, test, [r for r in results
                                                 if r["row"] == name and r["test"] == test]))
    return "\n".join(lines)


def describe_machine(models: Models, runner: Runner) -> str:
    """Processor, llama.cpp's system info, and Tenfold's measured limits."""
    info = run([models.llama_cpp / "llama-perplexity", "-m", models.source, "-f", "/dev/null",
                "-t", runner.args.threads])
    system = next((line[line.index("system_info"):] for line in info.stderr.splitlines()
                   if "system_info" in line), "system_info: not printed")
    limits = runner.bench("-m", models.source, "-p", 1, "-n", 1)
    processor = output_of([models.tenfold, "devices"]).splitlines()[0]
    return (f"{processor}; load average {os.getloadavg()[0]:.1f}\n"
            f"llama.cpp {models.llama_cpp.parent.name} build, {system}\n"
            f"Tenfold {limits['isa']}, {limits['threads']} threads: read "
            f"{limits['read_bandwidth_gb_s']:.1f} GB/s, peak {limits['peak_gop_s']:.0f} Gop/s\n")


def compare_perplexity(args, models: Models) -> None:
    text = pathlib.Path("../shared/data/wikitext2/wiki.test.raw")
    if not text.exists():
        sys.exit(f"compare.py: {text} is missing: no perplexity")
    for weights in (models.source, models.f16()):
        ours = json.loads(output_of([models.tenfold, "eval", "--quiet", "-m", weights, "--json",
                                     "--ppl", text, "--window", 512, "--score", "half",
                                     "--windows", 40, "--threads", args.threads]))["ppl"]
        log = run([models.llama_cpp / "llama-perplexity", "-m", weights, "-f", text, "-c", 512,
                   "--chunks", 40, "-t", args.threads], check=True)
        theirs = (log.stdout + log.stderr).split("Final estimate: PPL = ")[1].split()[0]
        print(f"{weights.name}: Tenfold {ours:.4f}, llama.cpp {theirs}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="compare_llama_cpp.sh",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = lambda text: text.split(",")
    numbers = lambda text: [int(part) for part in text.split(",") if part]
    add("--model", default="smollm2",
        help="smollm2, or a shape of make_synthetic: llama2-7b:8 has 8 layers")
    add("--only", type=names, help=f"rows, of {', '.join(SYNTHETIC_ROWS)}; smollm2 has "
        f"{', '.join(SMOLLM2_ROWS)} (default f16)")
    add("--rounds", type=int, default=7)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--prompt", type=numbers, default=[512], help="prefill lengths, as 512,256; '': none")
    add("--steps", type=numbers, default=[128], help="decode steps; '': none")
    add("--isa", choices=["avx2"], help="for Tenfold; llama.cpp is a build without AVX-512")
    add("--group", help="of Tenfold's packed weights, instead of the row's")
    add("--head", default="default", choices=["default", "Q4_0", "Q8_0", "F16"],
        help="type of llama.cpp's output matrix; Tenfold's is at least as wide")
    add("--fa", default="auto",
        help="llama.cpp's flash attention: on, off, auto; on,off takes the faster")
    add("--calm", type=float, default=0, metavar="S",
        help="wait up to S seconds for an idle machine before each run")
    add("--results", metavar="FILE", help="JSON lines to add to; the table is of all in there")
    add("--ppl", action="store_true", help="SmolLM2's perplexity on WikiText-2 too")
    add("--build", default="build/release", help="Tenfold's build folder; default: built first")
    add("--llama-cpp", required=True, help=argparse.SUPPRESS)
    add("--smollm2", required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


class Results(list):
    """What was measured, kept in a file where one is named."""

    def __init__(self, path):
        self.path = path
        old = pathlib.Path(path).read_text().splitlines() if path and os.path.exists(path) else []
        super().__init__(json.loads(line) for line in old)

    def append(self, result):
        super().append(result)
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(result) + "\n")


def main() -> None:
    args = parse_arguments()
    models = Models(args)
    args.only = args.only or (["f16"] if args.model == "smollm2" else list(models.rows))
    unknown = [name for name in args.only if name not in models.rows]
    if unknown:
        sys.exit(f"compare.py: unknown row {unknown[0]}; {args.model} has {', '.join(models.rows)}")
    results = Results(args.results)
    runner = Runner(args, models)
    print(describe_machine(models, runner))
    measure(args, models, runner, results)
    print(table(results, list(dict.fromkeys(r["row"] for r in results))))
    if args.ppl:
        compare_perplexity(args, models)


if __name__ == "__main__":
    main()
