"""Updates per second of every algorithm, by lanes, beside CORL and d3rlpy where they are given.

    python benchmarks/training_speed.py                                    # offbench alone
    python benchmarks/training_speed.py --corl path/to/CORL \
        --corl-jax-python jax/bin/python --d3rlpy-python d3rlpy/bin/python  # with ratios, all in one run on one machine

One update includes drawing its batch from 100,000 transitions of Hopper's sizes (of four actions where they are
discrete). Hidden layers are as many as the algorithm's default has; SAC-N and EDAC have ten critics. Every contestant
is a process of its own (benchmarks/speed/) with the same number of threads. They take turns in rounds, so that a
machine that slows down slows all of them; a figure is the median over rounds, and a ratio is the median over rounds of
the ratio within a round. On a machine that does other work too, "--clock processor" counts the processor time that a
contestant got in place of the time that passed. "matmul" is the rate of torch's products of 256 x 256 matrices in
GFLOP/s, taken in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from offbench.algorithms import algorithm_names

FOLDER = Path(__file__).parent / "speed"
CORL_TORCH = ("bc", "td3_bc", "iql", "awac", "cql", "sac_n", "edac", "decision_transformer")
D3RLPY = (
    *("bc", "td3_bc", "iql", "awac", "cql", "crr", "bcq", "rebrac", "decision_transformer"),
    *("dqn", "discrete_bcq", "discrete_cql"),
)
# Published sizes where they are not layers of 256 and batches of 256.
PUBLISHED = {"rebrac": (256, 1024), "decision_transformer": (128, 64)}


class Contestant:
    """A process that trains on command; see benchmarks/speed/contestant.py."""

    def __init__(self, python: str, program: str, *arguments: str, threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [python, str(FOLDER / program), str(threads), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command.

        Raises:
            RuntimeError: what the contestant reports, or that it ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("no pipes")
        try:
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"{self._process.args[1]} ended"}  # type: ignore[index]
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Contestants:
    """The processes, each started when it first takes part and kept: starting costs more than a row's timing."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._started: dict[tuple[str, int], Contestant] = {}

    def of(self, name: str, threads: int) -> dict[str, tuple[Contestant, int]]:
        """Who takes part in an algorithm's row, by what the table calls them, and with how many lanes."""
        options, corl = self._arguments, str(self._arguments.corl)
        wanted: dict[str, tuple[str, str, tuple[str, ...], int]] = {}
        if name in CORL_TORCH and options.corl:
            wanted["CORL"] = sys.executable, "corl_torch.py", (corl,), 1
            if options.precision != "highest":
                wanted["CORL, same matmul"] = sys.executable, "corl_torch.py", (corl, options.precision), 1
        if name == "rebrac" and options.corl and options.corl_jax_python:
            wanted["CORL (JAX)"] = options.corl_jax_python, "corl_jax.py", (corl,), 1
        if name in D3RLPY and options.d3rlpy_python:
            wanted["d3rlpy"] = options.d3rlpy_python, "d3rlpy_side.py", (), 1
        for lanes in [1] if name == "matmul" else options.lanes:
            title, settings = f"{lanes} lane{'s' * (lanes > 1)}", (options.device, options.matmul)
            wanted[title] = sys.executable, "ours.py", settings, lanes
        for title, (python, program, extra, _) in wanted.items():
            if (title, threads) not in self._started:
                self._started[title, threads] = Contestant(python, program, *extra, threads=threads)
        return {title: (self._started[title, threads], lanes) for title, (*_, lanes) in wanted.items()}

    def close(self) -> None:
        """End all processes."""
        for contestant in self._started.values():
            contestant.close()


def measure(arguments: argparse.Namespace, started: Contestants, name: str, size: str, threads: int) -> dict[str, Any]:
    """Lane-updates per second of every contestant in every round."""
    width, batch = PUBLISHED.get(name, (256, 256)) if size == "published" else map(int, size.split("x"))
    taking_part = started.of(name, threads)
    rates: dict[str, list[float]] = {title: [] for title in taking_part}
    for title, (contestant, lanes) in list(taking_part.items()):
        try:
            contestant.ask({"make": [name, width, batch, lanes]})
        except RuntimeError as error:
            print(f"{title} cannot run {name}: {error}", file=sys.stderr)
            del taking_part[title], rates[title]
    for _ in range(arguments.rounds):
        for title, (contestant, _) in taking_part.items():
            answer = contestant.ask({"run": arguments.seconds})
            rates[title].append(answer["updates"] / answer[arguments.clock])
    return rates


def main() -> None:
    """Measure and print; with --json also write every round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corl", type=Path, help="folder of a CORL checkout to compare with")
    parser.add_argument("--corl-jax-python", help="interpreter with jax, flax, optax and chex, for CORL's ReBRAC")
    parser.add_argument("--d3rlpy-python", help="interpreter with d3rlpy, to compare with")
    names = ["matmul", *algorithm_names()]
    parser.add_argument("--algorithms", nargs="+", default=names, choices=names)
    parser.add_argument("--sizes", nargs="+", default=["published", "64x64"], help="published, or width x batch size")
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant in each round")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--device", default="cpu", help="for offbench; the others are timed on the CPU only")
    modes = ["auto", "default", "reduced"]
    parser.add_argument(
        "--matmul", choices=modes, default="auto", help="offbench's; CORL is timed without it and with it"
    )
    parser.add_argument("--json", type=Path, help="write all rounds here, after every row")
    arguments = parser.parse_args()
    if arguments.corl and not (arguments.corl / "algorithms" / "offline").is_dir():
        parser.error(f"{arguments.corl} is not a CORL checkout: it has no algorithms/offline")
    if arguments.clock == "processor" and arguments.threads != [1]:
        parser.error("processor time is no measure of several threads: use --clock wall or --threads 1")

    matmul, arguments.precision = matmul_setting(arguments.matmul)
    machine = {"processor": processor_name(), "python": platform.python_version(), "matmul": matmul}
    print(f"{machine['processor']}, matmul: {matmul}, clock: {arguments.clock}")
    print("lane-updates per second: median over rounds; times another: median of the ratios within rounds [range]\n")
    rows: list[dict[str, Any]] = []
    started = Contestants(arguments)
    try:
        for size in arguments.sizes:
            for name in arguments.algorithms:
                for threads in arguments.threads:
                    rates = measure(arguments, started, name, size, threads)
                    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                    row = {"algorithm": name, "size": size, "threads": threads, "load": load, "rates": rates}
                    rows.append(row)
                    print(lines(row), flush=True)
                    if arguments.json:
                        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), "utf-8")
    finally:
        started.close()


def matmul_setting(mode: str) -> tuple[str, str]:
    """What a setting is on this machine, in words and as torch's precision."""
    code = (
        "import torch; from offbench.algorithms.matmul import select_matmul; torch.set_num_threads(1);"
        f"print(select_matmul({mode!r})); print(torch.get_float32_matmul_precision())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words, precision = done.stdout.splitlines()
    return words, precision


def lines(row: dict[str, Any]) -> str:
    """The figures of an algorithm for people, a line for every contestant."""
    text, rates = [], row["rates"]
    for title, values in rates.items():
        name = f"{row['algorithm']:21}{row['size']:10}{row['threads']} thread{'s' if row['threads'] > 1 else ' '}"
        line = f"{name} {title:18}{statistics.median(values):10.1f}"
        for other in ("CORL", "CORL, same matmul", "CORL (JAX)", "d3rlpy"):
            if other in rates and title.endswith(("lane", "lanes")):
                ratios = [a / b for a, b in zip(values, rates[other], strict=True)]
                line += f"   {statistics.median(ratios):6.2f} [{min(ratios):.2f}-{max(ratios):.2f}] times {other}"
        text.append(line)
    return "\n".join(text)


def processor_name() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for entry in info.read_text("utf-8").splitlines():
            if entry.startswith("model name"):
                return entry.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
