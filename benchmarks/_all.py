"""Run every benchmark, and print all of their claims in one table; exit with 1 if a bound is missed."""

import subprocess
import sys
from pathlib import Path

VERDICTS = ("ok ", "MISSED ")


def run(benchmark: Path) -> list[str]:
    """Run a benchmark, show its output, and return its claims, or that it failed."""
    print(f"\n== {benchmark.stem} ==", flush=True)
    process = subprocess.Popen([sys.executable, "-u", benchmark], stdout=subprocess.PIPE, text=True)
    claims = []
    for line in process.stdout or ():
        print(line, end="", flush=True)
        claims += [line.rstrip()] if line.startswith(VERDICTS) else []
    if process.wait() and not any(claim.startswith("MISSED") for claim in claims):
        claims.append(f"MISSED {benchmark.name} failed with exit code {process.returncode}")
    return claims


def main() -> int:
    found = {path.stem: run(path) for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}
    print(f"\n{'':12}{'':7}{'':44}{'ours':>11}{'theirs':>11}{'ratio':>8}  bound")
    for name, claims in found.items():
        for claim in claims:
            print(f"{name:12}{claim}")
    return 1 if any(claim.startswith("MISSED") for claims in found.values() for claim in claims) else 0


if __name__ == "__main__":
    sys.exit(main())
