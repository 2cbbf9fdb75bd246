"""What long measurements found so far, so that they go on where they stopped."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import threading


def cache_folder() -> pathlib.Path:
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"), "tenfold")


def texts(shared: pathlib.Path) -> tuple[dict, pathlib.Path]:
    """Those that perplexity is measured on, and the calibration text."""
    data = shared / "data"
    return ({"wiki": data / "wikitext2/wiki.test.raw", "c4": data / "c4/valid.txt"},
            data / "calibration/c4.txt")


def model_of(args, smollm2: bool) -> tuple[pathlib.Path, list]:
    """The model that is quantized, and the flags of the windows it is measured on."""
    if smollm2:
        windows = getattr(args, "windows", None) or 100
        return pathlib.Path(args.smollm2), ["--window", 512, "--score", "half", "--windows", windows]
    model = getattr(args, "model", "opt-1m")
    return pathlib.Path(args.shared, "models", model), ["--window", 256]


def on_device(args) -> list:
    """What keys of figures say of --device: a GPU's are its own, and so is the course of its searches."""
    return [] if args.device == "cpu" else ["on", args.device]


def run(command) -> tuple[str, float, int]:
    """Its output, seconds of all cores together, and peak resident bytes."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


class Measured:
    """A file of JSON lines, each with the key it was measured under."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.entries = {}
        self.lock = threading.Lock()
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                entry = json.loads(line)
                self.entries[entry["key"]] = entry

    def remember(self, key: str, make) -> dict:
        """The entry of the key; make() measures it where there is none."""
        if key not in self.entries:
            print(key, file=sys.stderr, flush=True)
            entry = {"key": key, **make()}
            with self.lock, self.path.open("a") as out:
                out.write(json.dumps(entry) + "\n")
                self.entries[key] = entry
        return self.entries[key]


def in_parallel(jobs: int, function, arguments) -> None:
    """Of each, so many at a time, in order; ends with the first that fails."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(function, arguments):
            pass
