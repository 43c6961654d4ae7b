"""`osp report --watch`: the page of a run in progress, served on 127.0.0.1."""

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import report_fixture


@pytest.fixture
def served(osp_build, tmp_path):
    run = tmp_path / "osp"
    report_fixture.write_run(run, rate=1e-3, final_kurtosis=0.1, peak=9.0, perplexities={}, steps=3)
    child = subprocess.Popen([osp_build / "osp", "report", run, "--watch", "--json"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        yield run, json.loads(child.stdout.readline())["url"], child
    finally:
        child.kill()
        child.wait()


def get(url, **headers):
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10).read().decode()


def test_page_is_served_and_changes_with_the_run_until_the_signal(served):
    run, url, child = served
    assert url.startswith("http://127.0.0.1:")
    assert "<html" in get(url)
    before = get(url + "version")
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    step = json.loads(next(line for line in lines if json.loads(line)["kind"] == "step"))
    step["step"] = json.loads(lines[-1])["step"] + 1
    end = json.loads(lines[-1])
    end["step"] = step["step"]
    metrics.write_text("\n".join([*lines[:-1], json.dumps(step), json.dumps(end)]) + "\n")
    deadline = time.monotonic() + 20
    while get(url + "version") == before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert get(url + "version") != before
    assert len(get(url + "update")) < len(get(url))  # without the library of the charts
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("path", "headers", "status"), [("nothing", {}, 404), ("", {"Host": "evil.example"}, 403)]
)
def test_other_paths_and_names_are_refused(served, path, headers, status):
    _, url, _ = served
    with pytest.raises(urllib.error.HTTPError) as error:
        get(url + path, **headers)
    assert error.value.code == status
