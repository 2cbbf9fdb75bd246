#!/usr/bin/env python3
"""Checks that #include lines obey kernels <- runtime <- models <- {quantizer, server} <- {tools,
bench}. Tests may include anything. A lower layer that reaches up is an error naming the line."""

import pathlib
import re
import sys

MAY_INCLUDE = {
    "kernels": {"kernels"},
    "runtime": {"kernels", "runtime"},
    "models": {"kernels", "runtime", "models"},
    "quantizer": {"kernels", "runtime", "models", "quantizer"},
    "server": {"kernels", "runtime", "models", "server"},
    "tools": {"kernels", "runtime", "models", "quantizer", "server", "tools"},
    "bench": {"kernels", "runtime", "models", "quantizer", "server", "bench"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"(\w+)/')


def main(root: pathlib.Path) -> int:
    errors = files = 0
    for layer, allowed in MAY_INCLUDE.items():
        for path in sorted((root / layer).rglob("*")):
            if path.suffix not in {".cpp", ".h", ".inl", ".cu", ".cuh"}:
                continue
            files += 1
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                if match and match[1] not in allowed:
                    print(f"{path.relative_to(root)}:{number}: {layer} may not include {match[1]}")
                    errors += 1
    print(f"Layers: {files} files, {errors} errors.")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
