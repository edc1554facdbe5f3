// Normalise drawings: each comes on stdin as width and height, two bytes each, and its grey levels; 784 bytes leave.
import { readFileSync } from "node:fs";
import { normalise } from "./mnist.mjs";

const data = readFileSync(0);
const digits = [];
for (let place = 0; place < data.length; ) {
  const [width, height] = [data.readUInt16LE(place), data.readUInt16LE(place + 2)];
  digits.push(normalise(data.subarray(place + 4, place + 4 + width * height), width, height));
  place += 4 + width * height;
}
process.stdout.write(Buffer.concat(digits));
