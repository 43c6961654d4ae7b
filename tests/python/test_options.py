"""Options that would change nothing are refused: exit status 2, and the message names them and says why."""

import json

import pytest
from reference_llama import Shape, random_weights, write_model_dir
from small_tokenizers import letter_tokenizer

SHAPE = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=96, layers=1, context=32)


@pytest.fixture(scope="module")
def place(tmp_path_factory, run_program):
    """model at 16 bits; q, the same at 4-4-4, on integers; odd, in groups of 8, simulated."""
    folder = tmp_path_factory.mktemp("options")
    write_model_dir(folder / "model", SHAPE, random_weights(SHAPE))
    (folder / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    (folder / "text.txt").write_text("some letters to score and quantize with " * 30)
    (folder / "lines.jsonl").write_text('{"text": "some letters"}\n')
    for name, group in (("q", "0"), ("odd", "8")):
        run_program(["osp", "quantize", folder / "model", "--method", "rtn", "--group", group, "--out",
                     folder / name, "--quiet"])  # fmt: skip
    return folder


# Words with {} for the folder; what is refused; why.
EVAL = "eval {}/model --data {}/text.txt"
EVAL_Q = "eval {}/q --data {}/text.txt"
TASKS = "eval {}/model --data {} --tasks arc_easy"
ANALYZE = "analyze {}/model --data {}/text.txt"
GENERATE = "generate {}/model --prompt a --max-tokens 1"
SCORE = "score {}/model --requests {}/lines.jsonl"
QUANTIZE = "quantize {}/model --method rtn --out {}/out"
TOKENIZE = "tokenize {}/text.txt --tokenizer {}/model --out {}/out"
TRAIN = "train {}/none.toml --dry-run"
REPORT = "report {}/model"
NOT_QUANTIZED = "is for quantized model dirs"
REFUSED = [
    # Widths that contradict a quantized folder.
    (f"{EVAL_Q} --bits 16-16-16", "--bits 16-16-16", "is quantized to 4-4-4 already; leave out --bits"),
    (f"{EVAL_Q} --bits 4-8-8", "--bits 4-8-8", "leave out --bits, or give the model that it was made from"),
    (f"{EVAL_Q} --bits 16-16-16,4-4-4", "--bits 16-16-16,4-4-4", "is quantized to 4-4-4 already"),
    ("eval {}/q --data {} --tasks arc_easy --bits 16-16-16", "--bits 16-16-16", "leave out --bits"),
    ("eval {}/q --data {} --tasks arc_easy --bits 16-16-16,4-4-4", "--bits 16-16-16", "leave out --bits"),
    ("analyze {}/q --data {}/text.txt --bits 16-16-16", "--bits 16-16-16", "leave out --bits"),
    ("generate {}/q --prompt a --bits 16-16-16", "--bits 16-16-16", "leave out --bits"),
    ("score {}/q --requests {}/lines.jsonl --bits 16-16-16", "--bits 16-16-16", "leave out --bits"),
    # The engine of quantized folders.
    (f"{EVAL} --head 16", "--head", NOT_QUANTIZED),
    (f"{EVAL} --engine simulated", "--engine", NOT_QUANTIZED),
    (f"{TASKS} --head 16", "--head", NOT_QUANTIZED),
    (f"{GENERATE} --head 4", "--head", NOT_QUANTIZED),
    (f"{GENERATE} --engine auto", "--engine", NOT_QUANTIZED),
    (f"{SCORE} --engine simulated --head 8", "--engine, --head", NOT_QUANTIZED),
    (f"{EVAL_Q} --engine simulated --head 16", "--head", "is for the integer engine"),
    ("generate {}/q --prompt a --engine simulated --head 16", "--head", "is for the integer engine"),
    (
        "score {}/q --requests {}/lines.jsonl --engine simulated --head 4",
        "--head",
        "is for the integer engine",
    ),
    ("generate {}/odd --prompt a --head 16", "--head", "this model is simulated"),
    ("eval {}/odd --data {}/text.txt --head 16", "--head", "this model is simulated"),
    # Perplexity and benchmarks.
    (f"{EVAL} --prompts lm-eval", "--prompts", "is for benchmarks"),
    (f"{EVAL} --limit 3 --table {{}}/t.md", "--table, --limit", "is for benchmarks"),
    (f"{EVAL} --limit 0", "--limit", "is for benchmarks"),
    (f"{EVAL} --out {{}}/out.json", "--out", "is for benchmarks"),
    (f"{EVAL} --resume {{}}/out.json", "--resume", "is for benchmarks"),
    (f"{EVAL} --save-items {{}}/items", "--save-items", "is for benchmarks"),
    (f"{EVAL} --samples {{}}/items", "--save-items", "is for benchmarks"),
    (f"{EVAL} --rotations 2", "--rotations", "--tax"),
    (f"{EVAL} --tax", "--tax", "nothing is rounded at 16-16-16"),
    (f"{EVAL_Q} --tax", "--tax", "is quantized; give the model that it was made from"),
    (f"{TASKS} --data-tokens 100", "--data-tokens", "is for perplexity"),
    (f"{TASKS} --max-tokens 100", "--data-tokens", "is for perplexity"),
    (f"{TASKS} --stride 8", "--stride", "is for perplexity"),
    (f"{TASKS} --tax --rotations 2 --bits 4-4-4", "--tax, --rotations", "is for perplexity"),
    (f"{TASKS} --divergence-from {{}}/model", "--divergence-from", "is for perplexity"),
    (f"{TASKS} --activation-group 16", "--activation-group", "is for perplexity"),
    (f"{TASKS} --out {{}}/a.json --resume {{}}/b.json", "--out", "--resume goes on in the file"),
    # What an analysis does not measure.
    (f"{ANALYZE} --cost-tokens 0 --rotations 2", "--rotations", "--cost-tokens is 0"),
    (f"{ANALYZE} --cost-tokens 0 --cost-bits 3-3-3", "--cost-bits", "--cost-tokens is 0"),
    (f"{ANALYZE} --cost-tokens 0 --attribution-tokens 64", "--attribution-tokens", "--cost-tokens is 0"),
    (f"{ANALYZE} --bits 4-4-4 --cost-bits 3-3-3", "--cost-bits", "the model runs at 4-4-4"),
    (f"{ANALYZE} --bits 4-4-4 --cost-tokens 64", "--cost-tokens", "the model runs at 4-4-4"),
    ("analyze {}/q --data {}/text.txt --cost-bits 3-3-3", "--cost-bits", "the model runs at 4-4-4"),
    # Drawing tokens.
    (f"{GENERATE} --seed 7", "--seed", "needs a --temperature above 0"),
    (f"{GENERATE} --top-k 5 --top-p 0.5", "--top-k, --top-p", "needs a --temperature above 0"),
    # Quantization.
    (f"{QUANTIZE} --data-tokens 64", "--data-tokens", "--data"),
    (f"{QUANTIZE} --seeds 3", "--seeds", "--data"),
    (f"{QUANTIZE} --spin-steps 5", "--spin-steps", "is for the rotations that spinquant learns"),
    (f"{QUANTIZE} --spin-batch 5 --spin-length 64", "--spin-batch, --spin-length", "not for --method rtn"),
    (f"{QUANTIZE} --hadamard-block 16", "--hadamard-block", "not for --method rtn"),
    (f"{QUANTIZE} --weight-scales mse", "--weight-scales", "is for weights in mxfp4, nvfp4 or fp8"),
    (f"{QUANTIZE} --rotation-block 16", "--rotation-block", "is for the random rotation of the residual"),
    (f"{QUANTIZE} --windows 5", "--windows", "--calibration is not given"),
    (f"{QUANTIZE} --samples 5", "--windows", "--calibration is not given"),
    (f"{QUANTIZE} --length 16 --memory 1", "--length, --memory", "--calibration is not given"),
    (f"{QUANTIZE} --calibration-type fp32", "--calibration-type", "--calibration is not given"),
    (f"{QUANTIZE} --bits 4-16-4 --activation-clip 0.9", "--activation-clip", "keep 16 bits at --bits 4-16-4"),
    (f"{QUANTIZE} --bits 4-16-4 --activation-scales after-norm", "--activation-scales", "keep 16 bits"),
    (f"{QUANTIZE} --bits 4-4-16 --cache-clip 0.9", "--cache-clip", "keeps 16 bits at --bits 4-4-16"),
    # Text to tokens.
    (f"{TOKENIZE} --field body", "--field", "there are only text files"),
    (f"{TOKENIZE} --on-bad-line skip", "--on-bad-line", "is for JSON lines"),
    (f"{TOKENIZE} --documents lines --document-separator x", "--documents", "--document-separator takes"),
    (
        "tokenize {}/lines.jsonl --tokenizer {}/model --out {}/out --documents lines",
        "--documents",
        "text files",
    ),
    (
        "tokenize {}/lines.jsonl --tokenizer {}/model --out {}/out --document-separator x",
        "--document-separator",
        "text files",
    ),
    *(
        (f"tokenize --stdin --tokenizer {{}}/model {option}", option.split()[0], "--stdin only encodes lines")
        for option in [
            "--format text",
            "--field body",
            "--documents lines",
            "--document-separator x",
            "--on-bad-line skip",
            "--begin-of-document none",
            "--end-of-document none",
            "--overwrite",
            "--validation-fraction 0.1",
            "--shard-tokens 10",
            "--threads 2",
        ]
    ),
    # Runs and pages.
    (f"{TRAIN} --resume", "--resume", "--dry-run describes a new run"),
    (f"{TRAIN} --resume-from step-5", "--resume-from", "--dry-run describes a new run"),
    (f"{TRAIN} --init-from {{}}/model", "--init-from", "--dry-run describes a new run"),
    (f"{REPORT} --out {{}}/r.html --port 8000", "--port", "--watch"),
    (f"{REPORT} --watch --out {{}}/r.html", "--out", "--watch serves the page"),
    (f"{REPORT} --watch --summary {{}}/r.json", "--summary", "--watch serves the page"),
    # Benchmarks of speed without their peer.
    ("bench train --alone --peer-mode eager", "--peer-mode", "--alone and --profile leave out"),
    (
        "bench train --alone --repetitions 2 --peer x",
        "--repetitions, --peer",
        "--alone and --profile leave out",
    ),
    ("bench train --profile --model demo --python x", "--python", "--alone and --profile leave out"),
    ("bench optim --alone --batch-tokens 5", "--batch-tokens", "--alone leaves out"),
    ("bench optim --alone --repetitions 5", "--repetitions", "--alone leaves out"),
    ("bench optim --alone --optimizers osp --optimizers adam", "--alone", "one optimizer, 2 were given"),
    ("bench quantize {}/model --calibration {}/text.txt --alone --peer x", "--peer", "--alone leaves out"),
]


@pytest.mark.parametrize("words, named, reason", REFUSED, ids=[words for words, _, _ in REFUSED])
def test_an_option_that_does_not_apply_is_refused(words, named, reason, place, run_program):
    result = run_program(["osp", *words.replace("{}", str(place)).split()], check=False, input="", timeout=60)
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert named in result.stderr and reason in result.stderr, result.stderr


ACCEPTED = [
    "eval {}/q --data {}/text.txt --bits 4-4-4",
    "eval {}/q --data {}/text.txt --head 8",
    "eval {}/q --data {}/text.txt --engine simulated",
    "eval {}/model --data {}/text.txt --bits 4-4-4 --tax --rotations 1",
    "generate {}/q --prompt a --max-tokens 1 --head 8 --bits 4-4-4",
    "generate {}/model --prompt a --max-tokens 1 --temperature 1 --top-k 3 --seed 5 --bits 16-16-16",
]


@pytest.mark.parametrize("words", ACCEPTED)
def test_the_same_option_is_accepted_where_it_applies(words, place, run_program):
    run_program(["osp", *words.replace("{}", str(place)).split()])


def test_an_empty_value_is_empty_and_leaves_the_next_word_alone(place, run_program):
    """`--prompt=$TEXT` with an empty TEXT: not the word after it."""
    model = place / "model"
    empty = run_program(["osp", "generate", model, "--prompt=", "--max-tokens", "1", "--json"], check=False)
    apart = run_program(
        ["osp", "generate", model, "--prompt", "", "--max-tokens", "1", "--json"], check=False
    )
    assert (empty.returncode, empty.stdout, empty.stderr) == (apart.returncode, apart.stdout, apart.stderr)
    assert "--max-tokens" not in empty.stderr and empty.returncode in (0, 2)
    result = run_program(
        ["osp", "eval", model, "--data", place / "text.txt", "--limit=", "--json"], check=False
    )
    assert result.returncode == 2 and '--limit is ""' in result.stderr
    # A value that looks like an option is one all the same.
    result = run_program(["osp", "generate", model, "--prompt", "--x=", "--max-tokens", "1", "--json"])
    assert json.loads(result.stdout)["prompt"] == "--x="
    result = run_program(["osp", "eval", model, "--data", place / "text.txt", "--json="], check=False)
    assert result.returncode == 2 and "--json takes no value" in result.stderr
    # A value that ends with "=" is whole, and behind -- nothing is an option.
    result = run_program(
        ["osp", "train", place / "none.toml", "--set=train.steps=", "--dry-run"], check=False
    )
    assert "none.toml" in result.stderr
    result = run_program(["osp", "eval", "--data", place / "text.txt", "--", "--model="], check=False)
    assert result.returncode == 2 and "--model=: no config.json" in result.stderr
