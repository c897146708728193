"""All rules, by what an operator does; importing them registers them."""

from graphpass.timeflow import (
    rules_layout,
    rules_linear,
    rules_parts,
    rules_products,
    rules_quantised,
    rules_reduce,
    rules_resize,
)

__all__ = [
    "rules_layout",
    "rules_linear",
    "rules_parts",
    "rules_products",
    "rules_quantised",
    "rules_reduce",
    "rules_resize",
]
