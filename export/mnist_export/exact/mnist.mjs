/**
 * mnist.mjs - reads a handwritten digit, with the same integers on every machine
 *
 *     import { normalise, predict } from "./mnist.mjs";
 *     const { label, verdict } = predict(normalise(grey, width, height)); // a drawing
 *     const { label, verdict } = predict(pixels); // 28 rows of 28, 0 black to 255 white ink, as in MNIST
 *
 * An ES module without dependencies: no DOM, no WebAssembly, no dynamic code, no files, no network.
 *
 * logits     Integers; times 2 ** about.exponent they have the units of the trained network's logits.
 * predict    Label, its probability, the probabilities of all ten, and a verdict.
 * normalise  A drawing of any size up to 800 x 800, brought to MNIST's form, byte for byte as mnist-runtime does it. It
 *            takes ink on an even ground. Uneven light, ruled lines and photographs are for mnist-runtime.
 * damaged    Number of the layer whose tables are damaged, or 0.
 * selftest   Result of the self-test on the golden digits.
 * replay     The golden digits one by one, with what this engine computes of them.
 * about      Digest of the checkpoint, and SHA-256 of the logits.
 *
 * Written by mnist-export, which held it against the network that was trained.
 */

/**
 * @typedef {object} Layer
 * @property {string} about Kind and shapes, for the reader.
 * @property {number[]} input Height, width and channels.
 * @property {number[]} output Height, width and channels, after the pooling.
 * @property {number[]} kernel Height and width; those of the whole input in a linear layer.
 * @property {number} stride
 * @property {number} padding Rows and columns of zeros around the input.
 * @property {number} pool Rows and columns of which the largest is taken; 1 without pooling.
 * @property {number} poolStride
 * @property {number} bound Upper bound on every sum and partial sum in the layer.
 * @property {string} weight int8 [outputs][rows][columns][channels], base64.
 * @property {string} bias int32 [outputs], little-endian, base64.
 * @property {string} shift uint8 [outputs], base64; empty in the last layer, which keeps its sums.
 * @property {number} checksum FNV-1a of weight, bias and shift.
 */

/**
 * @typedef {object} Network
 * @property {string} checkpoint SHA-256 of the trained checkpoint.
 * @property {string} logitsSha256 SHA-256 of the logits of MNIST's 10,000 validation digits, int32, little-endian.
 * @property {string} goldenSha256 SHA-256 of the logits of the golden digits, int32, little-endian.
 * @property {number} exponent
 * @property {{confidence: number[][], odds: number}} thresholds Pairs of a stated risk and the least confidence that
 *   keeps it, and the odds of no digit against the label above which the verdict is "no digit".
 * @property {Layer[]} layers
 * @property {string} golden The golden digits, base64; after a 0 comes how many there are in a row.
 * @property {number[][]} checksums FNV-1a of each golden digit, and of what each layer makes of it.
 */

// mnist-export prints the network here.
/** @type {Network} */
const NETWORK = { checkpoint: "", logitsSha256: "", goldenSha256: "", exponent: 0, thresholds: { confidence: [], odds: 1 }, layers: [], golden: "", checksums: [] };

const SIDE = 28;
const PIXELS = SIDE * SIDE;
const CLASSES = 10;

export const about = {
  /** SHA-256 of the trained checkpoint, in hex. */
  checkpoint: NETWORK.checkpoint,
  /** SHA-256 of the logits of MNIST's 10,000 validation digits, int32, little-endian, in hex. */
  logitsSha256: NETWORK.logitsSha256,
  /** SHA-256 of the logits of the golden digits, int32, little-endian, in hex. */
  goldenSha256: NETWORK.goldenSha256,
  /** A logit of the trained network is about the integer times 2 ** exponent. */
  exponent: NETWORK.exponent,
  /** Odds of no digit against the label above which the verdict is "no digit". */
  odds: NETWORK.thresholds.odds,
  /** Number of logits. */
  outputs: NETWORK.layers.reduce((_, layer) => layer.output[2], 0),
};

// The network: activations are bytes, channels last; sums are integers below 2 ** 24.

const TOGETHER = 8; // outputs computed at a time, because they share each load of an input
const APART = 2 ** 26; // of two sums in one float64, which holds both exactly, because each is below 2 ** 24

const LAYERS = NETWORK.layers.map((layer) => {
  const weight = decode(layer.weight);
  const bias = int32(decode(layer.bias));
  const shift = decode(layer.shift);
  const checksum = hash(shift, hash(bias, hash(weight)));
  return { ...layer, weight: paired(weight, bias.length), bias, shift, intact: checksum === layer.checksum };
});

/**
 * Compute the logits.
 * @param {ArrayLike<number>} pixels 784 integers, 0 to 255.
 * @returns {Int32Array}
 */
export function logits(pixels) {
  /** @type {Int32Array} */
  let sums = new Int32Array(0);
  for (const outputs of activations(checked(pixels, PIXELS, "pixels"))) {
    if (outputs instanceof Int32Array) sums = outputs;
  }
  return sums;
}

/**
 * @typedef {object} Prediction
 * @property {number} label The class of the largest logit, 0 to 9.
 * @property {number} probability Of the label, given that the pixels show a digit.
 * @property {number[]} probabilities Of all ten.
 * @property {number} no_digit The probability that the pixels show no digit; 0 if the network has no logit for it.
 * @property {"digit" | "unsure" | "no digit"} verdict
 */

/**
 * Recognise a digit.
 * @param {ArrayLike<number>} pixels 784 integers, 0 to 255.
 * @param {number} [maxError] Largest share of wrong labels among those whose verdict is "digit", such as 0.001; the
 *   largest risk up to it that the network states decides, or, if not given, the least. 1 asks for no confidence.
 * @returns {Prediction}
 */
export function predict(pixels, maxError) {
  const least = leastConfidence(maxError);
  const scores = Array.from(logits(pixels), (logit) => logit * 2 ** NETWORK.exponent);
  const [digits, others] = [scores.slice(0, CLASSES), scores.slice(CLASSES)];
  const largest = Math.max(...digits);
  const powers = digits.map((score) => Math.exp(score - largest));
  const probabilities = powers.map((power) => power / sum(powers));
  const label = digits.indexOf(largest);
  const probability = probabilities[label];
  const no_digit = others.length ? 1 / (1 + sum(digits.map((score) => Math.exp(score - others[0])))) : 0;
  const confidence = probability * (1 - no_digit);
  const sure = confidence < least ? "unsure" : "digit";
  const verdict = no_digit > confidence * NETWORK.thresholds.odds ? "no digit" : sure;
  return { label, probability, probabilities, no_digit, verdict };
}

/**
 * Return the least confidence of the verdict "digit".
 * @param {number} [maxError]
 */
function leastConfidence(maxError) {
  const stated = [...NETWORK.thresholds.confidence, [1, 0]].sort(([risk], [other]) => risk - other);
  if (maxError === undefined) return stated[0][1];
  const kept = stated.filter(([risk]) => risk <= maxError && maxError <= 1);
  if (!kept.length) {
    throw new RangeError(`maxError is ${maxError}, and ${stated[0][0]}, this network's least risk, to 1 is wanted`);
  }
  return kept[kept.length - 1][1];
}

/**
 * Yield what each layer makes of the pixels: bytes, and the sums of the last.
 * @param {Uint8Array} pixels
 * @returns {Generator<Uint8ClampedArray | Int32Array>}
 */
function* activations(pixels) {
  /** @type {Uint8Array | Uint8ClampedArray} */
  let input = pixels;
  for (const layer of LAYERS) {
    const sums = convolved(layer, layer.padding ? padded(layer, input) : input);
    if (!layer.shift.length) {
      yield sums;
      return;
    }
    const outputs = new Uint8ClampedArray(sums.length); // clamps at 0, which is ReLU, and at 255
    const { shift } = layer;
    for (let i = 0, channel = 0; i < sums.length; i++) {
      outputs[i] = sums[i] >> shift[channel];
      if (++channel === shift.length) channel = 0;
    }
    input = layer.pool > 1 ? pooled(layer, outputs) : outputs;
    yield input;
  }
}

/** @typedef {typeof LAYERS[number]} Decoded */

/** @param {Decoded} layer @returns {{height: number, width: number}} the sides of the sums, before the pooling */
function sides({ input, kernel, stride, padding }) {
  const [height, width] = [0, 1].map((axis) => Math.floor((input[axis] + 2 * padding - kernel[axis]) / stride) + 1);
  return { height, width };
}

/**
 * Take the sums of products over every window, which is copied into one piece first.
 * @param {Decoded} layer
 * @param {Uint8Array | Uint8ClampedArray} input With its padding.
 * @returns {Int32Array}
 */
function convolved(layer, input) {
  const { bias, weight, stride } = layer;
  const { height, width } = sides(layer);
  const outputs = bias.length;
  const channels = layer.input[2];
  const rowLength = (layer.input[1] + 2 * layer.padding) * channels;
  const run = layer.kernel[1] * channels;
  const size = layer.kernel[0] * run;
  const patch = new Float64Array(size);
  const pairs = new Float64Array(TOGETHER / 2);
  const sums = new Int32Array(height * width * outputs);
  for (let y = 0, place = 0; y < height; y++) {
    for (let x = 0; x < width; x++, place += outputs) {
      let from = y * stride * rowLength + x * stride * channels;
      for (let to = 0; to < size; from += rowLength) {
        for (let i = 0; i < run; i++) patch[to++] = input[from + i];
      }
      for (let first = 0, w = 0; first < outputs; first += TOGETHER) {
        let a = 0;
        let b = 0;
        let c = 0;
        let d = 0;
        for (let k = 0; k < size; k++, w += 4) {
          const value = patch[k];
          a += weight[w] * value;
          b += weight[w + 1] * value;
          c += weight[w + 2] * value;
          d += weight[w + 3] * value;
        }
        pairs[0] = a;
        pairs[1] = b;
        pairs[2] = c;
        pairs[3] = d;
        for (let i = first; i < Math.min(first + TOGETHER, outputs); i++) {
          const pair = pairs[(i - first) >> 1];
          const odd = Math.round(pair / APART);
          sums[place + i] = bias[i] + (i % 2 ? odd : pair - odd * APART);
        }
      }
    }
  }
  return sums;
}

/**
 * Surround the input with zeros.
 * @param {Decoded} layer
 * @param {Uint8Array | Uint8ClampedArray} input
 */
function padded(layer, input) {
  const [height, width, channels] = layer.input;
  const run = width * channels;
  const wider = run + 2 * layer.padding * channels;
  const output = new Uint8Array((height + 2 * layer.padding) * wider);
  for (let y = 0; y < height; y++) {
    output.set(input.subarray(y * run, (y + 1) * run), (y + layer.padding) * wider + layer.padding * channels);
  }
  return output;
}

/**
 * Take the largest of each window.
 * @param {Decoded} layer
 * @param {Uint8ClampedArray} input
 */
function pooled(layer, input) {
  const { pool, poolStride } = layer;
  const [height, width, channels] = layer.output;
  const rowLength = sides(layer).width * channels;
  const output = new Uint8ClampedArray(height * width * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < channels; channel++, to++) {
        const corner = y * poolStride * rowLength + x * poolStride * channels + channel;
        for (let v = 0; v < pool; v++) {
          for (let u = 0; u < pool; u++) {
            output[to] = Math.max(output[to], input[corner + v * rowLength + u * channels]);
          }
        }
      }
    }
  }
  return output;
}

/**
 * Lay the weights of outputs that are computed together side by side, each odd output's in one float64 with its
 * neighbour's.
 * @param {Uint8Array} bytes int8 [outputs][size].
 * @param {number} outputs
 */
function paired(bytes, outputs) {
  const size = bytes.length / outputs;
  const weight = new Float64Array((Math.ceil(outputs / TOGETHER) * TOGETHER * size) / 2);
  new Int8Array(bytes.buffer).forEach((value, i) => {
    const output = Math.floor(i / size);
    const first = output - (output % TOGETHER);
    const place = (first * size + (i % size) * TOGETHER + (output % TOGETHER)) >> 1;
    weight[place] += output % 2 ? value * APART : value;
  });
  return weight;
}

// The proof.

/** Number of the first layer whose tables are not the published ones; 0 if all are. */
export const damaged = 1 + LAYERS.findIndex(({ intact }) => !intact);

/**
 * Compute the golden digits, one at a time. `layer` is the first whose checksum is not the published one, 0 if that is
 * the digit's own, and -1 if all are equal.
 * @returns {Generator<{pixels: Uint8Array, logits: Int32Array, layer: number}>}
 */
export function* replay() {
  const packed = decode(NETWORK.golden);
  let place = 0;
  for (const checksums of NETWORK.checksums) {
    const pixels = new Uint8Array(PIXELS);
    for (let i = 0; i < PIXELS && place < packed.length; ) {
      pixels[i] = packed[place++];
      i += pixels[i] ? 1 : packed[place++];
    }
    const steps = [pixels, ...activations(pixels)];
    const layer = steps.findIndex((values, i) => hash(values) !== checksums[i]);
    yield { pixels, logits: Int32Array.from(steps[steps.length - 1]), layer };
  }
}

/**
 * Test whether this engine computes the golden digits as they were published. Otherwise `digit` is the first that
 * differs, from 1, and `layer` the first layer whose checksum does (0: the digit itself is damaged). Where the tables of
 * a layer are damaged, `digit` is 0.
 * @returns {{passed: boolean, digit: number, layer: number}}
 */
export function selftest() {
  if (damaged) return { passed: false, digit: 0, layer: damaged };
  let digit = 0;
  for (const { layer } of replay()) {
    digit += 1;
    if (layer >= 0) return { passed: false, digit, layer };
  }
  return { passed: true, digit: 0, layer: 0 };
}

/**
 * Return the FNV-1a hash of values, with which any one that changes changes the hash.
 * @param {ArrayLike<number>} values
 * @param {number} start
 */
function hash(values, start = 2166136261) {
  for (let i = 0; i < values.length; i++) start = Math.imul(start ^ values[i], 16777619);
  return start >>> 0;
}

/** @param {string} text base64; written out because not every engine has atob */
function decode(text) {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const length = text.indexOf("=") < 0 ? text.length : text.indexOf("=");
  const bytes = new Uint8Array(Math.floor((length * 3) / 4));
  for (let i = 0, bits = 0, to = 0; i < length; i++) {
    bits = (bits << 6) | alphabet.indexOf(text[i]);
    if (i % 4) bytes[to++] = bits >> (6 - 2 * (i % 4));
  }
  return bytes;
}

/** @param {Uint8Array} bytes */
function int32(bytes) {
  const view = new DataView(bytes.buffer);
  return Int32Array.from({ length: bytes.length / 4 }, (_, i) => view.getInt32(4 * i, true));
}

/**
 * Return integers 0 to 255 as bytes; refuse everything else.
 * @param {ArrayLike<number>} values
 * @param {number} count
 * @param {string} name
 */
function checked(values, count, name) {
  if (!values || values.length !== count) {
    throw new RangeError(`${name} has ${values ? values.length : "no"} values, and ${count} are wanted, row by row`);
  }
  const bytes = Uint8Array.from(values);
  const odd = bytes.findIndex((byte, i) => byte !== values[i]);
  if (odd >= 0) throw new RangeError(`${name}[${odd}] is ${values[odd]}, and an integer from 0 to 255 is wanted`);
  return bytes;
}

// Drawings: the integers of mnist_runtime.ink, step by step and name by name.

const BOX = 20; // pixels of the ink's longest side
const CENTRE = 14; // row and column of the centre of mass
const UNIT = 16; // stroke widths and distances are counted in sixteenths of a pixel
const THINNEST = 24; // stroke widths that are left alone, in units of a pixel of the 28 x 28
const THICKEST = 96;
const FINE = 3 * BOX; // pixels of the ink's longest side where strokes are measured and redrawn
const LARGEST = 800; // pixels of a side
const FAINTEST = 24; // grey levels between ink and ground
const MARGIN = 8; // pixels around the fine picture
const FINE_SIDE = FINE + 2 * MARGIN;

/** @typedef {{ink: Uint8Array, height: number, width: number}} Picture */

/**
 * Bring a drawing, dark on light or light on dark, to MNIST's form.
 * @param {ArrayLike<number>} grey Grey levels 0 to 255, row by row.
 * @param {number} width At most 800.
 * @param {number} height At most 800.
 * @returns {Uint8Array} 784 pixels.
 */
export function normalise(grey, width, height) {
  if (!(width >= 1 && width <= LARGEST && height >= 1 && height <= LARGEST)) {
    throw new RangeError(`the drawing has ${width} x ${height} pixels, and 1 to ${LARGEST} a side are wanted; scale it`);
  }
  const picture = { ink: drawn(checked(grey, width * height, "grey")), height, width };
  const fine = framed(scaled(picture, FINE));
  const strokes = measured(fine);
  const wanted = Math.min(Math.max(strokes.width, THINNEST), THICKEST);
  return centred(scaled(strokes.width === wanted ? picture : redrawn(strokes, wanted), BOX));
}

/**
 * Return the ink of a drawing, 0 for bare ground to 255 for a solid stroke.
 * @param {Uint8Array} grey
 */
function drawn(grey) {
  const counts = new Float64Array(256);
  for (const level of grey) counts[level] += 1;
  const ground = counts.indexOf(Math.max(...counts));
  if (2 * counts[ground] < grey.length) {
    throw new Error("the ground is not even, as in a photograph; mnist-runtime reads photographs, this module drawings");
  }
  const direction = sum(counts.map((count, level) => count * (level - ground))) < 0 ? -1 : 1;
  const depths = new Float64Array(256);
  counts.forEach((count, level) => (depths[Math.max(direction * (level - ground), 0)] += count));
  let deepest = 255;
  while (!depths[deepest]) deepest -= 1;
  const deep = depths.map((count, depth) => (2 * depth >= deepest ? count : 0));
  let solid = 0;
  for (let covered = deep[0]; 4 * covered < 3 * sum(deep); ) covered += deep[++solid];
  if (solid < FAINTEST) throw new Error("nothing stands out from the ground; draw darker or lighter than it");
  const shades = counts.map((_, level) => {
    const depth = direction * (level - ground);
    return 10 * depth <= solid ? 0 : Math.min(255, Math.floor((510 * depth + solid) / (2 * solid)));
  });
  return grey.map((level) => shades[level]);
}

/**
 * Find the smallest box around the pixels above 0; its height and width are 0 if there is none.
 * @param {Picture} picture
 */
function box({ ink, height, width }) {
  let [top, bottom, left, right] = [height, 0, width, 0];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!ink[i]) continue;
      if (y < top) top = y;
      if (x < left) left = x;
      if (x >= right) right = x + 1;
      bottom = y + 1;
    }
  }
  return bottom ? { top, left, height: bottom - top, width: right - left } : { top: 0, left: 0, height: 0, width: 0 };
}

/**
 * Bring the picture's box to `side` pixels on its longest side: columns are filtered first and rounded, then rows.
 * @param {Picture} picture
 * @param {number} side
 * @returns {Picture} In the upper left corner of `side` x `side`.
 */
function scaled(picture, side) {
  const found = box(picture);
  const longest = Math.max(found.height, found.width, 1);
  const [height, width] = [found.height, found.width].map((length) =>
    Math.max(1, Math.floor((2 * side * length + longest) / (2 * longest))),
  );
  const down = new Uint8Array(side * found.width);
  const across = new Uint8Array(side * side);
  for (let x = 0; x < found.width; x++) {
    const start = found.top * picture.width + found.left + x;
    filtered(picture.ink, start, picture.width, found.height, down, x, found.width, height);
  }
  for (let y = 0; y < height; y++) filtered(down, y * found.width, 1, found.width, across, y * side, 1, width);
  return { ink: across, height: side, width: side };
}

/**
 * Bring a line of `length` values to `size` by the triangle filter of antialiased resizing.
 * @param {Uint8Array} from
 * @param {number} start Place of the first value, and `step` to the next.
 * @param {number} step
 * @param {number} length
 * @param {Uint8Array} to
 * @param {number} first Place of the first result, and `stride` to the next.
 * @param {number} stride
 * @param {number} size
 */
function filtered(from, start, step, length, to, first, stride, size) {
  const reach = 2 * Math.max(length, size);
  for (let i = 0; i < size; i++) {
    const middle = (2 * i + 1) * length;
    const last = Math.min(length - 1, Math.floor(((middle + reach) / size - 1) / 2));
    let weighted = 0;
    let total = 0;
    for (let j = Math.max(0, Math.floor(((middle - reach) / size - 1) / 2)); j <= last; j++) {
      const weight = reach - Math.abs(middle - (2 * j + 1) * size);
      if (weight <= 0) continue;
      weighted += weight * from[start + j * step];
      total += weight;
    }
    to[first + i * stride] = Math.floor((2 * weighted + total) / (2 * total));
  }
}

/** @param {Picture} picture @returns {Picture} with a margin around it */
function framed({ ink, height, width }) {
  const wider = new Uint8Array(FINE_SIDE * FINE_SIDE);
  for (let y = 0; y < height; y++) wider.set(ink.subarray(y * width, (y + 1) * width), (y + MARGIN) * FINE_SIDE + MARGIN);
  return { ink: wider, height: FINE_SIDE, width: FINE_SIDE };
}

/**
 * Measure strokes: a pixel is lit from a quarter of the picture's highest ink on. `drawn` is the width of what is lit, in
 * units of a fine pixel, and `width` that of the ink, in units of a pixel of the 28 x 28.
 * @param {Picture} fine
 */
function measured({ ink }) {
  const peak = Math.max(1, ...ink);
  const lit = Uint8Array.from(ink, (value) => (4 * value >= peak ? 1 : 0));
  const inside = distances(lit, 0, FINE / 2);
  const count = Math.max(1, sum(lit));
  const wide = Math.floor((4 * (sum(inside) - (UNIT / 2) * count)) / count);
  return { lit, inside, drawn: wide, width: Math.floor((wide * sum(ink) * BOX) / (255 * FINE * count)) };
}

/**
 * Redraw strokes such that they have this width, in units, once they are scaled to 20 pixels.
 * @param {ReturnType<typeof measured>} strokes
 * @param {number} width
 * @returns {Picture}
 */
function redrawn(strokes, width) {
  const even = Math.floor(((UNIT / 2) * (width * FINE - BOX * strokes.drawn)) / (UNIT * BOX - width));
  const step = Math.max(even, UNIT - Math.max(...strokes.inside));
  const outside = distances(strokes.lit, 1, MARGIN);
  const ink = strokes.lit.map((lit, i) => {
    const depth = lit ? step + strokes.inside[i] : step + UNIT - outside[i];
    return Math.floor((Math.min(Math.max(depth, 0), UNIT) * 255) / UNIT);
  });
  return { ink, height: FINE_SIDE, width: FINE_SIDE };
}

/**
 * Return each pixel's distance to the nearest one of `target`, in units, at most `reach` + 1 pixels: along rows first,
 * then over the rows above and below.
 * @param {Uint8Array} lit
 * @param {0 | 1} target
 * @param {number} reach
 */
function distances(lit, target, reach) {
  const far = reach + 1;
  const along = new Int32Array(lit.length);
  for (let row = 0; row < lit.length; row += FINE_SIDE) {
    for (let x = 0, away = far; x < FINE_SIDE; x++) {
      away = lit[row + x] === target ? 0 : Math.min(away + 1, far);
      along[row + x] = away;
    }
    for (let x = FINE_SIDE - 1, away = far; x >= 0; x--) {
      away = lit[row + x] === target ? 0 : Math.min(away + 1, far);
      along[row + x] = Math.min(along[row + x], away) ** 2;
    }
  }
  return along.map((square, i) => {
    let nearest = square;
    for (let rows = 1; rows <= reach && rows * rows < nearest; rows++) {
      const [above, below] = [i - rows * FINE_SIDE, i + rows * FINE_SIDE];
      if (above >= 0) nearest = Math.min(nearest, along[above] + rows * rows);
      if (below < along.length) nearest = Math.min(nearest, along[below] + rows * rows);
    }
    return Math.floor(Math.sqrt(UNIT * UNIT * nearest));
  });
}

/**
 * Set ink in 28 x 28 with its centre of mass as near to pixel (14, 14) as whole pixels go.
 * @param {Picture} picture
 */
function centred(picture) {
  const { ink, width } = picture;
  const found = box(picture);
  const mass = Math.max(1, sum(ink));
  let [rows, columns] = [0, 0];
  for (let i = 0; i < ink.length; i++) {
    rows += Math.floor(i / width) * ink[i];
    columns += (i % width) * ink[i];
  }
  const corner = (/** @type {number} */ moment, /** @type {number} */ end) =>
    Math.min(Math.max(0, Math.floor((2 * CENTRE * mass - 2 * moment + mass) / (2 * mass))), SIDE - end);
  const top = corner(rows, found.top + found.height);
  const left = corner(columns, found.left + found.width);
  const pixels = new Uint8Array(PIXELS);
  for (let i = 0; i < ink.length; i++) {
    if (ink[i]) pixels[(top + Math.floor(i / width)) * SIDE + left + (i % width)] = ink[i];
  }
  return pixels;
}

/** @param {ArrayLike<number>} values */
function sum(values) {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}
