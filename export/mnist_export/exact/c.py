"""C of an exact network: one header for every compiler, with golden digits for a self-test on the device."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_export.exact.network import Convolution, ExactNetwork
from mnist_export.exact.stage import HASH_FACTOR, HASH_START, Stage, golden_checksums, pack, stages
from mnist_runtime.digits import PIXELS, Intensities
from mnist_runtime.model.comparison import TEN
from mnist_runtime.verdicts import Thresholds

_WIDTH = 116  # columns of a table's lines


def to_header(
    network: ExactNetwork, golden: Intensities, thresholds: Thresholds, *, checkpoint: str, logits_sha256: str
) -> bytes:
    """Print `network` as `mnist.h`.

    Args:
        network: Network to print.
        golden: Digits of the self-test, uint8 `[N, 784]`, N from 1 to 99.
        thresholds: Thresholds of the verdicts; their odds are used if the network has eleven logits.
        checkpoint: SHA-256 of the checkpoint that the network was made from.
        logits_sha256: SHA-256 of the logits of the validation digits.
    """
    layers = stages(network)
    no_digit = no_digit_threshold(network, thresholds)
    parts = [_head(network, layers, no_digit, checkpoint, logits_sha256), _prologue(network, layers, no_digit)]
    parts += [part for stage in layers for part in (_tables(stage), _function(stage))]
    parts += [_network(layers, no_digit), _selftest(network, layers, golden)]
    return "\n".join(parts).encode("ascii")


def no_digit_threshold(network: ExactNetwork, thresholds: Thresholds) -> int | None:
    """Return the threshold on the eleventh logit minus the label's, above which a picture is no digit, or None.

    The logarithm of the odds lies midway between two multiples of the logits' unit, so integers and probabilities give
    the same verdicts.
    """
    if network.outputs == TEN:
        return None
    return math.floor(math.ldexp(math.log(thresholds.odds), -network.exponent))


def _head(network: ExactNetwork, stages: list[Stage], no_digit: int | None, checkpoint: str, logits_sha256: str) -> str:
    layers = "\n".join(
        f" *   {stage.number}  {stage.description:<80} 2^{bound.bit_length()}"
        for stage, bound in zip(stages, network.bounds(), strict=True)
    )
    tables, stack = sum(map(_table_bytes, stages)), max(map(_stack_bytes, stages))
    is_none = "" if no_digit is None else _NO_DIGIT
    buffer = "1 byte" if len(stages) == 1 else f"{_buffer_size(stages):,} bytes"
    return f"""\
/* mnist.h - reads a handwritten digit, with the same result on every processor
 *
 *     #include "mnist.h"                    in one source file
 *     int label = mnist_predict(pixels);    uint8_t pixels[{PIXELS}]: 28 rows of 28, from 0, black, to 255, white ink
 *
 * C99 and C++17. Needs <stdint.h> and nothing else: no libc, no heap, no recursion, no floating point, and no global
 * state but one static buffer of {buffer}. The tables take {tables:,} bytes, arrays on the stack {stack:,}.
 *
 * mnist_logits    MNIST_OUTPUTS integers; times 2^MNIST_EXPONENT they have the units of the trained network's logits
 * mnist_logits_r  the same with MNIST_BUFFER_SIZE bytes of the caller's in place of the static buffer: reentrant
 * mnist_predict   label of a digit, 0 to {TEN - 1}{is_none}
 * mnist_selftest  0 if this machine computes the golden digits as they were published. Otherwise 100 * d + l: the
 *                 first golden digit that differs, d, from 1, and the first layer whose checksum does, l (0: the digit
 *                 itself is damaged). Below 100: the layer whose tables are damaged.
 *
 * Define before the #include, where wanted:
 * MNIST_BUFFER       an array of MNIST_BUFFER_SIZE bytes of yours, in place of the static buffer
 * MNIST_NO_SELFTEST  to leave out mnist_selftest, its golden digits and their {PIXELS} bytes of stack
 *
 * Layers, and the upper bound on every sum and partial sum in each:
{layers}
 *
 * Made from checkpoint {checkpoint}
 * by mnist-export, which held it against the network that was trained.
 * SHA-256 of the logits of MNIST's 10,000 validation digits, int32, little-endian:
 * {logits_sha256}
 */"""


_NO_DIGIT = """; or -1 for what is no digit, where the eleventh logit minus the label's
 *                 is above MNIST_NO_DIGIT, which is in the unit of the logits and was chosen on validation digits"""


def _table_bytes(stage: Stage) -> int:
    return stage.weight.size + len(stage.weight) * (4 if stage.layer.shift is None else 5)


def _stack_bytes(stage: Stage) -> int:
    """Return the bytes of the layer's arrays on the stack."""
    size = 2 * stage.weight[0].size + 4 * len(stage.weight)
    return size if isinstance(stage.layer, Convolution) else 0


def _buffer_size(stages: Sequence[Stage]) -> int:
    """Return the largest size in bytes of a layer's inputs and outputs together; pixels are in the caller's memory."""
    sizes = [0, *(stage.size for stage in stages)]
    return max(1, *(one + other for one, other in itertools.pairwise(sizes)))  # C has no empty arrays


def _prologue(network: ExactNetwork, stages: Sequence[Stage], no_digit: int | None) -> str:
    threshold = "" if no_digit is None else f"\n#define MNIST_NO_DIGIT ({no_digit})"
    return f"""
#ifndef MNIST_H
#define MNIST_H

#include <stdint.h>

#define MNIST_OUTPUTS {network.outputs}
#define MNIST_EXPONENT ({network.exponent}){threshold}
#define MNIST_BUFFER_SIZE {_buffer_size(stages)}

#ifndef MNIST_BUFFER
static uint8_t mnist_buffer[MNIST_BUFFER_SIZE];
#define MNIST_BUFFER mnist_buffer
#endif

/* An activation: the sum without its last bits, within 0..255. */
static inline uint8_t mnist_activation(int32_t sum, uint8_t shift)
{{
    if (sum < 0)
        return 0;
    sum >>= shift;
    return (uint8_t)(sum > 255 ? 255 : sum);
}}"""


def _tables(stage: Stage) -> str:
    n, layer = stage.number, stage.layer
    rows, columns, channels = stage.weight.shape[1:]
    tables = [
        f"\n/* Layer {n}: {stage.description} */\n\n/* [{len(stage.weight)}][{rows}][{columns}][{channels}] */",
        _array("int8_t", f"mnist_weight{n}", stage.weight.reshape(len(stage.weight), -1)),
        _array("int32_t", f"mnist_bias{n}", layer.bias[None]),
    ]
    if layer.shift is not None:
        tables.append(_array("uint8_t", f"mnist_shift{n}", layer.shift[None]))
    return "\n".join(tables)


def _array(kind: str, name: str, rows: NDArray[np.integer[Any]]) -> str:
    lines = (textwrap.fill(", ".join(map(str, row)) + ",", _WIDTH, break_on_hyphens=False) for row in rows.tolist())
    body = textwrap.indent("\n".join(lines), "    ")
    return f"static const {kind} {name}[{rows.size}] = {{\n{body}\n}};"


def _function(stage: Stage) -> str:
    layer = stage.layer
    body = _convolution(stage, layer) if isinstance(layer, Convolution) else _linear(stage)
    result = "int32_t *logits" if layer.shift is None else "uint8_t *out"
    return f"""
static inline void mnist_layer{stage.number}(const uint8_t *in, {result})
{{
{_indent(body)}
}}"""


def _linear(stage: Stage) -> str:
    n, outputs, inputs = stage.number, stage.outputs[0], stage.weight[0].size
    result = f"out[i] = mnist_activation(sum, mnist_shift{n}[i]);" if stage.size else "logits[i] = sum;"
    body = f"""\
int32_t sum = mnist_bias{n}[i];
{_loop("k", inputs, "sum += *weight++ * in[k];")}
{result}"""
    return f"const int8_t *weight = mnist_weight{n};\n{_loop('i', outputs, body)}"


def _convolution(stage: Stage, layer: Convolution) -> str:
    """Print loops that copy each window into one piece of memory and add up its products for every output."""
    n, (outputs, height, width), size = stage.number, stage.outputs, stage.weight[0].size
    sums = f"""\
int32_t sum = mnist_bias{n}[i];
{_loop("k", size, f"sum += mnist_weight{n}[{size} * i + k] * window[k];")}
{"sums[i] = sum > sums[i] ? sum : sums[i];" if layer.pool > 1 else "sums[i] = sum;"}"""
    body = f"{_window(stage, layer)}\n{_loop('i', outputs, sums)}"
    if layer.pool > 1:  # sums start at 0, because the activation makes every negative sum 0
        body = _loop("v", layer.pool, _loop("u", layer.pool, body))
        body = f"{_loop('i', outputs, 'sums[i] = 0;')}\n{body}"
    body += "\n" + _loop("i", outputs, f"*out++ = mnist_activation(sums[i], mnist_shift{n}[i]);")
    return f"int16_t window[{size}];\nint32_t sums[{outputs}];\n{_loop('y', height, _loop('x', width, body))}"


def _window(stage: Stage, layer: Convolution) -> str:
    rows, columns, channels = stage.weight.shape[1:]
    _, height, width = stage.inputs
    top, left = (_place(axis, layer) for axis in ("y", "x"))
    if not layer.padding:
        row = f"({top})" if " " in top else top
        place = f"{_times(row, width)} + {left}"
        place = f"({place})" if channels > 1 else place
        corner = f"const uint8_t *corner = in + {_times(place, channels)};"
        run = columns * channels
        copy = f"window[{_times('row', run)} + k] = corner[{_times('row', width * channels)} + k];"
        return f"{corner}\n{_loop('row', rows, _loop('k', run, copy))}"
    copy = f"""\
const int yy = {top} + row, xx = {left} + column;
const int inside = yy >= 0 && yy < {height} && xx >= 0 && xx < {width};
{_loop("k", channels, f"*next++ = inside ? in[{_times(f'(yy * {width} + xx)', channels)} + k] : 0;")}"""
    return f"int16_t *next = window;\n{_loop('row', rows, _loop('column', columns, copy))}"


def _place(axis: str, layer: Convolution) -> str:
    """Print the row or column of a window's corner."""
    place = axis
    if layer.pool > 1:
        place = f"{_times(axis, layer.pool_stride)} + {'v' if axis == 'y' else 'u'}"
    if layer.stride > 1:
        place = _times(f"({place})", layer.stride)
    return f"{place} - {layer.padding}" if layer.padding else place


def _times(value: str, factor: int) -> str:
    return value if factor == 1 else f"{factor} * {value}"


def _loop(name: str, n: int, body: str) -> str:
    """Print a loop, with braces around a body of more than one line."""
    opening, closing = (" {", "\n}") if "\n" in body else ("", "")
    return f"for (int {name} = 0; {name} < {n}; {name}++){opening}\n{_indent(body)}{closing}"


def _indent(text: str) -> str:
    return textwrap.indent(text, "    ")


def _network(stages: Sequence[Stage], no_digit: int | None) -> str:
    label = "label" if no_digit is None else f"logits[{TEN}] - logits[label] > MNIST_NO_DIGIT ? -1 : label"
    size = _buffer_size(stages)
    place, lines = "pixels", []
    for stage in stages:
        n, result, checksum = stage.number, "logits", f"mnist_hash32(MNIST_HASH, logits, {stage.outputs[0]})"
        if stage.size:
            result = "buffer" if n % 2 or size == stage.size else f"buffer + {size - stage.size}"
            checksum = f"mnist_hash8(MNIST_HASH, {result}, {stage.size})"
        lines.append(
            f"mnist_layer{n}({place}, {result});\nif (checksums && {checksum} != checksums[{n}])\n    return {n};"
        )
        place = result
    steps = _indent("\n".join(lines if len(stages) > 1 else ["(void)buffer;", *lines]))
    return f"""
/* Checksums: FNV-1a over values, with which any one that changes changes the sum. */
#define MNIST_HASH {HASH_START}u

static inline uint32_t mnist_hash8(uint32_t hash, const uint8_t *values, int32_t n)
{{
    while (n--)
        hash = (hash ^ *values++) * {HASH_FACTOR}u;
    return hash;
}}

static inline uint32_t mnist_hash32(uint32_t hash, const int32_t *values, int32_t n)
{{
    while (n--)
        hash = (hash ^ (uint32_t)*values++) * {HASH_FACTOR}u;
    return hash;
}}

/* All layers; inputs and outputs lie at opposite ends of the buffer in turn. Where there are checksums, of the pixels
   and then of each layer, stop at the first that differs and return its place; otherwise return -1. */
static inline int mnist_run(const uint8_t *pixels, int32_t *logits, uint8_t *buffer, const uint32_t *checksums)
{{
    if (checksums && mnist_hash8(MNIST_HASH, pixels, {PIXELS}) != checksums[0])
        return 0;
{steps}
    return -1;
}}

static inline void mnist_logits_r(const uint8_t *pixels, int32_t *logits, uint8_t *buffer)
{{
    mnist_run(pixels, logits, buffer, 0);
}}

static inline void mnist_logits(const uint8_t *pixels, int32_t *logits)
{{
    mnist_logits_r(pixels, logits, MNIST_BUFFER);
}}

static inline int mnist_predict(const uint8_t *pixels)
{{
    int32_t logits[MNIST_OUTPUTS];
    int label = 0;
    mnist_logits(pixels, logits);
    for (int i = 1; i < {TEN}; i++)
        if (logits[i] > logits[label])
            label = i;
    return {label};
}}"""


def _selftest(network: ExactNetwork, stages: Sequence[Stage], golden: Intensities) -> str:
    packed = pack(golden)
    table = _array("uint8_t", "mnist_golden", np.frombuffer(packed + bytes(1), np.uint8)[None])
    checksums = golden_checksums(network, golden)
    tables = _indent("\n".join(map(_table_check, stages)))
    hexadecimal = ",\n    ".join("{" + ", ".join(f"0x{value:08x}u" for value in row) + "}" for row in checksums)
    return f"""
#ifndef MNIST_NO_SELFTEST

/* {len(golden)} golden digits, pixel by pixel; after a 0 comes how many there are in a row. The last 0 is padding. */
{table}

static const uint32_t mnist_golden_checksums[{len(golden)}][{len(stages) + 1}] = {{
    {hexadecimal},
}};

static inline int mnist_selftest(void)
{{
    const uint8_t *packed = mnist_golden, *end = mnist_golden + {len(packed)};
    uint8_t pixels[{PIXELS}], ink = 0;
    int32_t logits[MNIST_OUTPUTS];
{tables}
    for (int digit = 0; digit < {len(golden)}; digit++) {{
        for (int i = 0, run = 0; i < {PIXELS}; i++, run--) {{
            if (run <= 0 && packed < end) {{
                ink = *packed++;
                run = ink ? 1 : *packed++;
            }}
            pixels[i] = ink;
        }}
        const int layer = mnist_run(pixels, logits, MNIST_BUFFER, mnist_golden_checksums[digit]);
        if (layer >= 0)
            return 100 * (digit + 1) + layer;
    }}
    return 0;
}}

#endif /* MNIST_NO_SELFTEST */

#endif /* MNIST_H */
"""


def _table_check(stage: Stage) -> str:
    n, layer = stage.number, stage.layer
    hash_ = f"mnist_hash8(MNIST_HASH, (const uint8_t *)mnist_weight{n}, {stage.weight.size})"
    hash_ = f"mnist_hash32({hash_}, mnist_bias{n}, {layer.bias.size})"
    if layer.shift is not None:
        hash_ = f"mnist_hash8({hash_}, mnist_shift{n}, {layer.shift.size})"
    return f"if ({hash_}\n        != 0x{stage.checksum:08x}u)\n    return {n};"
