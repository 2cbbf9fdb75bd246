#!/usr/bin/env python3
"""Mixed layouts and divided bit budgets: perplexity against true bits over the layers' matrices.

Appends what it found to a results file; run again, it goes on where it stopped.

  bench/mixed_table.py --build build/release --shared ../shared --suite squeeze
  bench/mixed_table.py --build build/release --shared ../shared --suite budget --model smollm2
"""

import argparse
import json
import pathlib
import tempfile

from measured import Measured, cache_folder, in_parallel, model_of, on_device, run, texts

WEIGHTED = ["--range", "weighted"]
GPTQ = ["--passes", "gptq", *WEIGHTED]
TUNED = ["--passes", "gptq,tune", "--epochs", 3, *WEIGHTED]
CODES = ["--learn-codes", "all"]
AIMED = ["--fias", "target"]
TASKS = ("arc_easy", "piqa", "winogrande")
LAST_BITS = "the bits of the row before"


def squeeze(share: float, mix_bits: float, own_bits: float) -> dict:
    """Squeeze10-LLM's choices, and what has to be beaten at as many bits (issue 7, point 1)."""
    ones = [*GPTQ, "--bits", 1, "--group", "row", "--mixed", share]
    pbar = [*ones, "--salience", "pbar"]
    rows = {
        "1-bit g64 GPTQ, f16 minima": [*GPTQ, "--bits", 1, "--group", 64],
        "1-bit g64 GPTQ, midrise": [*GPTQ, "--bits", 1, "--group", 64, "--min", "midrise"],
        "1-bit g64 GPTQ, f16 minima, FIAS B": [*GPTQ, *AIMED, "--bits", 1, "--group", 64],
        "2-bit g128 RTN min-max": ["--bits", 2, "--group", 128, "--range", "minmax"],
        "layers of 1 or 2 bits, g128": [*GPTQ, "--group", 128, "--widths", "1,2",
                                        "--target-bits", mix_bits],
        "layers of 1 or 2 bits, g128, FIAS B": [*GPTQ, *AIMED, "--group", 128, "--widths", "1,2",
                                                "--target-bits", mix_bits],
        "by weight": ones,
        "by activation": [*ones, "--salience", "activation"],
    }
    for strength in (0, 0.5, 2):
        rows[f"PBAR, lambda {strength}"] = [*pbar, "--pbar-lambda", strength]
    rows["PBAR"] = pbar
    for name, how in (("A", "full"), ("B", "target"), ("C", "blend")):
        rows[f"PBAR, FIAS {name}"] = [*pbar, "--fias", how]
    rows["PBAR by trials, FIAS B"] = [*pbar, "--pbar-trials", *AIMED]
    rows["by weight, FIAS B"] = [*ones, *AIMED]
    rows["by activation, FIAS B"] = [*ones, "--salience", "activation", *AIMED]
    rows["PBAR, FIAS B, midrise"] = [*pbar, *AIMED, "--min", "midrise"]
    rows["PBAR, FIAS B, tuned"] = [*TUNED, *pbar[len(GPTQ):], *AIMED]
    rows["PBAR, FIAS B, tuned with codes"] = [*TUNED, *pbar[len(GPTQ):], *AIMED, *CODES]
    rows["the same, midrise"] = [*rows["PBAR, FIAS B, tuned with codes"], "--min", "midrise"]
    for name, passes in (("", GPTQ), (", tuned with codes", [*TUNED, *CODES])):
        rows[f"widths and shares of rows, FIAS B{name}"] = [*passes, *AIMED, "--group", "row",
                                                            "--target-bits", own_bits]
    return rows


def shares() -> dict:
    return {f"PBAR, FIAS B, {round(100 * share)} %":
            [*GPTQ, *AIMED, "--bits", 1, "--group", "row", "--mixed", share, "--salience", "pbar"]
            for share in (0.1, 0.2, 0.3)}


def budget(target: float, bits: int, group: int, wide: int) -> dict:
    """The same bits, divided in every way (issue 7, point 2)."""
    base = [*GPTQ, *AIMED]
    ratio = [*base, "--bits", bits, "--group", wide, "--allocate", "ratio", "--target-bits", target]
    return {
        f"{target}: {bits} bits g{group}": [*base, "--bits", bits, "--group", group],
        f"{target}: ratios, g{wide}": ratio,
        f"{target}: ratios, errors independent": [*ratio, "--no-cross"],
        f"{target}: ratios, by block outputs": [*ratio, "--sensitivity", "block"],
        f"{target}: ratios, by the last loss": [*ratio, "--sensitivity", "final"],
        f"{target}: whole widths, g{wide}": [*base, "--group", wide, "--widths", "1,2,3,4,8",
                                             "--target-bits", target],
        f"{target}: widths and shares, g{wide}": [*base, "--group", wide, "--target-bits", target],
    }


def ratios(share: float) -> dict:
    """The paper's ablation: high-impact columns at all, ratios divided at as many bits as a uniform
    one takes, and columns that learn."""
    rows = {}
    for bits in (2, 3):
        for name, passes in (("", GPTQ), (", tuned", TUNED),
                             (", high codes learned", [*TUNED, "--learn-codes", "high"]),
                             (", all codes learned", [*TUNED, *CODES])):
            base = [*passes, *AIMED, "--bits", bits, "--group", 128]
            if "high" not in name:
                rows[f"{bits} bits{name}"] = base
            rows[f"{bits} bits, {100 * share:.3g} % at {bits + 1}{name}"] = [
                *base, "--mixed", share, "--high-bits", bits + 1, "--salience", "activation"]
            rows[f"{bits} bits, shares at {bits + 1} divided{name}"] = [
                *base, "--allocate", "ratio", "--target-bits", LAST_BITS]
    return rows


def suite(name: str, smollm2: bool) -> dict:
    if name == "ratios":
        return ratios(0.1 if smollm2 else 0.125)
    if name == "squeeze":
        return squeeze(0.2, 1.73, 1.687) if smollm2 else squeeze(0.125, 1.77, 1.769)
    if name == "shares":
        return shares()
    return {**budget(2.28, 2, 64, 128), **budget(2.56, 2, 32, 128), **budget(3.30, 3, 64, 128)}


class Table:
    def __init__(self, args):
        self.args = args
        self.tenfold = pathlib.Path(args.build, "tools/tenfold")
        shared = pathlib.Path(args.shared)
        self.tests, self.calibration = texts(shared)
        self.task_files = shared / "data/tasks"
        self.smollm2 = args.model == "smollm2"
        self.source, self.windows = model_of(args, self.smollm2)
        self.calib = ["--calib", self.calibration, "--calib-seqs", args.calib_seqs, "--calib-len",
                      512 if self.smollm2 else 256]
        self.seed = ["--seed", args.seed] if args.seed else []
        self.measured = Measured(args.results)

    def where(self) -> list:
        threads = ["--threads", self.args.threads] if self.args.threads else []
        return [*threads, "--device", self.args.device]

    def evaluate(self, file: pathlib.Path, flags) -> dict:
        output, _, _ = run([self.tenfold, "eval", "--quiet", "--json", "--activations", "int8x2",
                            *self.where(), "-m", file, *flags])
        return json.loads(output)

    def make(self, flags) -> dict:
        looks = any(flag in flags for flag in ("--passes", "weighted"))
        with tempfile.TemporaryDirectory(dir=self.measured.path.parent) as folder:
            file = pathlib.Path(folder, "model.gguf")
            output, seconds, memory = run([self.tenfold, "quantize", "--quiet", "--json",
                                           *self.where(), "-m", self.source, "-o", file,
                                           *flags, *(self.calib if looks else [])])
            made = {"cpu_seconds": seconds, "memory": memory, "bytes": file.stat().st_size,
                    "allocation": json.loads(output.splitlines()[-1]).get("allocation")}
            output, _, _ = run([self.tenfold, "inspect", "--json", "--tensors", file])
            made["bits"] = layer_bits(json.loads(output)["tensor_list"])
            for text, path in self.tests.items():
                made[text] = self.evaluate(file, ["--ppl", path, *self.windows])["ppl"]
            for task in self.tasks():
                scores = self.evaluate(file, ["--task", self.task_files / f"{task}.jsonl", "--limit",
                                              self.args.limit])
                made[task] = scores["acc" if task == "winogrande" else "acc_norm"]
            return made

    def tasks(self) -> list:
        return [*TASKS] if self.smollm2 and self.args.tasks else []

    def row(self, flags) -> dict:
        flags = [*flags, *self.seed]
        tasks = [f"{task}:{self.args.limit}" for task in self.tasks()]
        key = " ".join(map(str, [self.args.model, *self.windows, *tasks, *self.calib[2:], *flags,
                                 *on_device(self.args)]))
        return self.measured.remember(key, lambda: self.make(flags))

    def print(self) -> None:
        tasks = self.tasks()
        columns = ["", "bits", "MiB", "WikiText-2", "C4", *tasks, "CPU s", "predicted", "measured"]
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
        rows = {name: flags for name, flags in suite(self.args.suite, self.smollm2).items()
                if not self.args.only or name in self.args.only}
        if self.args.jobs > 1:
            in_parallel(self.args.jobs, self.row,
                        [flags for flags in rows.values() if LAST_BITS not in flags])
        bits = 0.0
        for name, flags in rows.items():
            row = self.row([f"{bits + 5e-5:.4f}" if flag is LAST_BITS else flag for flag in flags])
            bits = row["bits"]
            divided = row["allocation"] or {}
            cells = [name, f"{row['bits']:.3f}", f"{row['bytes'] / 2**20:.1f}", f"{row['wiki']:.2f}",
                     f"{row['c4']:.2f}", *(f"{100 * row[task]:.1f}" for task in tasks),
                     f"{row['cpu_seconds']:.0f}",
                     *(f"{divided[key]:.3f}" if key in divided else ""
                       for key in ("predicted", "measured"))]
            print("| " + " | ".join(cells) + " |", flush=True)


def layer_bits(tensors) -> float:
    """Of the layers' matrices, scales, minima and maps included."""
    matrices = [t for t in tensors if t["name"].startswith("blk.") and len(t["shape"]) == 2]
    weights = sum(t["shape"][0] * t["shape"][1] for t in matrices)
    return 8 * sum(t["bytes"] for t in matrices) / weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--shared", required=True)
    parser.add_argument("--suite", required=True, choices=("squeeze", "shares", "budget", "ratios"))
    parser.add_argument("--model", default="opt-1m", help="opt-1m or smollm2")
    parser.add_argument("--smollm2", default=cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--calib-seqs", type=int, default=32)
    parser.add_argument("--windows", type=int, default=100, help="of SmolLM2")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of calibration text")
    parser.add_argument("--tasks", action="store_true", help="SmolLM2: also three tasks")
    parser.add_argument("--limit", type=int, default=500, help="items of a task")
    parser.add_argument("--only", type=lambda text: text.split(";"), help="rows, with ; between them")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="rows that are made at a time")
    parser.add_argument("--device", default="cpu", help="of trials and evaluations: cpu or cuda")
    parser.add_argument("--results", default=cache_folder() / "mixed.jsonl")
    Table(parser.parse_args()).print()


if __name__ == "__main__":
    main()
