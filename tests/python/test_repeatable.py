"""One computation gives one result, whatever else the machine does.

oneMKL chooses the kernel of a function when it is first called; where two threads do that side by side, one
of them may run a kernel that loses four digits. It did in one process in twenty (osp/ops/tensor_library.h).
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor


def test_functions_are_exact_in_every_process(osp_build):
    command = [osp_build / "osp_eval_test", "--gtest_filter=RequestScorer.EqualsOneSequenceAtATime"]

    environment = os.environ | {"OMP_WAIT_POLICY": "active"}  # threads that spin begin at the same moment

    def answer(_):
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    with ThreadPoolExecutor(4) as pool:  # more threads than cores, so that they are interrupted anywhere
        results = list(pool.map(answer, range(40)))
    wrong = [result.stdout for result in results if result.returncode != 0]
    assert not wrong, f"{len(wrong)} of {len(results)}, the first: {wrong[0][:2000]}"
    assert all("[  PASSED  ] 1 test." in result.stdout for result in results)
