"""The results of a parity check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tt_edge.bundle.manifest import Evidence, Word
from tt_edge.compile.parity.texts import SettingsParity, TokenizerParity

#: Allowed relative error in fp32.
FP32_TOLERANCE = 1e-4
#: Allowed relative error as a multiple of PyTorch's own error: that of half precision, or in fp32 that of a quantized input whose
#: numbers on the edge between two steps may be rounded to either (``references/rounding.py``).
OWN_ERROR_FACTOR = 2.0
#: Allowed difference of pixels, in steps of 1/255: transformers resizes with torchvision, the runtime with Pillow.
PIXEL_TOLERANCE = 2.01
#: Relative errors of this size say little: a network whose outputs are all zero has 1.
WEAK_TOLERANCE = 0.5


def allowed(precision: str, own_error: float) -> float:
    """The relative error that is allowed where PyTorch's own is ``own_error``."""
    return max(FP32_TOLERANCE if precision == "fp32" else 0.0, OWN_ERROR_FACTOR * own_error)


@dataclass(frozen=True)
class RowParity:
    """One prompt: its length, the relative L2 error of its logits, and how its greedy tokens compare.

    ``ties`` counts tokens that differ where the reference's own margin is within the error; ``mismatches`` the others.
    """

    prompt_tokens: int
    relative_error: float
    reference_error: float
    tokens: int
    ties: int
    mismatches: int
    first_mismatch: int | None
    pictures: int = 0
    #: The largest absolute error of a logit, the network's and PyTorch's own together.
    logit_error: float = 0.0


@dataclass(frozen=True)
class FeatureParity:
    """What another ``part`` makes for the decoder, compared with PyTorch in fp32 by relative L2 errors: one feature table of the
    vision network for some images, or the encoder's keys and values of one source."""

    table: str
    pictures: int
    tokens: int
    relative_error: float
    reference_error: float
    part: str = "vision"


@dataclass(frozen=True)
class PreprocessingParity:
    """A prompt with images, compared with the checkpoint's own processor: whether token ids are equal, and the largest
    difference of a pixel in steps of 1/255."""

    pictures: int
    ids_equal: bool
    steps: float

    @property
    def passed(self) -> bool:
        return self.ids_equal and self.steps <= PIXEL_TOLERANCE


@dataclass(frozen=True)
class UnprunedAgreement:
    """For information: of ``tokens`` greedy tokens of prompts with dropped image tokens, how many are ``equal`` to those of Hugging
    Face's model with all image tokens."""

    keep: float
    equal: int
    tokens: int

    def render(self) -> str:
        kept = (
            f"{self.keep:.0%} of the image tokens"
            if self.keep <= 1
            else f"{self.keep:.0f} tokens of each frame or tile"
        )
        return (
            f"with {kept}, compared with Hugging Face's model that drops tokens by the same rule; {self.equal} of {self.tokens} "
            "greedy tokens equal those of the model with all image tokens"
        )


@dataclass(frozen=True)
class ParityReport:
    """The outcome of a parity check. ``tolerance`` bounds the relative error of every row's logits.

    A vision-language model also has ``features`` and ``preprocessing`` (or why the latter was not compared). If the
    checkpoint has a tokenizer, there is ``tokenizer`` and, for a language model, ``settings``. ``yardstick`` says in words
    what was compared with (``None``: a module that the caller had loaded). ``unpruned`` is of a bundle that drops image tokens.
    """

    precision: str
    rows: tuple[RowParity, ...]
    tolerance: float
    features: tuple[FeatureParity, ...] = ()
    layers: str | None = None
    preprocessing: PreprocessingParity | str | None = None
    tokenizer: TokenizerParity | None = None
    settings: SettingsParity | None = None
    yardstick: str | None = None
    unpruned: UnprunedAgreement | None = None

    @property
    def relative_error(self) -> float:
        return max(row.relative_error for row in self.rows)

    @property
    def features_tolerance(self) -> float:
        return allowed(self.precision, max((found.reference_error for found in self.features), default=0.0))

    @property
    def logits_passed(self) -> bool:
        # Row by row: max() of numbers that include NaN is unreliable.
        return all(row.relative_error <= self.tolerance and not row.mismatches for row in self.rows)

    @property
    def features_passed(self) -> bool:
        return all(found.relative_error <= self.features_tolerance for found in self.features)

    @property
    def preprocessing_passed(self) -> bool:
        return not isinstance(self.preprocessing, PreprocessingParity) or self.preprocessing.passed

    @property
    def texts_passed(self) -> bool:
        return all(found is None or found.passed for found in (self.tokenizer, self.settings))

    @property
    def passed(self) -> bool:
        return self.logits_passed and self.features_passed and self.preprocessing_passed and self.texts_passed

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "relative_error": self.relative_error, **asdict(self)}

    def render(self) -> str:
        """A page of text: one line per prompt, the verdict and, if it failed, where the layers diverge."""
        lines = [] if self.yardstick is None else [f"compared with  {self.yardstick}"]
        lines += [*self._text_lines(), *self._preprocessing_lines(), *self._feature_lines()]
        pictures = any(row.pictures for row in self.rows)
        extra = f"{'images':>10}" if pictures else ""
        lines.append(
            f"{'prompt':>8}{extra}{'new':>6}{'equal':>7}{'ties':>6}{'logits rel. error':>20}{'PyTorch its own':>17}"
        )
        for row in self.rows:
            equal = row.tokens - row.ties - row.mismatches
            extra = f"{row.pictures:>10}" if pictures else ""
            lines.append(
                f"{row.prompt_tokens:>8}{extra}{row.tokens:>6}{equal:>7}{row.ties:>6}"
                f"{row.relative_error:>20.2e}{row.reference_error:>17.2e}"
            )
        verdict = "match" if self.logits_passed else "DO NOT match"
        if self.unpruned is not None:
            lines.append(self.unpruned.render())
        lines.append(
            f"Hugging Face generate() and the compiled network {verdict}: largest relative error of the logits "
            f"{self.relative_error:.2e}, {self.tolerance:.2e} allowed in {self.precision}; evaluated by the reference session"
        )
        if (allowed := max(self.tolerance, self.features_tolerance)) > WEAK_TOLERANCE:
            lines.append(
                f"an error of {allowed:.2e} is allowed, because PyTorch's own is half of that, and a network of zeros has 1: this "
                "comparison proves little; compare in another precision too (--precision fp32 where nothing is quantized)"
            )
        lines += [
            f"the prompt of {row.prompt_tokens} tokens parts at new token {row.first_mismatch}"
            for row in self.rows
            if row.first_mismatch is not None
        ]
        if self.layers:
            lines += ["", "Layer by layer, on the longest prompt:", self.layers]
        return "\n".join(lines)

    def evidence(self) -> list[Evidence]:
        """The evidence to record in the bundle's manifest."""

        def said(claim: str, passed: bool, detail: str) -> Evidence:
            word = Word.EVALUATED if passed else Word.FAILED
            return Evidence(claim, word, f"{'matches' if passed else 'does NOT match'} {detail}")

        pictures = ", with and without images," if any(row.pictures for row in self.rows) else ""
        error = f"largest relative error of the logits {self.relative_error:.2e}"
        detail = f"Hugging Face generate(){pictures} over {self.rows[0].tokens} tokens, {error} in {self.precision}"
        detail += f"; compared with {self.yardstick}" if self.yardstick else ""
        detail += f"; {self.unpruned.render()}" if self.unpruned is not None else ""
        found = [said("network", self.logits_passed, detail)]
        if self.features:
            error = f"largest relative error of the features {max(f.relative_error for f in self.features):.2e}"
            part = self.features[0].part
            whose = "vision tower" if part == "vision" else part
            detail = f"Hugging Face's {whose}, {error} in {self.precision}"
            found.append(said(f"{part} network", self.features_passed, detail))
        if isinstance(self.preprocessing, PreprocessingParity):
            detail = f"the checkpoint's own processor, pixels within {self.preprocessing.steps:.1f}/255"
            found.append(said("preprocessing", self.preprocessing.passed, detail))
        if self.tokenizer is not None:
            detail = f"transformers' own tokenizer, token ids of {self.tokenizer.texts} texts"
            found.append(said("tokenizer", self.tokenizer.passed, detail))
        if self.settings is not None:
            detail = f"generate() with the checkpoint's own generation settings, greedy, {self.settings.tokens} tokens"
            left = f"; not applied: {', '.join(self.settings.not_applied)}" if self.settings.not_applied else ""
            found.append(said("generation settings", self.settings.passed, detail + left))
        return found

    def _text_lines(self) -> list[str]:
        lines = []
        if self.tokenizer is not None:
            found = self.tokenizer
            verdict = _verdict(not found.differing)
            line = f"tokenizer      token ids of {found.texts} texts beside transformers' own tokenizer: {verdict}"
            if found.differing:
                line += f", {len(found.differing)} differ, such as {found.differing[0][:40]!r}"
            lines.append(line)
            if found.chat is not None:
                lines.append(f"chat template  a chat beside transformers' own: {_verdict(found.chat)}")
        if self.settings is not None:
            own = self.settings
            parts = "" if own.first_difference is None else f", parting at new token {own.first_difference}"
            left = f"; not applied: {', '.join(own.not_applied)}" if own.not_applied else ""
            lines.append(
                f"settings       greedy text with the checkpoint's generation settings, {own.tokens} tokens{parts}: "
                f"{_verdict(own.first_difference is None)}{left}"
            )
        return lines

    def _preprocessing_lines(self) -> list[str]:
        found = self.preprocessing
        if found is None:
            return []
        if isinstance(found, str):
            return [f"preprocessing  not compared with the checkpoint's own processor: {found}"]
        ids = "token ids equal" if found.ids_equal else "token ids DIFFER"
        return [
            f"preprocessing  {found.pictures} images beside the checkpoint's own processor: {ids}, pixels within "
            f"{found.steps:.1f}/255: {_verdict(found.passed)}"
        ]

    def _feature_lines(self) -> list[str]:
        return [
            f"{_whose(found)}, {found.tokens} tokens: relative error "
            f"{found.relative_error:.2e}, PyTorch its own {found.reference_error:.2e}, {self.features_tolerance:.2e} allowed: "
            f"{_verdict(found.relative_error <= self.features_tolerance)}"
            for found in self.features
        ]


def _whose(found: FeatureParity) -> str:
    if found.part == "vision":
        return f"vision tower   {found.table} of {found.pictures} images"
    return f"{found.part:<14} {found.table} of a source"


def _verdict(passed: bool) -> str:
    return "match" if passed else "NO MATCH"
