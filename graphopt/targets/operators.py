"""Operators of the default ONNX domain that TensorRT's parser does not know, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# M: TensorRT-RTX 1.7 lacks these; TensorRT has them (R: operators.md of onnx-tensorrt).
ONLY_TENSORRT = frozenset({"DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"})

_INTEGER = (
    "write it as its float operator between QuantizeLinear and DequantizeLinear "
    "(ONNX Runtime's quantizer: quant_format=QuantFormat.QDQ)"
)
_SEQUENCE = "export the model without sequences: tensors with Concat, Split and Gather instead"
_RANDOM = "draw random numbers outside the model and make them an input"
TEXT = "process text ahead of the model"
_LOSS = "a loss is for training: leave it out of the exported model"
_OTHER = "write it with other operators, or cut the model there"

# M: what the parser of TensorRT-RTX 1.7 does not know, but for `ONLY_TENSORRT`. TensorRT's is the
# same source.
UNKNOWN: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        (
            *("AffineGrid", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"),
            *("BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "CumProd", "DFT", "Det"),
            *("ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Optional"),
            *("OptionalGetElement", "OptionalHasElement", "SwiGLU", "Unique"),
        ),
        _OTHER,
    )
    | dict.fromkeys(
        (
            *("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"),
            *("QLinearConv", "QLinearMatMul"),
        ),
        _INTEGER,
    )
    | dict.fromkeys(
        (
            *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty"),
            *("SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"),
            "SplitToSequence",
        ),
        _SEQUENCE,
    )
    | dict.fromkeys(("Bernoulli", "Multinomial"), _RANDOM)
    | dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        TEXT,
    )
    | dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _LOSS)
)
