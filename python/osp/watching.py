"""Outliers during anyone's training: excess kurtosis, largest activation and attention logit by layer.

    κ = mean((x − μ)⁴) / σ⁴ − 3        per token over its channels, averaged over tokens, then over states

as docs/numerics.md has it ("Excess kurtosis"). A model of L blocks has L + 1 states: the input of block 0 and
the output of each block. Rows whose channels are all equal are omitted; a row that is not finite makes the
mean NaN. The largest attention logit is the largest scaled q·k within the mask, on the first two sequences of
at most 512 tokens.

Hooks measure the training passes themselves, every `every`-th of them. In a compiled graph the hooks are
nothing at all: call `Watch.measure` between the steps, which runs the model eagerly on a batch. The hooks of
a copied or pickled model do nothing: watch the copy itself.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn, overrides
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ATTENTION_SEQUENCES, ATTENTION_LENGTH = 2, 512
# Tokens whose moments are computed at once: bounds the fp64 copies.
TOKENS_AT_ONCE = 4096


def excess_kurtosis(x: Tensor) -> tuple[float, int]:
    """(sum over rows of κ, number of rows that have one) of x [..., D], in fp64."""
    rows = x.detach().reshape(-1, x.shape[-1])
    total, count = 0.0, 0
    for part in rows.split(TOKENS_AT_ONCE):
        exact = part.double()
        centred = exact - exact.mean(1, keepdim=True)
        second = centred.square().mean(1)
        kurtosis = centred.pow(4).mean(1) / second.square() - 3
        # Equal channels have no kurtosis; by their range, since a rounded mean leaves differences.
        kept = exact.amax(1) != exact.amin(1)
        total += kurtosis[kept].sum().item()
        count += int(kept.sum())
    return total, count


def watch(
    model: nn.Module, every: int = 100, to: object = None, blocks: nn.ModuleList | None = None
) -> "Watch":
    """Measures `model` at every `every`-th forward pass in training mode, the first one included.

    `to`: a TensorBoard SummaryWriter, or a function that gets each dict of values. `blocks`: the blocks in
    order; default: the longest nn.ModuleList of equal modules. Raises ValueError if there is none.
    """
    return Watch(model, every, to, blocks)


class Watch:
    """Hooks on a model. `latest` is the newest dict of values, `take()` gives it once, `close()` ends.

    Values: `step`, `excess_kurtosis`, `largest_activation`, `largest_attention_logit` and for each of the
    latter three a list `…_per_layer`. The logit is None where attention is neither
    scaled_dot_product_attention nor a softmax over [B, H, T, T].
    """

    def __init__(self, model: nn.Module, every: int, to: object, blocks: nn.ModuleList | None) -> None:
        if every < 1:
            raise ValueError(f"every = {every}: 1 or more is needed")
        model = getattr(model, "_orig_mod", model)  # behind torch.compile
        self.model, self.every, self.to = model, every, to
        self.blocks = list(blocks if blocks is not None else find_blocks(model))
        self.step = 0
        self.latest: dict | None = None
        self._taken = True
        self._armed: bool | None = None  # a trainer decides which passes are measured; None: the count does
        self._pass: _Pass | None = None
        self._mode: _AttentionLogits | None = None
        self._warned = self._closed = False
        self._hooks = [
            model.register_forward_pre_hook(_Hook(self, "_before"), with_kwargs=True),
            model.register_forward_hook(_Hook(self, "_after"), always_call=True),
        ]
        for i, block in enumerate(self.blocks):
            self._hooks += [
                block.register_forward_pre_hook(_Hook(self, "_enter", i), with_kwargs=True),
                block.register_forward_hook(_Hook(self, "_leave", i)),
            ]

    def take(self) -> dict | None:
        """The newest values if they were not taken before, else None."""
        if self._taken:
            return None
        self._taken = True
        return self.latest

    def close(self) -> None:
        """Removes the hooks."""
        self._closed = True
        self._end_pass()
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def measure(self, *args, **kwargs) -> dict:
        """Values of one eager forward pass in evaluation mode with these arguments of the model.

        Raises RuntimeError after close().
        """
        if self._closed:
            raise RuntimeError("this watch is closed: it measures nothing any more")
        self._end_pass()
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        self._pass = _Pass(len(self.blocks), kwargs.get("attention_mask"))
        try:
            with torch.compiler.set_stance("force_eager"), _AttentionLogits(self._pass):
                self.model(*args, **kwargs)
            return self._publish(self._pass, self.step)
        finally:
            self._pass = None
            for module, training in modes:
                module.training = training

    def callback(self):
        """A TrainerCallback: measures a pass of every `every`-th step and adds it to the log's history."""
        from transformers import TrainerCallback

        watch = self

        class WatchCallback(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                watch.step = state.global_step
                watch._armed = state.global_step % watch.every == 0

            def on_step_end(self, args, state, control, **kwargs):
                watch._armed = False
                if values := watch.take():
                    state.log_history.append(values)

            def on_train_end(self, args, state, control, **kwargs):
                watch._armed = None

        return WatchCallback()

    # ---- hooks ------------------------------------------------------------------------------------

    def _before(self, module, args, kwargs) -> None:
        if self._pass is not None and not self._pass.automatic:
            return
        self._end_pass()  # one that ^C ended before its hook
        if not (module.training and torch.is_grad_enabled()):
            return
        due = self._armed if self._armed is not None else self.step % self.every == 0
        if self._armed is None:
            self.step += 1
        if due:
            self._armed = False if self._armed is not None else None  # one micro-batch of a step is enough
            if any(_is_compiled(block) for block in self.blocks):
                self._warn_of_compiled_blocks()
                return
            self._pass = _Pass(len(self.blocks), kwargs.get("attention_mask"))
            self._pass.automatic = True
            self._mode = _AttentionLogits(self._pass)
            self._mode.__enter__()

    def _after(self, module, args, output) -> None:
        if self._pass is None or not self._pass.automatic:
            return
        seen = self._pass
        self._end_pass()
        if seen.complete():
            self._publish(seen, self.step - 1 if self._armed is None else self.step)

    def _end_pass(self) -> None:
        """Forgets the pass that is measured now, and its function mode."""
        self._pass = None
        if self._mode is not None:
            _remove_mode(self._mode)
            self._mode = None

    def _warn_of_compiled_blocks(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "the blocks of this model are compiled one by one, so training passes are not measured: call "
                "watch.measure(**batch) between the steps",
                stacklevel=2,
            )

    def _enter(self, i, module, args, kwargs) -> None:
        if self._pass is None:
            return
        self._pass.layer = i
        if i == 0:
            self._pass.add_state(0, args[0] if args else next(iter(kwargs.values())))

    def _leave(self, i, module, args, output) -> None:
        if self._pass is None:
            return
        self._pass.layer = None
        self._pass.add_state(i + 1, output[0] if isinstance(output, tuple) else output)

    def _publish(self, seen: "_Pass", step: int) -> dict:
        self.latest = {"step": step} | seen.values()
        self._taken = False
        if hasattr(self.to, "add_scalar"):
            _write(self.to, self.latest)
        elif isinstance(self.to, Callable):
            self.to(self.latest)
        return self.latest


class _Hook:
    """A method of a Watch as a hook. Copies of it, which copies of a model have, do nothing."""

    def __init__(self, watch: Watch | None = None, method: str = "", *first) -> None:
        self.watch, self.method, self.first = watch, method, first

    def __call__(self, *args) -> None:
        if torch.compiler.is_compiling() or self.watch is None:
            return
        getattr(self.watch, self.method)(*self.first, *args)

    def __deepcopy__(self, memo: dict) -> "_Hook":
        return _Hook()

    def __reduce__(self):
        return _Hook, ()


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _remove_mode(mode: TorchFunctionMode) -> None:
    """Takes `mode` out of PyTorch's stack of modes; those above it stay."""
    if not any(other is mode for other in overrides._get_current_function_mode_stack()):
        return
    above = []
    while (top := overrides._pop_mode()) is not mode:
        above.append(top)
    for other in reversed(above):
        overrides._push_mode(other)


class _Pass:
    """What one forward pass has shown so far."""

    def __init__(self, layers: int, attention_mask) -> None:
        self.kurtosis: list[float | None] = [None] * (layers + 1)
        self.largest: list[float | None] = [None] * (layers + 1)
        self.logits: list[float | None] = [None] * layers
        self.layer: int | None = None
        self.automatic = False
        padded = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
        self.mask = attention_mask.bool() if padded else None

    @torch.no_grad()
    def add_state(self, state: int, x: Tensor) -> None:
        x = x.detach()
        if self.mask is not None and self.mask.shape == x.shape[:-1]:
            x = x[self.mask]  # padding is no token
        total, count = excess_kurtosis(x)
        self.kurtosis[state] = total / count if count else None
        self.largest[state] = x.abs().max().item() if x.numel() else None

    @torch.no_grad()
    def add_logits(self, logits: Tensor) -> None:
        if self.layer is None:
            return
        value = logits.max().item()
        old = self.logits[self.layer]
        self.logits[self.layer] = _largest([value] if old is None else [old, value])

    def complete(self) -> bool:
        return self.largest[-1] is not None

    def values(self) -> dict:
        states = [k for k in self.kurtosis if k is not None]
        logits = [z for z in self.logits if z is not None]
        sizes = [x for x in self.largest if x is not None]
        return {
            "excess_kurtosis": sum(states) / len(states) if states else None,
            "excess_kurtosis_per_layer": self.kurtosis,
            "largest_activation": _largest(sizes),
            "largest_activation_per_layer": self.largest,
            "largest_attention_logit": _largest(logits),
            "largest_attention_logit_per_layer": self.logits,
        }


def _largest(values: list[float]) -> float | None:
    """The largest value; NaN if any is, which max() hides or shows depending on the order."""
    return next((v for v in values if math.isnan(v)), max(values, default=None))


class _AttentionLogits(TorchFunctionMode):
    """Sees attention wherever it is called inside a block, and computes its largest logit beside it."""

    def __init__(self, seen: _Pass) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.seen.layer is not None:
            if func is functional.scaled_dot_product_attention:
                self._product(*args, **kwargs)
            elif func in (functional.softmax, torch.softmax, Tensor.softmax):
                z = args[0] if args else kwargs.get("input")
                if isinstance(z, Tensor) and z.dim() == 4 and z.shape[-1] == z.shape[-2]:
                    cut = slice(ATTENTION_LENGTH)
                    self.seen.add_logits(z.detach()[:ATTENTION_SEQUENCES, :, cut, cut])
        return func(*args, **kwargs)

    @torch.no_grad()
    def _product(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ) -> None:
        if query.shape[-2] != key.shape[-2]:
            return  # with a cache
        cut = slice(ATTENTION_LENGTH)
        q = query.detach()[:ATTENTION_SEQUENCES, ..., cut, :].float()
        k = key.detach()[:ATTENTION_SEQUENCES, ..., cut, :].float()
        if q.shape[-3] != k.shape[-3]:
            k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
        logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
        if attn_mask is not None:
            mask = attn_mask.detach()[..., cut, cut]
            mask = mask[:ATTENTION_SEQUENCES] if mask.dim() == 4 else mask
            unseen = mask.logical_not() if mask.dtype == torch.bool else None
            logits = logits + mask if unseen is None else logits.masked_fill(unseen, -torch.inf)
        self.seen.add_logits(logits)


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The longest nn.ModuleList of modules of one class; ValueError if there is none."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len({type(x) for x in m}) == 1]
    if not lists:
        raise ValueError("no nn.ModuleList of blocks was found: name it with blocks=")
    return max(lists, key=len)


def _write(writer, values: dict) -> None:
    step = values["step"]
    for name in ("excess_kurtosis", "largest_activation", "largest_attention_logit"):
        if values[name] is not None:
            writer.add_scalar(f"outliers/{name}", values[name], step)
        for layer, value in enumerate(values[f"{name}_per_layer"]):
            if value is not None:
                writer.add_scalar(f"outliers_{name}/{layer:02d}", value, step)
