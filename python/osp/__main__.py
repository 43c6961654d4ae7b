"""`python -m osp …` is the program `osp …`; it also trains with many ranks (osp/ranks.py)."""

import os
import sys

from osp import engine, ranks


def main():
    words = sys.argv[1:]
    # As in the executable: threads that wait do not spin. OpenMP reads it when the engine is loaded.
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if words[:1] == ["train"]:
        count, rest = ranks.split_ranks(words)
        if count is not None:
            return ranks.launch(count, rest)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return ranks.run_rank(words)
    return engine.load().main(["osp", *words])


if __name__ == "__main__":
    sys.exit(main())
