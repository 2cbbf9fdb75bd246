#!/usr/bin/env python3
"""Quality of quantized models: true bits, perplexity, accuracy, time and memory of every method.

Makes each model, measures it and appends what it found to a results file; run again, it goes on
where it stopped. Prints a table.

  bench/quality_table.py --build build/release --shared ../shared --model smollm2
  bench/quality_table.py --build build/release --shared ../shared --model opt-1m --only 2g128
  bench/quality_table.py --build build/release --shared ../shared --ranges --windows 20
"""

import argparse
import json
import pathlib
import tempfile

from measured import Measured, cache_folder, model_of, run, texts

WIDTHS = {"1g64": (1, 64), "2g64": (2, 64), "2g128": (2, 128), "3g128": (3, 128), "4g128": (4, 128)}
METHODS = {
    "RTN minmax": ["--range", "minmax"],
    "RTN mse": ["--range", "mse"],
    "RTN weighted": ["--range", "weighted"],
    "AWQ": ["--method", "awq", "--range", "weighted"],
    "OmniQuant": ["--method", "omniquant", "--range", "weighted"],
    "GPTQ": ["--method", "gptq", "--range", "weighted"],
    "AWQ + GPTQ": ["--passes", "awq,gptq", "--range", "weighted"],
    "GPTQ + tune": ["--passes", "gptq,tune", "--range", "weighted", "--epochs", 3],
    "GPTQ aimed + tune + codes": ["--passes", "gptq,tune", "--range", "weighted", "--epochs", 3,
                                  "--fias", "target", "--learn-codes", "all"],
    "OmniQuant + GPTQ + tune": ["--passes", "omniquant,gptq,tune", "--range", "weighted",
                                "--epochs", 3],
}
CALIBRATED = ("--method", "--passes", "weighted")
MIN_KINDS = ("zero", "midrise", "f16")
TASKS = ("arc_easy", "arc_challenge", "piqa", "winogrande")


class Table:
    def __init__(self, args):
        self.args = args
        self.tenfold = pathlib.Path(args.build, "tools/tenfold")
        shared = pathlib.Path(args.shared)
        self.tests, self.calibration = texts(shared)
        self.tasks = shared / "data/tasks"
        smollm2 = args.model == "smollm2"
        self.source, self.windows = model_of(args, smollm2)
        self.has_tasks = smollm2 and args.limit > 0
        self.measured = Measured(args.results)

    def quantized(self, flags, measure) -> dict:
        """What was made with these flags, and what measure(file) finds of it."""
        with tempfile.TemporaryDirectory(dir=self.measured.path.parent) as folder:
            file = pathlib.Path(folder, "model.gguf")
            output, seconds, memory = run([self.tenfold, "quantize", "--quiet", "--json", "-m",
                                           self.source, "-o", file, *flags])
            made = json.loads(output.splitlines()[-1])
            return {"bits": made["bits_per_weight_quantized"], "cpu_seconds": seconds,
                    "memory": memory, "bytes": file.stat().st_size, **measure(file)}

    def perplexity(self, file: pathlib.Path, text: str) -> dict:
        output, _, _ = run([self.tenfold, "eval", *self.eval_options(file), "--ppl",
                            self.tests[text], *self.windows])
        found = json.loads(output)
        return {text: found["ppl"], "bits_all": found["bits_per_weight"]}

    def eval_options(self, file: pathlib.Path) -> list:
        return ["--quiet", "--json", "--activations", self.args.activations, "-m", file]

    def evaluate(self, file: pathlib.Path) -> dict:
        result = {}
        for text in self.tests:
            result |= self.perplexity(file, text)
        for task in TASKS if self.has_tasks else ():
            output, _, _ = run([self.tenfold, "eval", *self.eval_options(file), "--task",
                                self.tasks / f"{task}.jsonl", "--limit", self.args.limit])
            scores = json.loads(output)
            result[task] = scores["acc" if task == "winogrande" else "acc_norm"]
        return result

    def row(self, width: str, method: str) -> dict:
        bits, group = WIDTHS[width]
        flags = [*METHODS[method], "--bits", bits, "--group", group, *self.args.extra.split()]
        if any(part in CALIBRATED for part in flags):
            flags += ["--calib", self.calibration, "--calib-seqs", self.args.calib_seqs,
                      "--calib-len", self.args.calib_len]

        words = [flag.name if isinstance(flag, pathlib.Path) else str(flag) for flag in flags]
        key = " ".join([self.args.model, self.args.activations, *map(str, self.windows),
                        str(self.args.limit), *words])
        return self.measured.remember(key, lambda: self.quantized(flags, self.evaluate))

    def range_row(self, bits: int, group: str, kind: str, span: str) -> dict:
        flags = ["--bits", bits, "--group", group, "--min", kind, "--range", span]
        key = " ".join(map(str, [self.args.model, self.args.activations, *self.windows, *flags]))
        return self.measured.remember(
            key, lambda: self.quantized(flags, lambda file: self.perplexity(file, "wiki")))

    def print_ranges(self) -> None:
        """Rounding to nearest: width x group x range x min, bits over the quantized matrices."""
        columns = [f"{kind}, {span}" for kind in MIN_KINDS for span in ("minmax", "mse")]
        print("| width, group | " + " | ".join(columns) + " |")
        print("|" + "---|" * (len(columns) + 1))
        for bits in (1, 2, 3, 4, 8):
            for group in ("32", "128", "row"):
                cells = []
                for kind in MIN_KINDS:
                    for span in ("minmax", "mse"):
                        row = self.range_row(bits, group, kind, span)
                        cells.append(f"{row['wiki']:.4g} ({row['bits']:.2f})")
                print(f"| {bits}, {group} | " + " | ".join(cells) + " |", flush=True)

    def print(self) -> None:
        tasks = [*TASKS] if self.has_tasks else []
        columns = ["width", "method", "bits", "MiB", "wiki", "c4", *tasks, "CPU s", "MiB of memory"]
        print("| " + " | ".join(columns) + " |")
        print("|" + "---|" * len(columns))
        full = self.measured.remember(f"{self.args.model} source {self.windows} {self.args.limit}",
                                      lambda: self.evaluate(self.source))
        self.print_row("", "source", full, tasks)
        for width in self.args.only or WIDTHS:
            for method in self.args.methods or METHODS:
                self.print_row(width, method, self.row(width, method), tasks)

    @staticmethod
    def print_row(width: str, method: str, row: dict, tasks) -> None:
        made = "bits" in row
        cells = [width, method, f"{row['bits']:.3f}" if made else f"{row['bits_all']:.2f}",
                 f"{row['bytes'] / 2**20:.1f}" if made else "",
                 f"{row['wiki']:.2f}", f"{row['c4']:.2f}",
                 *(f"{100 * row[task]:.1f}" for task in tasks),
                 f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "",
                 f"{row['memory'] / 2**20:.0f}" if made else ""]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument

    def names(text):
        return text.split(",")

    add("--build", default="build/release", help="folder of the build")
    add("--shared", default="../shared", help="where models, texts and tasks lie")
    add("--model", default="smollm2", help="smollm2, or a folder of SHARED/models")
    add("--smollm2", default=cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    add("--only", type=names, help=f"widths, of {','.join(WIDTHS)}")
    add("--methods", type=names, help=f"of {', '.join(METHODS)}")
    add("--windows", type=int, default=0, help="of perplexity; default: 100, opt-1m all")
    add("--limit", type=int, default=500, help="items of a task; 0: no tasks")
    add("--calib-seqs", type=int, default=128)
    add("--calib-len", type=int, default=512)
    add("--activations", default="int8x2")
    add("--extra", default="", help="more flags for quantize")
    add("--results", default=cache_folder() / "quality.jsonl", help="what was measured so far")
    add("--ranges", action="store_true", help="rounding to nearest in every range and min kind")
    args = parser.parse_args()
    table = Table(args)
    table.print_ranges() if args.ranges else table.print()


if __name__ == "__main__":
    main()
