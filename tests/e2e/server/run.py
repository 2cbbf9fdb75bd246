"""Runs one of these tests with what it needs: Python packages from build/venv (tools/test.sh makes
it), a model, and for the page a running server and Chromium. Exits with 77, saying why, where
something is missing.

  run.py TENFOLD TEST.py [names of unittest]
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def skip(reason):
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    for path in (cache / "tenfold/SmolLM2-135M-Instruct.Q4_1.gguf", ROOT / "../shared/models/opt-1m"):
        if path.exists():
            return path
    skip("there is no model: tools/test.sh downloads SmolLM2")


def main():
    tenfold, test, *names = sys.argv[1:]
    python = ROOT / "build/venv/bin/python"
    if not python.exists():
        skip("build/venv is missing: tools/test.sh makes it")
    browser = test.startswith("web")
    if browser and shutil.which("chromium") is None:
        skip("Chromium is not installed")
    environment = {**os.environ, "TENFOLD": tenfold, "TENFOLD_MODEL": str(model())}
    server = None
    if browser:
        server = subprocess.Popen([tenfold, "serve", "-m", str(model()), "--port", "0", "--quiet"],
                                  stdout=subprocess.PIPE, text=True)
        environment["TENFOLD_URL"] = server.stdout.readline().strip()
    done = subprocess.run([python, HERE / test, *names], env=environment, check=False)
    if server is not None:
        server.send_signal(signal.SIGTERM)
        if server.wait(timeout=30) != 0:
            sys.exit("the server did not end well")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
