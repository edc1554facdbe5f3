"""Bounds on how far float32 rounding may move the logits of a network, and the labels that are therefore certain.

With `u = 2**-24`, the unit roundoff of float32, and `n` = terms of a sum that are not surely zero, plus 1 for the bias
(a product with an exact 0 is 0, and adding 0 rounds nothing), a sum of products computed in float32 differs from the
exact `W @ x + b` by at most

- `gamma_n * (|W| @ |x| + |b|)`, `gamma_n = n*u / (1 - n*u)`, in the worst case, in any order of direct summation:
  Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1. This bound certifies labels;
- `min(8 * sqrt(n), n) * u * (|W| @ |x| + |b|)` with high probability: Higham and Mary, A New Approach to Probabilistic
  Rounding Error Analysis (2019), with their lambda = 8. This bound passes or fails an artifact.

Both grow by `n` times the smallest normal float32, because products may underflow. `walk` carries both bounds through
an ONNX graph, operator by operator (`rules`), as running error analysis does (Higham, section 3.3).

Winograd and FFT convolutions, TF32 and bfloat16 are not direct summation in float32, and no bound here covers them.
"""
