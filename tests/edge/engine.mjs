// The engine onnxruntime-web of engines.py: writes the logits of each model, because NumPy compares them.
import * as ort from "onnxruntime-web";
import { readFileSync, writeFileSync } from "node:fs";
const folder = process.argv[2], digits = new Uint8Array(readFileSync(`${folder}/digits.bin`)), n = digits.length / 784;
ort.env.wasm.numThreads = 1;
for (const [name, pixels, type] of [["exact", digits, "uint8"], ["linear", Float32Array.from(digits, (x) => x / 256), "float32"]]) {
  const session = await ort.InferenceSession.create(readFileSync(`${folder}/${name}.onnx`));
  const { logits } = await session.run({ pixels: new ort.Tensor(type, pixels, [n, 784]) });
  writeFileSync(`${folder}/${name}.web.bin`, Buffer.from(logits.data.buffer, logits.data.byteOffset, logits.data.byteLength));
}
