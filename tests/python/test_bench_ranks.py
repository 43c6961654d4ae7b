"""`osp bench ranks`: real ranks of osp beside peers of this file, and networks of their own with limits."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

# As root, namespaces may still be forbidden (in containers).
CAN_SEPARATE = (
    os.geteuid() == 0
    and not subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode
)
needs_networks = pytest.mark.skipif(not CAN_SEPARATE, reason="network namespaces need root")

# A peer: as fast as its way, and faster with threads that wait passively.
PEER = """
import json, os, sys
way = sys.argv[sys.argv.index("--way") + 1]
seconds = {"ddp": 50.0, "fsdp2": 30.0, "ddp-bf16": 40.0}[way]
if os.environ.get("OMP_WAIT_POLICY") == "PASSIVE":
    seconds /= 2
json.dump({"step_seconds": seconds, "cpu_seconds": 1.0, "sent_bytes": None, "peak_memory_bytes": 1e9,
           "loss": 8.0, "versions": {"torch": "0"}}, sys.stdout)
"""

# Sends `bytes` from the first rank to the others and prints what its interface counted.
SENDER = """
import json, os, socket, sys, time
count, rank = int(sys.argv[1]), int(os.environ["RANK"])
def counted():
    with open("/proc/self/net/dev") as file:
        return next(int(line.split()[9]) for line in file if "eth0:" in line)
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
start, before = None, counted()
if rank == 0:
    server = socket.create_server(address)
    other, _ = server.accept()
    start = time.monotonic()
    other.sendall(bytes(count))
    other.recv(1)
else:
    for _ in range(200):
        try:
            other = socket.create_connection(address)
            break
        except OSError:
            time.sleep(0.05)
    got = 0
    start = time.monotonic()
    while got < count:
        got += len(other.recv(1 << 16))
    other.sendall(b"x")
print(json.dumps({"sent": counted() - before, "seconds": time.monotonic() - start}))
"""


def launch(repo_root, *words):
    """The finished launcher, whose networks, if there were any, are gone."""
    command = [sys.executable, str(repo_root / "bench/ranks_launch.py"), *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=300)
    assert_no_networks(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def assert_no_networks(launcher):
    if CAN_SEPARATE:
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert f"osp-{launcher}-" not in names


def test_real_ranks_beside_the_fastest_peer(run_program, repo_root, osp_build, tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    words = ["--model", "demo", "--batch-tokens", 512, "--steps", 1, "--repetitions", 1, "--rate", "none"]
    words += [
        "--way",
        "ddp",
        "--way",
        "fsdp2",
        "--python",
        sys.executable,
        "--peer",
        peer,
        "--json",
        "--quiet",
    ]
    environment = {**os.environ, "OSP_BUILD": str(osp_build)}
    result = json.loads(run_program(["osp", "bench", "ranks", *words], cwd=repo_root, env=environment).stdout)
    # The peer's settings were chosen with ddp-bf16, then used for all ways.
    assert result["peer_settings"] == "keep freed memory, threads wait passively"
    assert max(trial["steps_per_s"] for trial in result["peer_trials"]) == 1 / 20
    [network] = result["networks"]
    assert network["rate"] is None and network["fastest_peer"] == "fsdp2"
    assert [side["steps_per_s"] for side in network["peers"]] == [1 / 25, 1 / 15]
    exact, narrow = network["osp"]
    assert (exact["name"], narrow["name"]) == ("osp, exact", "osp, bf16")
    for side in (exact, narrow):
        assert side["ratios"]["steps"] == pytest.approx(15 * side["steps_per_s"])
        assert side["cpu_seconds"] > 0 and side["peak_memory_bytes"] > 1e8
    if CAN_SEPARATE:
        # 7.34M parameters: 4 bytes of gradient or 2, and 2 of weights, (ranks - 1) times.
        assert exact["sent_bytes"] == pytest.approx(7_340_045 * 6, rel=0.05)
        assert narrow["sent_bytes"] == pytest.approx(7_340_045 * 4, rel=0.05)
    assert result["instruction_set"] and result["load_average"] >= 0


def test_what_it_cannot_do_is_refused(run_program, repo_root):
    for words, said in [
        (["--way", "horovod"], "horovod"),
        (["--alone", "--rate", "none"], "--alone"),
        (["--osp-way", "bf16"], "--alone"),
        (["--peer", "no.py"], "no.py"),
        (["--batch-tokens", "1280"], "a multiple of 512; give 1024"),
        (["--ranks", "3"], "a multiple of 768; give 1536"),
    ]:
        result = run_program(["osp", "bench", "ranks", *words], check=False, cwd=repo_root)
        assert result.returncode == 2 and said in result.stderr, words


@needs_networks
def test_a_limited_network_is_as_slow_as_asked_and_counts_its_own_bytes(repo_root, tmp_path):
    script = tmp_path / "sender.py"
    script.write_text(SENDER)
    count = 8_000_000
    result = launch(repo_root, "--rate", "100mbit", "--", sys.executable, script, count)
    first, second = json.loads(result.stdout)["ranks"]
    # 100 Mbit/s are 12.5 MB/s; the bucket lets one or two megabytes through at once.
    assert (count - 2.5e6) / 12.5e6 < first["seconds"] < 60
    assert count < first["sent"] < 1.1 * count and second["sent"] < 0.1 * count


def test_a_network_that_cannot_be_made_is_told_before_anything_is_measured(run_program, repo_root):
    start = time.monotonic()
    result = run_program(["osp", "bench", "ranks", "--rate", "nonsense"], check=False, cwd=repo_root)
    assert result.returncode != 0 and "cannot be limited to nonsense" in result.stderr
    assert "trial" not in result.stderr and time.monotonic() - start < 60


def test_a_launcher_that_is_asked_to_end_leaves_nothing(repo_root, tmp_path):
    script = tmp_path / "wait.py"
    script.write_text("import pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(200)\n")
    command = [
        sys.executable,
        repo_root / "bench/ranks_launch.py",
        "--",
        sys.executable,
        script,
        tmp_path / "on",
    ]
    process = subprocess.Popen(list(map(str, command)))
    while not (tmp_path / "on").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert subprocess.run(["pgrep", "-f", str(script)], capture_output=True).returncode == 1
    assert_no_networks(process.pid)


def test_a_rank_that_fails_ends_the_others_and_leaves_nothing(repo_root, tmp_path):
    script = tmp_path / "fail.py"
    script.write_text("import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(7)\ntime.sleep(200)\n")
    start = time.monotonic()
    result = launch(repo_root, "--ranks", 3, "--", sys.executable, script)
    assert result.returncode == 7 and "status 7" in result.stderr
    assert time.monotonic() - start < 60
