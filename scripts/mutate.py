"""Builds and tests mutants, see scripts/mutate.sh.

The unit of a mutated file is compiled without optimisation, put into a copy of its folder's library and
linked with the folder's test program as ninja links it. A mutant is killed if a test fails, crashes or runs
longer than the limit, which is in seconds of the processor: the machine may be busy."""

import argparse
import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from mutate_operators import mutants_of

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "release"
WORK = ROOT / "build" / "mutate"
FOLDERS = ["train", "optim", "quant", "ptq"]
TEST_HEADER = BUILD / "CMakeFiles" / "osp_precompiled_test.dir" / "cmake_pch.hxx"


def commands(target: str) -> list:
    """The commands with which ninja makes a target, the last one last."""
    output = subprocess.run(
        ["ninja", "-C", BUILD, "-t", "commands", target], check=True, capture_output=True, text=True
    )
    return output.stdout.splitlines()


class Folder:
    """How the library and the test program of one folder are built."""

    def __init__(self, name: str):
        self.name = name
        archive = next(c for c in reversed(commands(f"libosp_{name}.a")) if f"qc libosp_{name}.a" in c)
        self.members = [w for w in shlex.split(archive) if w.endswith(".o")]
        self.link = commands(f"osp_{name}_test")[-1].removeprefix(": && ").removesuffix(" && :")
        self.compile = {}
        for command in commands(f"libosp_{name}.a"):
            words = shlex.split(command)
            if "-c" in words and words[words.index("-o") + 1] in self.members:
                self.compile[words[words.index("-o") + 1]] = words[words.index("/usr/bin/c++") :]
        self.seconds = 0.0  # of the processor, for its tests without a mutant

    def sources(self) -> list:
        files = sorted((ROOT / "osp" / self.name).glob("*.cpp")) + sorted(
            (ROOT / "osp" / self.name).glob("*_body.inc")
        )
        return [str(f.relative_to(ROOT)) for f in files if not f.name.endswith("_test.cpp")]

    def units(self, path: str) -> list:
        """Members that compile a file: itself, a unity file that includes it, or generated kernels."""
        found = []
        for member, words in self.compile.items():
            source = Path(words[words.index("-c") + 1])
            text = source.read_text() if str(source).startswith(str(BUILD)) else ""
            if source == ROOT / path or f'"{ROOT / path}"' in text or f'"{path}"' in text:
                found.append(member)
        return found

    def compiled(self, member: str, path: str, mutated: Path, folder: Path) -> Path:
        """Compiles a unit with `path` replaced by `mutated`. Error(CalledProcessError) if it is invalid."""
        words = list(self.compile[member])
        source = Path(words[words.index("-c") + 1])
        if source == ROOT / path:
            unit = mutated
        else:
            text = source.read_text()
            text = text.replace(f'"{ROOT / path}"', f'"{mutated}"').replace(f'"{path}"', f'"{mutated}"')
            unit = folder / f"unit{source.suffix}"
            unit.write_text(text)
        words[words.index("-c") + 1] = str(unit)
        output = folder / (member.replace("/", "_"))
        words[words.index("-o") + 1] = str(output)
        if "-include" in words:  # not a kernel: without optimisation, by the header of the tests
            words[words.index("-include") + 1] = str(TEST_HEADER)
            words += ["-O0", "-DGTEST_HAS_PTHREAD=1"]
        for option in ("-MT", "-MF"):
            at = words.index(option)
            del words[at : at + 2]
        words = [w for w in words if w not in ("-MD", "-Werror")]
        subprocess.run([*words, "-w"], cwd=BUILD, check=True, capture_output=True, text=True)
        return output

    def linked(self, objects: dict, folder: Path) -> Path:
        """The test program with some members replaced."""
        library = folder / f"libosp_{self.name}.a"
        library.unlink(missing_ok=True)
        members = [str(objects.get(m, m)) for m in self.members]
        subprocess.run(["ar", "qcs", library, *members], cwd=BUILD, check=True)
        program = folder / f"osp_{self.name}_test"
        words = shlex.split(self.link)
        words = [str(library) if w == library.name else w for w in words]
        words[words.index("-o") + 1] = str(program)
        subprocess.run(words, cwd=BUILD, check=True, capture_output=True)
        return program


def test_filters(path: str) -> list:
    """Filters for a run of the file's own tests, then of all others."""
    test = ROOT / re.sub(r"(_portable|_kernels_body)?\.(cpp|inc)$", "_test.cpp", path)
    suites = set(re.findall(r"^TEST(?:_F|_P)?\((\w+),", test.read_text(), re.M)) if test.exists() else set()
    if not suites:
        return ["*"]
    own = ":".join(f"{suite}.*" for suite in sorted(suites))
    return [own, f"*-{own}"]


def tested(program: Path, filters: list, limit: float, folder: Path) -> tuple:
    """(status, first failed test) of a test program."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "TMPDIR": str(temporary),
    }
    deadline = time.monotonic() + 20 * limit  # of a test that waits for ever
    try:
        for chosen in filters:
            command = ["bash", "-c", f'ulimit -t {int(limit)}; exec "$@"', "bash", program]
            command += [f"--gtest_filter={chosen}", "--gtest_fail_fast", "--gtest_color=no"]
            remaining = max(1.0, deadline - time.monotonic())
            result = subprocess.run(
                command, cwd=BUILD, env=environment, capture_output=True, timeout=remaining
            )
            if result.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
                return "timeout", ""
            if result.returncode != 0:
                output = result.stdout.decode(errors="replace")
                failed = re.findall(r"^\[  FAILED  \] ([\w./]+)", output, re.M)
                running = re.findall(r"^\[ RUN      \] ([\w./]+)", output, re.M)
                return "killed", (failed or running or ["?"])[0]
    except subprocess.TimeoutExpired:
        return "timeout", ""
    finally:
        subprocess.run(["rm", "-rf", temporary], check=False)
    return "survived", ""


def control(folder: Folder) -> None:
    """All units without optimisation and without a mutant: must pass; gives the time of the tests."""
    place = WORK / f"control-{folder.name}"
    place.mkdir(parents=True, exist_ok=True)
    objects = {}
    for path in folder.sources():
        for member in folder.units(path):
            if member not in objects:
                objects[member] = folder.compiled(member, path, ROOT / path, place)
    program = folder.linked(objects, place)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, test = tested(program, ["*"], 1800, place)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder.seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    if status != "survived":
        sys.exit(f"mutate: without a mutant the tests of osp/{folder.name} end as {status} ({test})")
    print(f"mutate: osp/{folder.name}: {folder.seconds:.0f} s of tests", file=sys.stderr)


def run_mutant(mutant, folder: Folder, place: Path) -> dict:
    place.mkdir(parents=True, exist_ok=True)
    lines = (ROOT / mutant.path).read_text().split("\n")
    assert lines[mutant.line - 1] == mutant.before, f"{mutant.path} changed meanwhile"
    lines[mutant.line - 1] = mutant.after
    mutated = place / Path(mutant.path).name
    mutated.write_text("\n".join(lines))
    start = time.monotonic()
    try:
        objects = {m: folder.compiled(m, mutant.path, mutated, place) for m in folder.units(mutant.path)}
        program = folder.linked(objects, place)
    except subprocess.CalledProcessError:
        status, test = "invalid", ""
    else:
        status, test = tested(program, test_filters(mutant.path), max(60.0, 4 * folder.seconds), place)
    return {
        "name": mutant.name, **asdict(mutant), "status": status, "test": test,
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def read_results() -> dict:
    path = WORK / "results.jsonl"
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["name"], row["before"]): row for row in rows}


def report(rows: list) -> None:
    """The score by folder, then the survivors."""
    print("| folder | mutants | killed | by time limit | survived | score |\n|---|---|---|---|---|---|")
    groups = {name: [r for r in rows if r["path"].startswith(f"osp/{name}/")] for name in FOLDERS}
    for name, group in [*groups.items(), ("all", rows)]:
        counts = {s: sum(r["status"] == s for r in group) for s in ("killed", "timeout", "survived")}
        valid = sum(counts.values())
        score = f"{100 * (valid - counts['survived']) / valid:.0f} %" if valid else "none"
        cells = [name, valid, counts["killed"], counts["timeout"], counts["survived"], score]
        print("| " + " | ".join(map(str, cells)) + " |")
    invalid = sum(r["status"] == "invalid" for r in rows)
    print(f"\n{invalid} more did not compile.\n\nSurvivors:\n")
    for row in sorted(rows, key=lambda r: (r["path"], r["line"])):
        if row["status"] == "survived":
            print(f"- {row['name']}\n  `{row['before'].strip()}`\n  `{row['after'].strip()}`")


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/mutate.sh")
    parser.add_argument("--folders", default=",".join(FOLDERS), help="folders of osp/, separated by commas")
    parser.add_argument(
        "--count", type=int, default=100, help="number of mutants, spread evenly over the folders"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--minutes", type=float, default=0, help="start no mutant after so many; 0: no limit")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--list", action="store_true", help="print all mutants")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these mutants, tested again")
    parser.add_argument("--report", action="store_true", help="print the table of all results")
    return parser.parse_args()


def sample(folders: list, count: int, seed: int) -> list:
    """The first `count` of all mutants in random order, one folder after the other."""
    shuffled = []
    for name in folders:
        files = sorted((ROOT / "osp" / name).glob("*.cpp")) + sorted((ROOT / "osp" / name).glob("*_body.inc"))
        paths = [str(f.relative_to(ROOT)) for f in files if not f.name.endswith("_test.cpp")]
        mutants = [m for path in paths for m in mutants_of(ROOT, path)]
        random.Random(f"{seed} {name}").shuffle(mutants)
        shuffled.append(mutants)
    # Round by round, so that a run that is stopped has served all folders alike.
    taken = []
    for place in range(max(map(len, shuffled))):
        taken += [mutants[place] for mutants in shuffled if place < len(mutants)]
    return taken if count < 0 else taken[:count]


def main():
    options = arguments()
    names = options.folders.split(",")
    if options.report:
        return report(list(read_results().values()))
    if options.list or options.only:
        mutants = sample(names, -1, options.seed)
        if options.list:
            return print("\n".join(m.name for m in sorted(mutants, key=lambda m: (m.path, m.line))))
        chosen = [m for m in mutants if m.name in options.only]
        if missing := set(options.only) - {m.name for m in chosen}:
            sys.exit(f"mutate: no such mutants: {', '.join(sorted(missing))}")
    else:
        chosen = sample(names, options.count, options.seed)
    done = {} if options.only else read_results()
    open_ones = [m for m in chosen if (m.name, m.before) not in done]
    print(
        f"mutate: {len(open_ones)} mutants to test, {len(chosen) - len(open_ones)} tested before",
        file=sys.stderr,
    )

    # Bring the build up to date and run the tests of each folder without a mutant.
    WORK.mkdir(parents=True, exist_ok=True)
    needed = sorted({m.path.split("/")[1] for m in open_ones})
    subprocess.run(
        ["ninja", "-C", BUILD, *[f"osp_{name}_test" for name in needed]], check=True, stdout=sys.stderr
    )
    folders = {name: Folder(name) for name in needed}
    for folder in folders.values():
        control(folder)

    # Test the mutants side by side.
    until = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    lock, places = threading.Lock(), [WORK / f"worker-{i}" for i in range(options.jobs)]

    def test(mutant):
        if time.monotonic() > until:
            return
        with lock:
            place = places.pop()
        result = run_mutant(mutant, folders[mutant.path.split("/")[1]], place)
        with lock:
            places.append(place)
            with open(WORK / "results.jsonl", "a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{result['status']:9} {result['name']}  {result['test']}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(test, open_ones))
    report([r for r in read_results().values() if r["path"].split("/")[1] in names])


if __name__ == "__main__":
    main()
