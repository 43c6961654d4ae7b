"""lm-evaluation-harness on this engine: the model "osp" of lm-eval.

    PYTHONPATH=python python -m osp.lm_eval_adapter --model osp --model_args model=DIR,bits=4-4-4 --tasks piqa

takes all arguments of `lm_eval`. Scripts import this module and then ask lm-eval for the model "osp".
The engine splits texts into tokens as lm-eval does (docs/formats.md, "osp score").
"""

import logging
from collections.abc import Callable

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from osp.program import open_scorer
from osp.score_process import MOST_LINES

logger = logging.getLogger(__name__)

# Requests per batch: enough to share common beginnings, few enough to show progress.
BATCH = min(1024, MOST_LINES)
# Arguments that lm-eval passes to every model and that are ignored here: the engine packs tokens
# (batch_tokens) and runs on the CPU.
PASSED_TO_ALL = {"batch_size", "max_batch_size", "device"}


@register_model("osp")
class OspLM(LM):
    """A model dir, a quantized folder or a GGUF file: in this process, or without osp._engine by `osp score`.

    Arguments: `model`; `bits` (weights-activations-cache, 16 for none; default: the model's own);
    `engine`, integer or simulated, for a quantized one; `batch_tokens` per forward pass; `max_gen_toks` for
    tasks that set none; `program`, an osp to run instead of osp._engine.
    """

    def __init__(
        self,
        model: str,
        bits: str | None = None,
        engine: str | None = None,
        program: str | None = None,
        batch_tokens: int = 8192,
        max_gen_toks: int = 256,
        **others,
    ) -> None:
        super().__init__()
        unknown = sorted(set(others) - PASSED_TO_ALL)
        if unknown:
            raise ValueError(f"model osp has no argument {', '.join(unknown)}")
        self._model = str(model)
        self._max_gen_toks = max_gen_toks
        given = {"bits": bits, "engine": engine, "batch_tokens": batch_tokens}
        options = {name: str(value) for name, value in given.items() if value is not None}
        self._process = open_scorer(self._model, options, program)
        logger.info(f"{self._model} {self._process.where}")

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For every (context, continuation): log-likelihood in nats, and true if greedy decoding gives it."""
        return self._answers(
            "loglikelihood",
            requests,
            lambda context, continuation: {"context": context, "continuation": continuation},
            lambda answer: (answer["log_likelihood"], answer["greedy"]),
            disable_tqdm,
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of every text, in windows of the model's context."""
        return self._answers(
            "loglikelihood_rolling",
            requests,
            lambda text: {"text": text},
            lambda answer: answer["log_likelihood"],
            disable_tqdm,
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuation of every (context, arguments) before the first text of `until`."""
        return self._answers(
            "generate_until", requests, self._generation, lambda answer: answer["text"], disable_tqdm
        )

    @property
    def tokenizer_name(self) -> str:
        """The name of lm-eval's cache of requests."""
        return self._model.strip("/").replace("/", "__")

    def close(self) -> None:
        """Ends the engine."""
        self._process.close()

    def _generation(self, context: str, arguments: dict) -> dict:
        arguments = normalize_gen_kwargs(arguments, self._max_gen_toks)
        if arguments["do_sample"]:
            raise ValueError("model osp generates the most likely tokens; the task asks for do_sample")
        until = [stop for stop in arguments["until"] if stop]
        return {"context": context, "max_tokens": arguments["max_gen_toks"], "until": until}

    def _answers(
        self,
        method: str,
        requests: list[Instance],
        line_of: Callable,
        result_of: Callable,
        disable_tqdm: bool,
    ) -> list:
        """The results of `requests`, batch by batch.

        line_of(*arguments) makes a request's line, result_of(answer) its result.
        """
        lines = [line_of(*request.args) for request in requests]
        results, num_cut = [], 0
        with tqdm(total=len(lines), desc=f"osp {method}", disable=disable_tqdm) as bar:
            for begin in range(0, len(lines), BATCH):
                answers = self._process.answer(lines[begin : begin + BATCH])
                for request, answer in zip(requests[begin : begin + BATCH], answers, strict=True):
                    results.append(result_of(answer))
                    num_cut += answer["cut"] > 0
                    self.cache_hook.add_partial(method, request.args, results[-1])
                bar.update(len(answers))
        if num_cut:
            logger.warning(f"{num_cut} of {len(lines)} contexts lost tokens on the left to fit the model")
        return results


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
