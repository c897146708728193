"""Simplify a model of torch's dynamo exporter without folding BatchNormalization.

The exporter's own optimiser folds every BatchNormalization into the operator
before it, and has no switch for that. Its unoptimised graphs are littered
with constant arithmetic, so the harmless part of the optimiser is run here.
"""

from __future__ import annotations

from typing import Any


def simplify(model: Any) -> None:
    """Fold constants and tidy `model`, an ``onnx_ir.Model``, in place.

    BatchNormalization nodes stay, with mean and variance as initializers.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common as rules

    optimizer.fold_constants(model)
    rewriter.rewrite(
        model,
        [
            rules.min_max_rule,  # Min(Max(x, low), high), torch.clamp, is a Clip
            rules.max_min_rule,
            rules.materialize_reshape_shape_rule,  # a target computed from Shape(x) hides the batch
            rules.remove_optional_bias_from_conv_rule,  # a bias of zeros
            rules.remove_optional_bias_from_conv_transpose_rule,
        ],
    )
    optimizer.remove_unused_nodes(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
