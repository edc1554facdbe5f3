// The page's behaviour: strokes become a picture, the picture one question at a time, the answer what is shown.
// With a network inside the page, the question goes to the network, and else to the server that the page came from.

const SIDE = 28; // units of the sheet's side: one is a pixel of the model's image
const PEN = 2.4; // units of a stroke's width: once the server has scaled a digit to 20, about that of MNIST's own
const MARGIN = 4; // units of empty paper around the sheet, by which the server tells ink from background
const FINE = 7; // pixels per unit of the picture: 252 a side, because the server reduces pictures beyond 256
const PATIENCE = 10_000; // ms to wait for an answer
const RETRY = 2_000; // ms between attempts to reach a server that is away or busy
const AWAY = "the server does not answer; the sheet is kept, and sent again until it does";
const BLOCKED = "the network inside this page is damaged: its SHA-256 is not the published one; get the page again";
const TOO_LARGE = "the image is larger than this server takes; crop it to the digit, or make it smaller";
const BLANK = { strokes: [], image: null, file: null };

const get = (id) => document.getElementById(id);
const [frame, sheet, answer] = [get("frame"), get("sheet"), get("answer")];
const reading = document.createElement("canvas"); // the drawing as it is read: white on black, whatever the theme
reading.width = reading.height = FINE * (SIDE + 2 * MARGIN);
const inside = get("network") !== null; // a network travels in this page
const { mnist } = globalThis; // that network, unless the policy of the page refused it
get("damage").hidden = true; // this script runs

// What is on the sheet: the newest state of a history that only grows, or is undone. A state holds strokes, or an image.

const history = [BLANK];
let edits = 0; // counts changes, so that an answer knows whether it is the latest

const current = () => history.at(-1);
const isBlank = (state) => !state.strokes.length && !state.file;

function enter(state) {
  history.push(state);
  changed();
}

function undo() {
  if (history.length === 1) return;
  history.pop();
  pen.drawing = false;
  changed();
}

function clear() {
  pen.drawing = false;
  if (!isBlank(current())) enter(BLANK);
}

function changed() {
  edits += 1;
  get("undo").disabled = history.length === 1;
  get("clear").disabled = isBlank(current());
  repaint();
  keepUp();
}

// The pen, held by a pointer or by the keyboard.

const pen = { x: SIDE / 2, y: SIDE / 2, drawing: false, pointer: null, shown: false };

function putDown(point) {
  pen.drawing = true;
  enter({ ...BLANK, strokes: [...current().strokes, [point]] });
}

function moveTo(points) {
  current().strokes.at(-1).push(...points);
  changed();
}

function lift() {
  pen.drawing = false;
  announce();
}

function place(event) {
  const box = sheet.getBoundingClientRect();
  return { x: ((event.clientX - box.left) / box.width) * SIDE, y: ((event.clientY - box.top) / box.height) * SIDE };
}

sheet.addEventListener("pointerdown", (event) => {
  if (pen.pointer !== null || event.button !== 0) return;
  pen.pointer = event.pointerId;
  pen.shown = false;
  putDown(place(event));
});

window.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pen.pointer || !pen.drawing) return;
  const between = event.getCoalescedEvents?.() ?? [];
  moveTo((between.length ? between : [event]).map(place));
});

for (const end of ["pointerup", "pointercancel"]) {
  window.addEventListener(end, (event) => {
    if (event.pointerId !== pen.pointer) return;
    pen.pointer = null;
    lift();
  });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const held = new Set(); // arrows that are down: two of them draw a diagonal

sheet.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || pen.pointer !== null) return;
  if (event.key in ARROWS) step(event.key);
  else if (event.key === " " || event.key === "Enter") press(event.repeat);
  else return;
  event.preventDefault();
});
sheet.addEventListener("keyup", (event) => held.delete(event.key));
sheet.addEventListener("blur", () => {
  held.clear();
  pen.shown = false;
  if (pen.drawing && pen.pointer === null) lift();
  repaint();
});
sheet.addEventListener("focus", () => {
  pen.shown = sheet.matches(":focus-visible");
  repaint();
});

function step(key) {
  held.add(key);
  pen.shown = true;
  for (const [x, y] of [...held].map((each) => ARROWS[each])) {
    pen.x = Math.min(Math.max(pen.x + x, 0), SIDE);
    pen.y = Math.min(Math.max(pen.y + y, 0), SIDE);
  }
  if (pen.drawing) moveTo([{ x: pen.x, y: pen.y }]);
  repaint();
}

function press(repeated) {
  if (repeated) return;
  pen.shown = true;
  if (pen.drawing) lift();
  else putDown({ x: pen.x, y: pen.y });
  repaint();
}

document.addEventListener("keydown", (event) => {
  const undoes = (event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z";
  if (undoes) undo();
  else if (event.key === "Escape" || event.key === "Delete") clear();
  else return;
  event.preventDefault();
});

// Images: opened, pasted or dropped, and sent as they are.

async function read(file) {
  if (!file || inside) return;
  const image = await createImageBitmap(file).catch(() => null); // what the browser cannot show, the server judges
  enter({ ...BLANK, image, file });
}

get("undo").addEventListener("click", undo);
get("clear").addEventListener("click", clear);
get("open").addEventListener("click", () => get("file").click());
get("file").addEventListener("change", (event) => {
  read(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => read(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  frame.classList.toggle("over", !inside);
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) frame.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  frame.classList.remove("over");
  read(event.dataTransfer.files[0]);
});

// Painting: at most once a frame, at the screen's own resolution.

let painting = 0;

function repaint() {
  painting ||= requestAnimationFrame(paint);
}

function paint() {
  painting = 0;
  const state = current();
  const side = Math.round(sheet.clientWidth * devicePixelRatio);
  if (sheet.width !== side) sheet.width = sheet.height = side;
  const context = sheet.getContext("2d");
  context.setTransform(side / SIDE, 0, 0, side / SIDE, 0, 0);
  context.clearRect(0, 0, SIDE, SIDE);
  if (state.image) paintImage(context, state.image);
  paintStrokes(context, state.strokes, getComputedStyle(sheet).color);
  if (pen.shown) paintPen(context);
  frame.classList.toggle("blank", isBlank(state));
  frame.classList.toggle("pen", pen.shown);
}

function paintStrokes(context, strokes, colour) {
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: colour });
  for (const points of strokes) context.stroke(smooth(points));
}

/** A curve through the middles of a polyline, with its corners as control points. */
function smooth(points) {
  const path = new Path2D();
  const [first, last] = [points[0], points.at(-1)];
  path.moveTo(first.x, first.y);
  for (let i = 1; i < points.length - 1; i++) {
    const [here, next] = [points[i], points[i + 1]];
    path.quadraticCurveTo(here.x, here.y, (here.x + next.x) / 2, (here.y + next.y) / 2);
  }
  path.lineTo(last.x + 0.001, last.y); // a stroke of one point is a dot, where an empty path would be nothing
  return path;
}

function paintImage(context, image) {
  const scale = SIDE / Math.max(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  context.drawImage(image, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
}

function paintPen(context) {
  const style = getComputedStyle(frame);
  context.beginPath();
  context.arc(pen.x, pen.y, PEN / 2 + 0.3, 0, 2 * Math.PI);
  Object.assign(context, { lineWidth: 0.25, strokeStyle: style.getPropertyValue("--accent") });
  context.stroke();
}

new ResizeObserver(repaint).observe(sheet);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// Asking: one question in flight; whatever was drawn meanwhile is the next one.

let busy = false;
let retry = 0;

async function keepUp() {
  if (isBlank(current())) show({ state: "blank" });
  answer.ariaBusy = "true";
  if (busy) return;
  busy = true;
  clearTimeout(retry);
  for (let asked = -1; asked !== edits; ) {
    asked = edits;
    const said = isBlank(current()) ? { state: "blank" } : await ask(current());
    if (asked === edits || !isBlank(current())) show(said);
    if (said.again) retry = setTimeout(keepUp, RETRY);
  }
  busy = false;
  answer.ariaBusy = "false";
  announce();
}

const ask = inside ? askNetwork : askServer;

async function askServer(state) {
  const started = performance.now();
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const response = await fetch("digit", { method: "POST", body: await body(state), signal });
    const said = await response.json();
    if (response.ok) return { state: "answered", ...said, roundTrip: performance.now() - started };
    const error = response.status === 413 ? TOO_LARGE : said.error;
    return { state: "refused", error, again: response.status === 503 };
  } catch {
    return { state: "unreachable", error: AWAY, again: true };
  }
}

async function askNetwork(state) {
  const damage = await proof;
  if (damage) return { state: "refused", error: damage };
  try {
    const started = performance.now();
    const { data } = paintReading(state).getImageData(0, 0, reading.width, reading.height);
    const grey = new Uint8Array(data.length / 4);
    for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
    const pixels = mnist.normalise(grey, reading.width, reading.height);
    const prepared = performance.now();
    const prediction = mnist.predict(pixels);
    const ended = performance.now();
    const times = { roundTrip: ended - started, preprocessing_ms: prepared - started, inference_ms: ended - prepared };
    return { state: "answered", ...prediction, ...times, pixels, sha256: mnist.about.checkpoint };
  } catch ({ message }) {
    return { state: "refused", error: message };
  }
}

function body(state) {
  if (state.file) return state.file;
  paintReading(state);
  return new Promise((resolve) => reading.toBlob(resolve, "image/png"));
}

function paintReading(state) {
  const context = reading.getContext("2d", { willReadFrequently: inside });
  context.fillStyle = "#000";
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillRect(0, 0, reading.width, reading.height);
  context.setTransform(FINE, 0, 0, FINE, FINE * MARGIN, FINE * MARGIN);
  paintStrokes(context, state.strokes, "#fff");
  return context;
}

// Showing.

const bars = Array.from({ length: 10 }, (_, digit) => {
  const row = document.createElement("li");
  row.innerHTML = `<span>${digit}</span><i aria-hidden="true"><b></b></i><span></span>`;
  return get("bars").appendChild(row);
});

const percent = (probability) => `${(100 * probability).toFixed(2)}\u00a0%`;
const milliseconds = (ms) => `${ms < 1 ? ms.toPrecision(2) : ms.toFixed(1)} ms`;

function show(said) {
  answer.dataset.state = said.state;
  const answered = said.state === "answered";
  get("label").textContent = answered && said.verdict !== "no digit" ? said.label : "–";
  bars.forEach((row, digit) => {
    row.classList.toggle("best", said.verdict === "digit" && digit === said.label);
    row.querySelector("b").style.setProperty("--probability", answered ? said.probabilities[digit] : 0);
    row.lastChild.textContent = answered ? percent(said.probabilities[digit]) : "";
  });
  showPixels(answered ? said.pixels : []);
  showTimes(answered ? [said.roundTrip, said.preprocessing_ms, said.inference_ms] : []);
  if (answered) showModel(said.sha256);
  get("sentence").textContent = sentence(said);
}

function sentence({ state, verdict, probability, no_digit, error }) {
  if (state === "blank") return "Nothing drawn yet";
  if (state === "answered") {
    if (verdict === "no digit") return `That is no digit (${percent(no_digit)})`;
    return verdict === "unsure" ? `I am not sure (${percent(probability)})` : `Probability ${percent(probability)}`;
  }
  return `${error[0].toUpperCase()}${error.slice(1)}.`;
}

function showPixels(pixels, canvas = get("seen")) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  pixels.forEach((intensity, i) => image.data.set([intensity, intensity, intensity, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

function showTimes(times) {
  ["round-trip", "preprocessing", "inference"].forEach((name, i) => {
    get(name).textContent = i in times ? milliseconds(times[i]) : "–";
  });
}

function showModel(sha256) {
  const [summary, digest] = get("model").children;
  get("model").classList.add("known");
  get("model").title = `SHA-256 ${sha256}`;
  summary.textContent = sha256.slice(0, 12);
  digest.textContent = sha256;
}

/** Tell a screen reader what is shown, once the pen is up and the latest question answered. */
function announce() {
  if (busy || pen.drawing) return;
  const said = get("sentence").textContent;
  const label = get("label").textContent;
  get("announcement").textContent = label === "–" ? said : `${label}. ${said}`;
}

// The proof: the golden digits, replayed by the network inside this page.

let proof = inside && painted().then(prove);

get("proof").addEventListener("toggle", ({ target }) => {
  if (target.open) proof = proof.then(prove);
});

/** Replay the golden digits, and return what is damaged as a sentence; the empty string if nothing is. */
async function prove() {
  if (!mnist) return refute(BLOCKED);
  const { about, damaged } = mnist;
  get("published").textContent = about.goldenSha256;
  get("validation").textContent = about.logitsSha256;
  get("checkpoint").textContent = about.checkpoint;
  if (damaged) return refute(`the weights of layer ${damaged} inside this page are damaged; get the page again`);
  get("golden").replaceChildren();
  let count = 0;
  const computed = [];
  for (const { pixels, logits, layer } of mnist.replay()) {
    count += 1;
    if (get("proof").open) showGolden(count, pixels, layer < 0);
    if (layer >= 0) return refute(misfit(count, layer));
    computed.push(...logits);
    await new Promise((resolve) => setTimeout(resolve)); // lets strokes and painting go first
  }
  get("computed").textContent = await sha256(Int32Array.from(computed));
  get("proven").textContent = `${count} of ${count} equal, bit for bit, in this browser`;
  return "";
}

/** Return once the page is painted, so that the proof holds up neither the first sight of the page nor the pen. */
function painted() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

function misfit(digit, layer) {
  if (layer === 0) return `golden digit ${digit} inside this page is damaged; get the page again`;
  return `layer ${layer} makes something else of golden digit ${digit} than was published; use another browser`;
}

function refute(damage) {
  get("damage").textContent = get("proven").textContent = sentence({ error: damage });
  get("damage").classList.add("found");
  get("damage").hidden = false;
  return damage;
}

function showGolden(number, pixels, equal) {
  const tile = get("golden").appendChild(document.createElement("li"));
  const canvas = tile.appendChild(document.createElement("canvas"));
  canvas.width = canvas.height = SIDE;
  canvas.role = "img";
  canvas.ariaLabel = `${number}: ${equal ? "equal" : "differs"}`;
  tile.className = equal ? "equal" : "differs";
  showPixels(pixels, canvas);
}

async function sha256(integers) {
  if (!globalThis.crypto?.subtle) return "not computed, because the browser keeps SHA-256 from pages over plain HTTP";
  const digest = await crypto.subtle.digest("SHA-256", integers);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The app: a browser can install the page where it is served with its manifest and its worker beside it.

async function offerToInstall() {
  try {
    await navigator.serviceWorker.register("mnist.worker.js", { scope: location.pathname });
    document.head.append(Object.assign(document.createElement("link"), { rel: "manifest", href: "mnist.webmanifest" }));
  } catch {
    // They are not beside it, or the connection is not secure: the page needs neither.
  }
}

if (location.protocol.startsWith("http")) offerToInstall();
