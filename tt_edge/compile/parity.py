"""Does the compiled model still compute what Hugging Face computes?

The captured network is run by the reference session, on any machine, and compared with the checkpoint's own PyTorch
module: the logits of a ragged prefill and of every decode step, and the greedy tokens of ``generate()``.

Tolerances, and why. In fp32 both sides round at 2^-24 a step; relative errors of some 1e-6 are seen, and 1e-4 is allowed.
Greedy tokens must be equal. In half precision PyTorch itself is only near the truth, so the yardstick is measured, not
guessed: the same weights run in fp32 are the truth, PyTorch's own error against it is the unit, and the compiled model may
err by twice that (two independent roundings of one size differ by about 1.4 of it). Greedy tokens may then differ only
where PyTorch's own margin between the two is within the logits' error, which is a tie.
"""

from __future__ import annotations

import copy
import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, ParityError
from tt_edge.network.ir import Network
from tt_edge.network.plugins import KINDS, plugin_fields
from tt_edge.network.reference.evaluator import ReferenceEvaluator
from tt_edge.runtime.feeds import Step, feeds
from tt_edge.runtime.reference_session import ReferenceSession

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.bundle.reader import Bundle
    from tt_edge.contract import EngineContract
    from tt_edge.network.reference.compare import Comparison

FP32_TOLERANCE = 1e-4
HALF_PRECISION_FACTOR = 2.0


@dataclass(frozen=True)
class RowParity:
    """One prompt: its length, the relative L2 error of its logits, and how its greedy tokens compare.

    ``ties`` are tokens that differ where the reference's own margin is within the error; ``mismatches`` are the others.
    """

    prompt_tokens: int
    relative_error: float
    reference_error: float
    tokens: int
    ties: int
    mismatches: int
    first_mismatch: int | None


@dataclass(frozen=True)
class ParityReport:
    """The outcome of a parity check. ``tolerance`` bounds ``relative_error`` of every row."""

    precision: str
    rows: tuple[RowParity, ...]
    tolerance: float
    layers: str | None = None

    @property
    def relative_error(self) -> float:
        return max(row.relative_error for row in self.rows)

    @property
    def passed(self) -> bool:
        return self.relative_error <= self.tolerance and not any(row.mismatches for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "relative_error": self.relative_error, **asdict(self)}

    def render(self) -> str:
        """A page: a line a prompt, the verdict, and where the layers part when it failed."""
        lines = [f"{'prompt':>8}{'new':>6}{'equal':>7}{'ties':>6}{'logits rel. error':>20}{'PyTorch its own':>17}"]
        for row in self.rows:
            equal = row.tokens - row.ties - row.mismatches
            lines.append(
                f"{row.prompt_tokens:>8}{row.tokens:>6}{equal:>7}{row.ties:>6}"
                f"{row.relative_error:>20.2e}{row.reference_error:>17.2e}"
            )
        verdict = "match" if self.passed else "DO NOT match"
        lines.append(
            f"Hugging Face generate() and the compiled network {verdict}: largest relative error of the logits "
            f"{self.relative_error:.2e}, {self.tolerance:.2e} allowed in {self.precision}; evaluated by the reference session"
        )
        lines += [
            f"the prompt of {row.prompt_tokens} tokens parts at new token {row.first_mismatch}"
            for row in self.rows
            if row.first_mismatch is not None
        ]
        if self.layers:
            lines += ["", "Layer by layer, on the longest prompt:", self.layers]
        return "\n".join(lines)


def verify_bundle(
    bundle: Bundle, model: str | os.PathLike[str] | PreTrainedModel, *, new_tokens: int = 32, seed: int = 0
) -> ParityReport:
    """Compare a bundle with the checkpoint it was compiled from.

    ``model`` is the checkpoint's folder or hub id, or the loaded module. If the bundle is quantized, the checkpoint is
    too, in PyTorch (a loaded module in place), with the statistics that the bundle keeps: what is compared is what
    TensorRT was given with what was meant. ``tt-edge eval`` says what quantization costs. Raises ``ParityError`` when it
    is not the bundle's model at all.
    """
    from tt_edge.compile.load import load_model
    from tt_edge.compile.load_quantized import parameter_count

    manifest = bundle.manifest
    precision = Precision(manifest.config.precision)
    if isinstance(model, str | os.PathLike):
        model = load_model(model, precision)
    if type(model).__name__ != manifest.model.architecture:
        raise ParityError(
            f"the bundle is a {manifest.model.architecture}, the checkpoint a {type(model).__name__}; "
            "give the checkpoint that the bundle was compiled from"
        )
    if (count := parameter_count(model)) != manifest.model.parameters:
        raise ParityError(
            f"the bundle's model has {manifest.model.parameters:,} parameters, the checkpoint's {count:,}; "
            "give the checkpoint that the bundle was compiled from"
        )
    if (recipe := manifest.config.quant) is not None:
        from tt_edge.compile.quantize.calibrate import STATISTICS_FILE
        from tt_edge.compile.quantize.stage import quantize_again

        quantize_again(model, recipe, bundle.read_bytes(STATISTICS_FILE))
    network = bundle.network()
    with _kv_cache_of(network, model):
        return check_parity(model, network, manifest.contract, precision, new_tokens=new_tokens, seed=seed)


def _kv_cache_of(network: Network, model: PreTrainedModel) -> AbstractContextManager[None]:
    """Rounds the model's keys and values as the network's FP8 cache does, if it has one."""
    from tt_edge.compile.quantize.kv_cache import rounded_kv_cache

    fields = [plugin_fields(layer) for layer in network.layers if layer.kind in KINDS]
    scales = [
        f["qkv_scales"][1].tolist() for f in fields if "enable_fp8_kv_cache" in f and f["enable_fp8_kv_cache"][1][0]
    ]
    return rounded_kv_cache(model, scales) if scales else nullcontext()


def check_parity(
    model: PreTrainedModel,
    network: Network,
    contract: EngineContract,
    precision: Precision,
    *,
    new_tokens: int = 32,
    seed: int = 0,
) -> ParityReport:
    """Compare a captured network with the module it came from, in a ragged batch and with a batch of one."""
    prompts = _prompts(contract, new_tokens, seed)
    half = precision is not Precision.FP32
    truth = copy.deepcopy(model).float() if half else model
    session = ReferenceSession(network, contract)
    rows: list[RowParity] = []
    for batch in (prompts, prompts[:1]):
        references = [_reference(model, truth, prompt, new_tokens) for prompt in batch]
        logits = _teacher_forced(session, batch, [tokens for tokens, _, _ in references])
        rows += [_compare(p, out, *reference) for p, out, reference in zip(batch, logits, references, strict=True)]
        if len(prompts) == 1:
            break
    del truth
    own = max(row.reference_error for row in rows)
    tolerance = HALF_PRECISION_FACTOR * own if half else FP32_TOLERANCE
    report = ParityReport(precision.value, tuple(rows), tolerance)
    if not report.passed:
        longest = max(prompts, key=len)
        layers = compare_layers_with(model, network, contract, longest, tolerance).render()
        report = ParityReport(precision.value, report.rows, tolerance, layers)
    return report


def _prompts(contract: EngineContract, new_tokens: int, seed: int) -> list[list[int]]:
    """Up to three random prompts of different lengths, as many as the batch allows."""
    room = min(contract.max_input_len, contract.max_seq_len - new_tokens)
    if room < 1:
        raise InvalidInputError(
            f"{new_tokens} new tokens leave no room for a prompt in max_seq_len {contract.max_seq_len}; lower --new-tokens"
        )
    lengths = dict.fromkeys((min(room, 48), max(1, min(room, 48) // 5), max(1, min(room, 48) // 2)))
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, contract.vocab_size, length).tolist() for length in list(lengths)[: contract.max_batch]
    ]


def _reference(
    model: PreTrainedModel, truth: PreTrainedModel, prompt: list[int], new_tokens: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Greedy tokens of ``generate()``, and the logits that chose them: in the model's precision, and in fp32."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            num_beams=1,
            repetition_penalty=1.0,
        )
        tokens = out[0, len(prompt) :].tolist()
        window = slice(len(prompt) - 1, -1)
        own = model(out).logits[0, window].float().numpy()
        exact = own if truth is model else truth(out).logits[0, window].numpy()
    return tokens, own, exact


def _teacher_forced(session: ReferenceSession, prompts: list[list[int]], tokens: list[list[int]]) -> list[np.ndarray]:
    """The compiled network's logits ``[new_tokens, V]`` of each row, fed with the reference's tokens."""
    session.reset(len(prompts))
    lengths = np.array([len(p) for p in prompts])
    ids = np.zeros((len(prompts), lengths.max()), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    steps = [session.forward(ids, lengths).copy()]
    for step in range(len(tokens[0]) - 1):
        column = np.array([[row[step]] for row in tokens], np.int64)
        steps.append(session.forward(column, np.ones(len(prompts), np.int64)).copy())
    return list(np.stack(steps, axis=1))


def _compare(prompt: list[int], logits: np.ndarray, tokens: list[int], own: np.ndarray, exact: np.ndarray) -> RowParity:
    norm = float(np.linalg.norm(exact))
    chosen = logits.argmax(-1)
    wrong = np.flatnonzero(chosen != np.array(tokens))
    margins = own[wrong, np.array(tokens)[wrong]] - own[wrong, chosen[wrong]]
    # Two logits, each off by the largest error on either side.
    slack = 2 * (np.abs(logits - exact).max(-1)[wrong] + np.abs(own - exact).max(-1)[wrong])
    ties = margins <= slack
    mismatched = wrong[~ties]
    return RowParity(
        prompt_tokens=len(prompt),
        relative_error=float(np.linalg.norm(logits - exact)) / norm,
        reference_error=float(np.linalg.norm(own - exact)) / norm,
        tokens=len(tokens),
        ties=int(ties.sum()),
        mismatches=len(mismatched),
        first_mismatch=int(mismatched[0]) if len(mismatched) else None,
    )


def compare_layers_with(
    model: PreTrainedModel, network: Network, contract: EngineContract, prompt: list[int], tolerance: float
) -> Comparison:
    """Compare the output of every module of the model with the tensor that the network computes for it, in order.

    The network's layers carry the path of the module they came from, so the last layer under a path is its output.
    """
    from tt_edge.network.reference.compare import compare_layers

    evaluator = ReferenceEvaluator(network, fold_constants=False)
    outputs = _module_outputs(model, prompt)
    references: dict[str, np.ndarray] = {}
    for path, array in outputs.items():
        tensor = _tensor_of(network, path)
        if tensor is not None and _fits(network.tensors[tensor].shape, array.shape):
            references[tensor] = array
    return compare_layers(evaluator, _feeds(contract, prompt), references, tolerance)


def _module_outputs(model: PreTrainedModel, prompt: list[int]) -> dict[str, np.ndarray]:
    """Float32 outputs of all modules but the head, for one prompt, by module path."""
    outputs: dict[str, np.ndarray] = {}

    def keep(path: str) -> Any:
        def hook(_module: Any, _args: Any, result: Any) -> None:
            tensor = result[0] if isinstance(result, tuple) else result
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 3:
                outputs[path] = tensor.detach().float().numpy()

        return hook

    head = model.get_output_embeddings()
    modules = [(path, module) for path, module in model.named_modules() if path and module is not head]
    handles = [module.register_forward_hook(keep(path)) for path, module in modules]
    try:
        with torch.no_grad():
            model(torch.tensor([prompt]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _tensor_of(network: Network, path: str) -> str | None:
    """The tensor that holds the output of the module at ``path``: that of the last layer in it or its submodules."""
    pattern = re.compile(rf"(^|\[)model\.{re.escape(path)}[./]")  # the exporter's wrapper adds the leading "model."
    return next((layer.outputs[0] for layer in reversed(network.layers) if pattern.search(layer.name)), None)


def _fits(shape: tuple[int, ...], actual: tuple[int, ...]) -> bool:
    return len(shape) == len(actual) and all(d in (-1, a) for d, a in zip(shape, actual, strict=True))


def _feeds(contract: EngineContract, prompt: list[int]) -> dict[str, np.ndarray]:
    ids = np.array([prompt], np.int64)
    step = Step(contract, ids, np.array([len(prompt)]), np.zeros(1, np.int32))
    caches = [contract.input(name) for name in contract.cache_names]
    return feeds(step) | {spec.name: np.zeros(spec.resolve(batch=1), spec.dtype.numpy) for spec in caches}
