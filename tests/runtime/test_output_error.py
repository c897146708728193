"""Comparing outputs, of equal sizes and of others."""

import numpy as np

from graphpass_runtime.output_error import aligned, squared_error


def test_squares_are_summed_in_float64():
    found = np.full(3, 1e30, np.float32)
    assert squared_error(found, np.zeros(3, np.float32)) == 3 * float(np.float32(1e30)) ** 2


def test_what_one_side_lacks_counts_as_zero():
    boxes = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert squared_error(boxes, boxes[:1]) == squared_error(boxes[:1], boxes) == 25.0
    assert squared_error(boxes, boxes[:0]) == 30.0


def test_both_sides_may_lack_something():
    tall, wide = aligned(np.ones((2, 1), np.int64), np.ones((1, 3), np.int64))
    assert tall.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert wide.tolist() == [[1, 1, 1], [0, 0, 0]]
