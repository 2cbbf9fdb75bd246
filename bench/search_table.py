#!/usr/bin/env python3
"""What InvarExplore adds to each start: perplexity before and after, over several seeds.

A seed draws the calibration text and decides the search; the start is made from the same text. The
losses of both models are compared window by window: p is the share of 10,000 resamples of the
windows in which the searched model, averaged over the seeds, is no better.

Appends what it found to a results file; run again, it goes on where it stopped.

  bench/search_table.py --build build/release --shared ../shared --suite starts
"""

import argparse
import json
import math
import pathlib
import random
import statistics
import tempfile

from measured import Measured, cache_folder, in_parallel, model_of, on_device, run, texts

WEIGHTED = ["--range", "weighted"]
MINMAX = ["--range", "minmax"]
STARTS = {
    "RTN min-max": MINMAX,
    "RTN best range": WEIGHTED,
    "AWQ": ["--method", "awq", *WEIGHTED],
    "OmniQuant": ["--method", "omniquant", *WEIGHTED],
    "GPTQ": ["--method", "gptq", *WEIGHTED],
    "GPTQ + tune + codes": ["--passes", "gptq,tune", *WEIGHTED, "--epochs", "3", "--learn-codes",
                            "all"],
    "GPTQ aimed + tune + codes": ["--passes", "gptq,tune", "--fias", "target", *WEIGHTED,
                                  "--epochs", "3", "--learn-codes", "all"],
}
G128 = ["--bits", "2", "--group", "128"]
ONE = ["--together", "1", "--ranked", "0", "--patience", "0"]  # change a step
SINGLE = [*ONE, "--local", "256"]
PARTS = [*SINGLE, "--target", "text"]
PAPER = [*ONE, "--target", "text", "--couplings", "ffn", "--local", "0", "--early", "0"]

# Of each suite, what a row is called, the flags of its start and those of its search.
SUITES = {
    "starts": {name: (G128 + flags, []) for name, flags in STARTS.items()},
    "single": {name: (G128 + flags, SINGLE) for name, flags in STARTS.items()},
    "paper": {f"{name}, the paper's moves": (G128 + STARTS[name], PAPER)
              for name in ("RTN min-max", "AWQ")},
    "moves": {name: (G128 + MINMAX, [*PARTS, *flags]) for name, flags in {
        "permutation": ["--moves", "perm"],
        "scale": ["--moves", "scale"],
        "rotation": ["--moves", "rot"],
        "permutation, scale": ["--moves", "perm,scale"],
        "all": [],
        "FFN alone": ["--couplings", "ffn"],
        "values and output alone": ["--couplings", "vo"],
        "queries and keys alone": ["--couplings", "qk"],
        "norms alone": ["--couplings", "norm"],
    }.items()},
    "layers": {f"{n} matched layers": (G128 + MINMAX, [*PARTS, "--match-layers", str(n)])
               for n in (0, 1, 5, 10)},
    "sequences": {f"{n} sequences": (G128 + MINMAX, [*PARTS, "--calib-seqs", str(n)])
                  for n in (1, 8, 16, 32)},
    "widths": {f"{width}, {name}": (flags + STARTS[name], SINGLE)
               for width, flags in {"1-bit g64": ["--bits", "1", "--group", "64"],
                                    "2-bit g64": ["--bits", "2", "--group", "64"],
                                    "3-bit g128": ["--bits", "3", "--group", "128"]}.items()
               for name in ("RTN min-max", "AWQ", "GPTQ")},
    "smollm2": {name: (["--bits", "2", "--group", "64", *STARTS[name]], [])
                for name in ("GPTQ", "GPTQ + tune + codes")},
}


class Table:
    def __init__(self, args):
        self.args = args
        self.tenfold = pathlib.Path(args.build, "tools/tenfold")
        shared = pathlib.Path(args.shared)
        self.tests, self.calibration = texts(shared)
        smollm2 = args.suite.startswith("smollm2")
        self.source, self.windows = model_of(args, smollm2)
        self.calib = ["--calib-seqs", str(args.calib_seqs)]
        self.length = ["--calib-len", "512" if smollm2 else "256"]
        self.measured = Measured(args.results)
        self.where = ["--threads", args.threads, "--device", args.device]

    def losses(self, model) -> dict:
        """Of every window, by text."""
        found = {}
        for text, file in self.tests.items():
            output, _, _ = run([self.tenfold, "eval", "--quiet", "--json", "--per-window",
                                *self.where, "--activations", "int8x2", "-m", model, "--ppl", file,
                                *self.windows])
            found[text] = json.loads(output)["window_nll"]
        return found

    def made(self, flags) -> dict:
        """The losses of what the flags make, and the course of its search."""
        def make():
            with tempfile.TemporaryDirectory(dir=self.measured.path.parent) as folder:
                model = pathlib.Path(folder, "model.gguf")
                _, seconds, _ = run([self.tenfold, "quantize", "--quiet", *self.where, "-m",
                                     self.source, "-o", model, "--calib", self.calibration, *flags])
                output, _, _ = run([self.tenfold, "inspect", "--json", "-m", model])
                return {**self.losses(model), "cpu_seconds": seconds,
                        "search": json.loads(output).get("search")}
        return self.measured.remember(self.key(" ".join(map(str, flags))), make)

    def key(self, what: str) -> str:
        return " ".join([self.source.name, what, *on_device(self.args)])

    def models(self, start_flags, search_flags) -> tuple[list, list]:
        """The flags of each seed's model, before and after."""
        before, after = [], []
        for seed in range(self.args.seeds):
            calib = [] if "--calib-seqs" in search_flags else self.calib
            start = [*calib, *self.length, "--seed", str(seed), *start_flags]
            # Rounding that sees no text is one start for all seeds.
            looks = any(flag in start for flag in ("--method", "--passes", "weighted"))
            before.append(start if looks else start_flags)
            after.append([*start, "--search", "invarexplore", "--steps", str(self.args.steps),
                          *search_flags])
        return before, after

    def row(self, name: str, start_flags, search_flags) -> str:
        before, after = ([self.made(flags) for flags in models]
                         for models in self.models(start_flags, search_flags))
        full = self.measured.remember(self.key("source"), lambda: self.losses(self.source))
        cells = [name]
        for text in self.tests:
            old, new = (mean_of_seeds([made[text] for made in models]) for models in (before, after))
            gap = statistics.fmean(old) - statistics.fmean(full[text])
            gained = statistics.fmean(old) - statistics.fmean(new)
            each = [math.exp(statistics.fmean(made[text])) for made in after]
            cells += [f"{ppl(old):.1f}", f"{ppl(new):.1f} ({min(each):.1f} ... {max(each):.1f})",
                      f"{chance([n - o for o, n in zip(old, new)]):.4f}",
                      f"{100 * gained / gap:.0f} %"]
        searches = [made["search"] for made in after]
        mean = lambda key: statistics.fmean(search[key] for search in searches)
        cells += [curve(searches), f"{mean('loss'):.4f}",
                  f"{mean('start_held_out'):.4f} → {mean('held_out'):.4f}",
                  minutes(after)]
        return "| " + " | ".join(cells) + " |"

    def print(self) -> None:
        texts = [column for text in ("WikiText-2", "C4")
                 for column in (f"{text} before", "after", "p", "of the gap")]
        columns = ["start", *texts, "kept: in quarters of the steps", "loss", "held out",
                   "CPU minutes"]
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
        rows = {name: flags for name, flags in SUITES[self.args.suite].items()
                if not self.args.only or name in self.args.only}
        if self.args.jobs > 1:
            every = [flags for row in rows.values() for models in self.models(*row) for flags in models]
            in_parallel(self.args.jobs, self.made, sorted(every, key=len, reverse=True))
        for name, flags in rows.items():
            print(self.row(name, *flags), flush=True)


def mean_of_seeds(losses) -> list:
    return [statistics.fmean(window) for window in zip(*losses)]


def curve(searches) -> str:
    """Steps that were kept, a search."""
    quarters = [0] * 4
    for search in searches:
        for step in search["history"]:
            quarters[min(3, 4 * step["step"] // search["steps"])] += 1 / len(searches)
    return f"{sum(quarters):.0f}: " + ", ".join(f"{kept:.0f}" for kept in quarters)


def minutes(models) -> str:
    """Of those that were made in one go."""
    known = [made["cpu_seconds"] for made in models if made["cpu_seconds"] is not None]
    return f"{statistics.fmean(known) / 60:.1f}" if known else "not timed"


def ppl(losses) -> float:
    return math.exp(statistics.fmean(losses))


def chance(differences, resamples: int = 10_000) -> float:
    draw = random.Random(0)
    n = len(differences)
    no_better = sum(sum(draw.choices(differences, k=n)) >= 0 for _ in range(resamples))
    return no_better / resamples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--build", default="build/release", help="folder of the build")
    add("--shared", default="../shared", help="where models and texts lie")
    add("--suite", choices=SUITES, default="starts")
    add("--only", type=lambda text: text.split(";"), help="rows, with ; between them")
    add("--smollm2", type=pathlib.Path, default=cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf")
    add("--steps", type=int, default=20)
    add("--seeds", type=int, default=3)
    add("--calib-seqs", type=int, default=32)
    add("--threads", type=int, default=2)
    add("--jobs", type=int, default=1, help="models that are made at a time")
    add("--device", default="cpu", help="of searches and evaluations: cpu or cuda")
    add("--windows", type=int, help="of SmolLM2's texts, of 512 tokens; default: 100")
    add("--results", default=cache_folder() / "search.jsonl", help="what was measured so far")
    Table(parser.parse_args()).print()


if __name__ == "__main__":
    main()
