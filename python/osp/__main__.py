"""`python -m osp …` is the program `osp …`; it also trains with many ranks (osp/ranks.py)."""

import os
import signal
import sys

from osp import engine, ranks


def main():
    words = sys.argv[1:]
    # As in the executable: threads that wait do not spin. OpenMP reads it when the engine is loaded.
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Ctrl-C ends a command that has no handler of its own, as it ends the executable.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if words[:1] == ["train"]:
        count, words = ranks.split_ranks(words)
        described = not {"--dry-run", "--help", "-h"}.isdisjoint(words)
        started_by_torchrun = count is None and int(os.environ.get("WORLD_SIZE", "1")) > 1
        if described and started_by_torchrun:
            if os.environ.get("RANK") != "0":
                return 0  # the first rank says it
            count = int(os.environ["WORLD_SIZE"])
        if described and count is not None:
            words = [*words, "--ranks", str(count)]
        if not described and count is not None and count > 1:
            return ranks.launch(count, words)
        if not described and started_by_torchrun:
            return ranks.run_rank(words)
    if words[:2] == ["bench", "ranks"] and "--alone" in words and "RANK" in os.environ:
        return ranks.run_rank(words)
    if words[:1] == ["report"] and "OSP_PLOTLY" not in os.environ and (plotly := engine.plotly_file()):
        os.environ["OSP_PLOTLY"] = plotly
    return engine.load().main(["osp", *words])


if __name__ == "__main__":
    sys.exit(main())
