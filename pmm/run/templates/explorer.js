/* The sliders of a page without a kernel.

   Standard JavaScript in one file, nothing is loaded. The page holds the photographs, CAMs and loss maps of a few scenes
   and the binary masks of the dense CRF for a grid of s and alpha (pmm/explore/page.py packs them). Everything that is a
   formula of one pixel is computed here, in float32 as in pmm.method; a test compares the two. */

"use strict";
(() => {

// --- unpacking: the other half of pmm/explore/page.py

const HALF = new Float32Array(65536); // the value of each float16
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) HALF[bits] = fraction ? NaN : sign * Infinity;
  else HALF[bits] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
}

function fromBase64(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function unpackBytes(text) {
  const stream = new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* Maps (C, H, W): differences of float16 bit patterns, all low bytes before all high ones. */
async function unpackMaps(text, pixels) {
  const bytes = await unpackBytes(text), n = bytes.length / 2, values = new Float32Array(n);
  for (let i = 0, bits = 0; i < n; i++) {
    bits = (bits + bytes[i] + 256 * bytes[n + i]) & 65535;
    values[i] = HALF[bits];
  }
  return Array.from({ length: n / pixels }, (_, c) => values.subarray(c * pixels, (c + 1) * pixels));
}

/* Binary masks of the grid: of each point the bytes (8 pixels each) that differ from the point before. */
async function unpackMasks(text, nStrengths, nAlphas) {
  const bytes = await unpackBytes(text), size = bytes.length / (nStrengths * nAlphas), points = [];
  for (let k = 0; k < nStrengths * nAlphas; k++) {
    const point = bytes.subarray(k * size, (k + 1) * size);
    const before = k % nAlphas ? points[k - 1] : k ? points[k - nAlphas] : null;
    if (before) for (let i = 0; i < size; i++) point[i] ^= before[i];
    points.push(point);
  }
  return points;
}

const READ = { willReadFrequently: true }; // pixels are put there one by one, so they stay in the processor's memory

/* A scene, ready for every view. */
async function unpackScene(packed, data) {
  const pixels = packed.width * packed.height, { s, alpha } = data.grid;
  const scene = { ...packed, pixels, tables: data.tables, memory: {}, loss: {}, names: packed.classes.map((id) => data.classes[id].name) };
  scene.cam = packed.cam ? await unpackMaps(packed.cam, pixels) : [];
  scene.foreground = packed.foreground ? await unpackMasks(packed.foreground, s.length, alpha.length) : [];
  for (const name of ["truth", "learned"]) scene[name] = packed[name] ? await unpackBytes(packed[name]) : null;
  for (const name of Object.keys(packed.loss ?? {})) [scene.loss[name]] = await unpackMaps(packed.loss[name], pixels);
  const image = new Image();
  image.src = packed.image;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: packed.width, height: packed.height });
  const context = canvas.getContext("2d", READ);
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, packed.width, packed.height).data;
  scene.photo = new Uint32Array(rgba.buffer);
  scene.grey = new Uint8Array(pixels);
  for (let i = 0, k = 0; i < pixels; i++, k += 4)
    scene.grey[i] = (19595 * rgba[k] + 38470 * rgba[k + 1] + 7471 * rgba[k + 2] + 32768) >> 16;
  return scene;
}

// --- the method: the names and the arithmetic of pmm.method

const f32 = Math.fround, IGNORE_INDEX = 255, MIN_EXPONENT = 0.01, SMALLEST_LOSS = 1e-6;

/* Eq. 5: mean, deviation and c_v of the pixels above t. */
function coefficientOfVariation(cam, t) {
  let n = 0, sum = 0, squares = 0;
  const floor = f32(t);
  for (let i = 0; i < cam.length; i++) if (cam[i] > floor) { n++; sum += cam[i]; }
  if (!n) return { mean: 0, deviation: 0, cV: 0 };
  const mean = sum / n;
  for (let i = 0; i < cam.length; i++) if (cam[i] > floor) squares += (cam[i] - mean) * (cam[i] - mean);
  const deviation = Math.sqrt(squares / n);
  return { mean, deviation, cV: f32(deviation / mean) };
}

/* Eq. 6: the exponent as the equation says it, and the one in use. */
function smoothingExponent(cV, s) {
  const wanted = 1 - s * cV;
  return { wanted, exponent: f32(Math.max(wanted, MIN_EXPONENT)) };
}

function raiseCam(cam, exponent, t, variant) {
  const floor = variant === "official" ? f32(t) : 0;
  const raised = new Float32Array(cam.length);
  for (let i = 0; i < cam.length; i++) raised[i] = cam[i] < floor ? 0 : Math.pow(cam[i], exponent);
  return raised;
}

/* Eq. 2 for one class alone. */
function backgroundScore(cam, alpha) {
  const power = f32(alpha), score = new Float32Array(cam.length);
  for (let i = 0; i < cam.length; i++) score[i] = Math.pow(f32(1 - cam[i]), power);
  return score;
}

/* The binary mask of a class from its bits, 8 pixels a byte. */
function unpackBits(bytes, pixels) {
  const mask = new Uint8Array(pixels);
  for (let i = 0; i < pixels; i++) mask[i] = (bytes[i >> 3] >> (i & 7)) & 1;
  return mask;
}

/* Eq. 8: a CAM over its total inside the class's mask; 0 outside of it. */
function proportion(cam, inside, variant) {
  let total = variant === "official" ? 1 : 0;
  for (let i = 0; i < cam.length; i++) if (inside[i]) total += cam[i];
  const part = new Float32Array(cam.length);
  if (total > 0) for (let i = 0; i < cam.length; i++) if (inside[i]) part[i] = cam[i] / total;
  return part;
}

/* The class of the largest score at each pixel; the background, and then the first class, wins ties. */
function strongest(background, scores, ids) {
  const mask = new Uint8Array(scores.length ? scores[0].length : 0);
  for (let i = 0; i < mask.length; i++) {
    let best = background;
    for (let c = 0; c < scores.length; c++) if (scores[c][i] > best) { best = scores[c][i]; mask[i] = ids[c]; }
  }
  return mask;
}

/* IoU of each class that occurs, and their mean; a predicted 255 is a miss. */
function intersectionOverUnion(truth, mask) {
  const hits = new Uint32Array(256), union = new Uint32Array(256), iou = {};
  for (let i = 0; i < truth.length; i++) {
    const a = truth[i], b = mask[i];
    if (a === IGNORE_INDEX) continue;
    union[a]++;
    if (a === b) hits[a]++;
    else if (b !== IGNORE_INDEX) union[b]++;
  }
  let sum = 0, n = 0;
  for (let id = 0; id < 256; id++) if (union[id]) {
    iou[id] = hits[id] / union[id];
    sum += iou[id];
    n++;
  }
  return { iou, mean: sum / n };
}

const STRATEGIES = {
  "clamp-paper": "clamp, as the paper says",
  "clamp-official": "clamp, as released",
  pow: "pow",
  ignore: "ignore",
};

/* Eq. 11-13: the loss that PUS makes of a pixel's loss. */
function reshape(loss, kind, kappa) {
  if (kind === "pow") return Math.pow(loss, kappa);
  return loss < kappa ? loss : kind === "ignore" ? 0 : kappa;
}

/* Its slope: how much such a pixel teaches, compared with the plain loss. */
function slope(loss, kind, kappa) {
  if (kind === "pow") return loss > 0 ? kappa * Math.pow(Math.max(loss, SMALLEST_LOSS), kappa - 1) : 0;
  return loss < kappa ? 1 : kind === "clamp-paper" ? kappa / loss : 0;
}

/* Eq. 10 for one image: the gate, and the loss and the gradient weight of each pixel behind it. */
function pretendedUnderfitting(loss, learned, { kind, kappa, beta }) {
  let valid = 0, sum = 0;
  for (let i = 0; i < loss.length; i++) if (learned[i] !== IGNORE_INDEX) { valid++; sum += loss[i]; }
  const mean = f32(sum / Math.max(1, kind === "clamp-official" ? loss.length : valid)), open = mean < f32(beta);
  const strength = f32(kind === "pow" ? Math.min(kappa, 1) : kappa);
  const reshaped = new Float32Array(loss.length), weight = new Float32Array(loss.length);
  for (let i = 0; i < loss.length; i++) {
    if (learned[i] === IGNORE_INDEX) continue;
    reshaped[i] = open ? reshape(loss[i], kind, strength) : loss[i];
    weight[i] = open ? slope(loss[i], kind, strength) : 1;
  }
  return { mean, open, valid, strength, reshaped, weight };
}

/* The share of pixels above a value. */
function share(values, above = 0) {
  let n = 0;
  for (let i = 0; i < values.length; i++) if (values[i] > above) n++;
  return n / values.length;
}

function average(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

/* What `make` gave for this key; of each name the last key is kept. */
function remember(scene, name, key, make) {
  const known = scene.memory[name];
  if (known && known.key === String(key)) return known.value;
  return (scene.memory[name] = { key: String(key), value: make() }).value;
}

// --- pictures: one 32-bit colour a pixel, looked up as pmm.explore.drawing and the figures mix them

const HARD = [0, 114, 178], WRONG = [213, 94, 0], OUTLINE = [86, 180, 233];
const BLUE = "#0072B2", VERMILION = "#D55E00", GREEN = "#009E73", GREY = "#555555";
const PALE = Array.from({ length: 256 }, (_, grey) => 110 + (grey >> 1));

/* A colour as putImageData wants it: red in the lowest byte. */
const packed = (r, g, b) => ((255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;

/* Colours of all mixes of 256 colours with 256 greys: `part` of the colour, the rest of the grey. */
function mixes(colours, parts, greys) {
  const table = new Uint32Array(65536);
  for (let k = 0; k < 65536; k++) {
    const [r, g, b] = colours[k >> 8], part = parts[k >> 8], rest = (1 - part) * greys[k & 255];
    table[k] = packed(part * r + rest, part * g + rest, part * b + rest);
  }
  return table;
}

/* The tables of a page: activations over the photograph and alone, and its classes. */
function colourTables(data) {
  const bytes = fromBase64(data.heat), greys = Array.from({ length: 256 }, (_, grey) => grey);
  const heat = greys.map((k) => bytes.subarray(3 * k, 3 * k + 3)), all = (value) => Array(256).fill(value);
  const classes = greys.map((id) => data.classes[id]?.colour ?? [0, 0, 0]);
  const parts = greys.map((id) => (id === 0 ? 0 : id === IGNORE_INDEX ? 1 : 0.75));
  return { over: mixes(heat, all(0.7), greys), alone: mixes(heat, all(1), greys), classes: mixes(classes, parts, PALE) };
}

/* A map over the grey photograph, or alone; bright is `top`. */
function heat(scene, values, top = 1, table = scene.tables.over) {
  const picture = new Uint32Array(scene.pixels), scale = 255 / top;
  for (let i = 0; i < picture.length; i++) {
    const step = Math.floor(Math.min(Math.max(values[i] * scale + 0.5, 0), 255));
    picture[i] = table[(step << 8) | scene.grey[i]];
  }
  return picture;
}

/* The colours of a mask over the pale photograph; pixels that are not evaluated are covered. */
function overlay(scene, mask) {
  const picture = new Uint32Array(scene.pixels), table = scene.tables.classes;
  for (let i = 0; i < picture.length; i++) picture[i] = table[(mask[i] << 8) | scene.grey[i]];
  return picture;
}

/* Regions in plain colours over the pale photograph: `colourOf(i)` is a colour or 0. */
function marked(scene, colourOf) {
  const picture = new Uint32Array(scene.pixels);
  for (let i = 0; i < picture.length; i++) {
    const pale = PALE[scene.grey[i]];
    picture[i] = colourOf(i) || packed(pale, pale, pale);
  }
  return picture;
}

/* Draw the rim of a region into a picture. */
function outline(picture, scene, inside) {
  const { width, height } = scene, colour = packed(...OUTLINE);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
    if (!inside(i)) continue;
    const rim = (x && !inside(i - 1)) || (x < width - 1 && !inside(i + 1)) ||
      (y && !inside(i - width)) || (y < height - 1 && !inside(i + width));
    if (rim) picture[i] = colour;
  }
  return picture;
}

// --- charts

class Chart {
  constructor(canvas, x, y, xName, yName) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 300, height = canvas.clientHeight || 220;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    this.c = canvas.getContext("2d", READ);
    this.c.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.c.fillStyle = "white";
    this.c.fillRect(0, 0, width, height);
    this.c.font = "13px system-ui, sans-serif";
    this.box = { left: 44, right: width - 12, top: 10, bottom: height - 38 };
    Object.assign(this, { x, y });
    const { left, right, top, bottom } = this.box;
    this.line([[left, top], [left, bottom], [right, bottom]], "#888", 1);
    this.text((left + right) / 2, height - 6, xName, "#222", "center");
    this.c.save();
    this.c.translate(12, (top + bottom) / 2);
    this.c.rotate(-Math.PI / 2);
    this.text(0, 0, yName, "#222", "center");
    this.c.restore();
  }
  place(x, y) {
    const { left, right, top, bottom } = this.box, at = (v, [a, b]) => Math.min(Math.max((v - a) / (b - a), 0), 1);
    return [left + at(x, this.x) * (right - left), bottom - at(y, this.y) * (bottom - top)];
  }
  line(points, colour, width = 2, dash = []) {
    this.c.strokeStyle = colour;
    this.c.lineWidth = width;
    this.c.setLineDash(dash);
    this.c.beginPath();
    points.forEach(([x, y], k) => (k ? this.c.lineTo(x, y) : this.c.moveTo(x, y)));
    this.c.stroke();
    this.c.setLineDash([]);
  }
  text(x, y, words, colour = "#222", align = "left") {
    this.c.fillStyle = colour;
    this.c.textAlign = align;
    this.c.strokeStyle = "white"; // so that a line behind the words does not cross them
    this.c.lineWidth = 4;
    this.c.strokeText(words, x, y);
    this.c.fillText(words, x, y);
    return this;
  }
  ticks(xs, ys, xWords = String, yWords = String) {
    for (const x of xs) this.text(this.place(x, this.y[0])[0], this.box.bottom + 16, xWords(x), "#555", "center");
    for (const y of ys) this.text(this.box.left - 5, this.place(this.x[0], y)[1] + 4, yWords(y), "#555", "right");
    return this;
  }
  curve(xs, ys, colour, width = 2.5, dash = []) {
    this.line(Array.from(xs, (x, k) => this.place(x, ys[k])), colour, width, dash);
    return this;
  }
  bars(edges, heights, colours) {
    heights.forEach((h, k) => {
      const [x0, y] = this.place(edges[k], h), [x1, base] = this.place(edges[k + 1], this.y[0]);
      this.c.fillStyle = colours[k];
      this.c.fillRect(x0 + 0.5, y, Math.max(x1 - x0 - 1, 1), base - y);
    });
    return this;
  }
  mark(x, words, colour, row = 0) {
    const [px] = this.place(x, 0), right = px > (this.box.left + this.box.right) / 2;
    this.line([[px, this.box.top], [px, this.box.bottom]], colour, 1.5, [4, 3]);
    return this.text(px + (right ? -5 : 5), this.box.top + 10 + 17 * row, words, colour, right ? "right" : "left");
  }
  dot(x, y, colour) {
    const [px, py] = this.place(x, y);
    this.c.fillStyle = colour;
    this.c.beginPath();
    this.c.arc(px, py, 6, 0, 2 * Math.PI);
    this.c.fill();
    return this;
  }
}

const range = (n, low, high) => Array.from({ length: n }, (_, k) => low + ((high - low) * k) / (n - 1));

/* The share of the pixels above t, by `cam`, that each of the bins of [0, 1] has in `values`. */
function histogram(values, cam, t, bins) {
  const found = new Array(bins).fill(0), floor = f32(t);
  let n = 0;
  for (let i = 0; i < values.length; i++) if (cam[i] > floor) {
    found[Math.min(Math.floor(values[i] * bins), bins - 1)]++;
    n++;
  }
  return found.map((count) => count / Math.max(n, 1));
}

// --- words

/* As Python's format: what lies in the middle goes to the even digit. */
function fixed(value, n) {
  const scaled = value * 10 ** n, middle = Math.abs(scaled % 1) === 0.5 && scaled / 10 ** n === value;
  return (middle ? (2 * Math.round(scaled / 2)) / 10 ** n : value).toFixed(n);
}

const percent = (value) => (Number.isFinite(value) ? `${fixed(100 * value, 1)} %` : "–");
const digits = (n) => (value) => fixed(value, n);
const short = (value) => String(Number(value.toPrecision(3)));

// --- the three views: controls, pictures, numbers and one sentence each

const VIEWS = {
  smoothing: {
    title: "Smoothing",
    lead: "One class's map. The less even it is (c_v), the more its weak parts are lifted.",
    controls: () => [
      { name: "class", kind: "class", label: "class", help: "Each class of the photograph has a map of its own." },
      { name: "s", kind: "range", label: "s, strength", low: 0, high: 1.5, step: 0.05, show: digits(2),
        help: "How strongly an uneven map is lifted; 0: not at all." },
      { name: "t", kind: "range", label: "t, threshold", low: 0, high: 0.95, step: 0.01, show: digits(2),
        help: "Only pixels above t count for c_v." },
      { name: "variant", kind: "choice", label: "variant", options: { official: "released code", paper: "equation" },
        help: "The released code sets pixels below t to 0 first." },
    ],
    compute(scene, state) {
      const before = scene.cam[scene.classes.indexOf(state.class)];
      const spread = coefficientOfVariation(before, state.t), power = smoothingExponent(spread.cV, state.s);
      const after = raiseCam(before, power.exponent, state.t, state.variant);
      const gain = new Float32Array(scene.pixels);
      for (let i = 0; i < gain.length; i++) gain[i] = Math.max(after[i] - before[i], 0);
      return { before, after, gain, ...spread, ...power, coveredBefore: share(before, 0.5), covered: share(after, 0.5),
        maps: { after } };
    },
    panels: [
      { id: "photo", once: true, title: () => "photograph", alt: (r, scene) => `photograph of ${scene.names.join(", ")}`,
        paint: (r, scene) => scene.photo },
      { id: "before", once: true, title: () => "CAM before: X(n)", paint: (r, scene) => heat(scene, r.before),
        alt: (r) => `class activation map, ${percent(r.coveredBefore)} of it above 0.5` },
      { id: "after", title: (r, s) => `CAM after: X(s), s = ${s.s.toFixed(2)}`,
        paint: (r, scene) => heat(scene, r.after), alt: (r) => `smoothed map, ${percent(r.covered)} of it above 0.5` },
      { id: "gain", title: () => "what was added, 0 to 0.5", paint: (r, scene) => heat(scene, r.gain, 0.5),
        alt: (r) => `what smoothing added, ${percent(average(r.gain))} on average` },
      { id: "spread", more: true, wide: true, title: (r) => `pixels above t: c_v = deviation / mean = ${r.cV.toFixed(2)}`,
        alt: (r) => `histogram of the map: mean ${r.mean.toFixed(2)}, deviation ${r.deviation.toFixed(2)}`,
        chart: spreadChart },
      { id: "power", more: true, wide: true, title: (r) => `what becomes of a value: exponent ${r.exponent.toFixed(2)}`,
        alt: (r) => `power curve with exponent ${r.exponent.toFixed(2)}, above the diagonal`, chart: powerChart },
    ],
    numbers: (r) => [
      ["c_v", "c_v of the pixels above t", r.cV, digits(3)],
      ["exponent", "exponent 1 − s · c_v", r.exponent, digits(3)],
      ["covered", "pixels above 0.5, after", r.covered, percent],
      ["covered_before", "pixels above 0.5, before", r.coveredBefore, percent],
    ],
    warning: (r, s) => (r.wanted >= MIN_EXPONENT ? "" :
      `s is too large for this map: 1 − s · c_v = ${r.wanted.toFixed(2)} would turn it flat or upside down. ` +
      `The exponent stays at 0.01; choose s below ${(1 / r.cV).toFixed(2)}.`),
    say: (r, s, name) => `${name}: c_v ${r.cV.toFixed(3)}, exponent ${r.exponent.toFixed(3)}, ` +
      `${percent(r.covered)} of the pixels above 0.5`,
    questions: {
      s: { text: "Pixels above 0.5: more or fewer?", options: ["more", "fewer", "as many"], by: (r) => r.covered,
        of: percent, why: (a, b) => (b > a ? "A larger s makes the exponent smaller, so every value between 0 and 1 rises."
          : "A smaller s brings the exponent nearer to 1, so the lifted values sink back.") },
      t: { text: "c_v: will it rise or fall?", options: ["rise", "fall", "stay"], by: (r) => r.cV, of: digits(3),
        why: (a, b) => (b > a ? "A smaller t lets faint pixels in; they differ most from the bright ones."
          : "A larger t leaves the faint pixels out; what is left differs less.") },
    },
  },

  masks: {
    title: "Pseudo-mask",
    lead: "From maps to a mask by PPMG, beside the plain threshold on the CAM.",
    controls: (data) => [
      { name: "class", kind: "class", label: "steps of", help: "Whose steps the upper pictures show; masks have all." },
      { name: "s", kind: "grid", label: "s, smoothing", values: data.grid.s, show: digits(2),
        help: "Larger lifts the weak parts of a map." },
      { name: "alpha", kind: "grid", label: "alpha, background", values: data.grid.alpha, show: short,
        help: "Larger: less background, more foreground." },
      { name: "threshold", kind: "range", label: "threshold", low: 0.02, high: 0.98, step: 0.02, show: digits(2),
        help: "Of the plain mask: the strongest CAM above it wins." },
    ],
    compute(scene, state, data) {
      const { variant, t } = data.params, { s, alpha, threshold } = state, { truth, classes, pixels } = scene;
      const c = classes.indexOf(state.class), judge = (mask) => truth && intersectionOverUnion(truth, mask);
      const steps = remember(scene, "steps", [s, alpha, c], () => {
        const { cV } = coefficientOfVariation(scene.cam[c], t), power = smoothingExponent(cV, s);
        const smoothed = raiseCam(scene.cam[c], power.exponent, t, variant);
        return { ...power, cV, smoothed, background: backgroundScore(smoothed, alpha) };
      });
      const ppmg = remember(scene, "ppmg", [s, alpha], () => {
        const point = scene.foreground[data.grid.s.indexOf(s) * data.grid.alpha.length + data.grid.alpha.indexOf(alpha)];
        const bytes = point.length / classes.length;
        const insides = classes.map((_, k) => unpackBits(point.subarray(k * bytes, (k + 1) * bytes), pixels));
        const parts = scene.cam.map((map, k) => proportion(map, insides[k], variant));
        const mask = strongest(0, parts, classes);
        return { insides, parts, mask, score: judge(mask), foreground: share(mask) };
      });
      const plain = remember(scene, "plain", [threshold], () => {
        const mask = strongest(f32(threshold), scene.cam, classes);
        return { mask, score: judge(mask), foreground: share(mask) };
      });
      const inside = ppmg.insides[c], part = ppmg.parts[c], { mask } = ppmg;
      let top = 0;
      for (let i = 0; i < pixels; i++) if (part[i] > top) top = part[i];
      return { ...steps, inside, part, top: top || 1, mask, plain: plain.mask, scores: truth && [ppmg.score, plain.score],
        foreground: ppmg.foreground, plainForeground: plain.foreground,
        maps: { smoothed: steps.smoothed, background: steps.background, part, mask, plain: plain.mask, inside } };
    },
    panels: [
      { id: "smoothed", more: true, title: (r, s) => `1 smoothed CAM, s = ${s.s.toFixed(2)}`,
        paint: (r, scene) => heat(scene, r.smoothed), alt: (r) => `smoothed map, exponent ${r.exponent.toFixed(2)}` },
      { id: "background", more: true, title: (r, s) => `2 background, alpha = ${short(s.alpha)}`,
        paint: (r, scene) => heat(scene, r.background),
        alt: (r) => `background score of this class, ${average(r.background).toFixed(2)} on average` },
      { id: "inside", more: true, title: () => "3 binary CRF: foreground", paint: (r, scene) => heat(scene, r.inside),
        alt: (r) => `what the dense CRF takes for this class: ${percent(share(r.inside))} of the pixels` },
      { id: "part", more: true, title: () => "4 proportion inside it", paint: (r, scene) => heat(scene, r.part, r.top),
        alt: () => "the map inside its mask over its total there; the class with the highest wins a pixel" },
      { id: "photo", once: true, title: () => "photograph", paint: (r, scene) => scene.photo,
        alt: (r, scene) => `photograph of ${scene.names.join(", ")}` },
      { id: "mask", title: () => "5 PPMG: pseudo-mask", paint: (r, scene) => overlay(scene, r.mask),
        alt: (r) => `PPMG's mask, ${percent(r.foreground)} foreground` },
      { id: "plain", title: (r, s) => `threshold ${s.threshold.toFixed(2)} alone`,
        paint: (r, scene) => overlay(scene, r.plain),
        alt: (r) => `mask of the threshold, ${percent(r.plainForeground)} foreground` },
      { id: "truth", once: true, title: () => "ground truth", needs: "truth",
        paint: (r, scene) => overlay(scene, scene.truth), alt: () => "ground truth" },
    ],
    numbers(r, scene, data) {
      const rows = [["foreground", "foreground, PPMG", r.foreground, percent],
        ["foreground_plain", "foreground, threshold", r.plainForeground, percent]];
      if (!r.scores) return rows;
      const [ppmg, plain] = r.scores;
      rows.unshift(["miou", "mean IoU, PPMG", ppmg.mean, percent], ["miou_plain", "mean IoU, threshold", plain.mean, percent]);
      for (const id of [0, ...scene.classes])
        rows.push([`iou_${id}`, `IoU ${data.classes[id].name}`, ppmg.iou[id] ?? NaN, percent, data.classes[id].colour]);
      return rows;
    },
    warning: (r) => (r.wanted >= MIN_EXPONENT ? "" : "s is too large for this class; the exponent stays at 0.01."),
    say: (r) => `foreground ${percent(r.foreground)} by PPMG, ${percent(r.plainForeground)} by the threshold` +
      (r.scores ? `; mean IoU ${percent(r.scores[0].mean)} and ${percent(r.scores[1].mean)}` : ""),
    questions: {
      s: { text: "PPMG's mask: more or less foreground?", options: ["more", "less", "the same"], by: (r) => r.foreground,
        of: percent, why: (a, b) => (b > a ? "The lifted map leaves less to the background score (1 − x)^alpha, so more pixels win."
          : "Less lifted, the map leaves more to the background score, so fewer pixels win.") },
      alpha: { text: "PPMG's mask: more or less foreground?", options: ["more", "less", "the same"],
        by: (r) => r.foreground, of: percent,
        why: (a, b) => (b > a ? "1 − x lies below 1, so a larger power makes the background score smaller."
          : "1 − x lies below 1, so a smaller power makes the background score larger.") },
      threshold: { text: "The plain mask: more or less foreground?", options: ["more", "less", "the same"],
        by: (r) => r.plainForeground, of: percent,
        why: (a, b) => (b > a ? "A lower threshold is passed by more pixels." : "A higher threshold is passed by fewer pixels.") },
    },
  },

  underfitting: {
    title: "Under-fitting",
    lead: "What a trained model doubts in its own pseudo-mask, and what PUS makes of it.",
    controls: (data) => [
      { name: "beta", kind: "range", label: "beta, gate", low: 0, high: 1, step: 0.02, show: digits(2),
        help: "PUS acts while the mean loss is below it." },
      { name: "kappa", kind: "range", label: "kappa", low: 0.05, high: 4, step: 0.05, show: digits(2),
        help: "From this loss on a label is doubted; for pow, the power." },
      { name: "kind", kind: "choice", label: "strategy", options: STRATEGIES, help: "What becomes of a doubted pixel: orange if its label is wrong, blue if right but hard." },
      { name: "checkpoint", kind: "choice", label: "model", help: "After a quarter of its training, or at the end.",
        options: data.missing.early ? { late: "late" } : { early: "early", late: "late" } },
    ],
    compute(scene, state) {
      const loss = scene.loss[state.checkpoint], pus = pretendedUnderfitting(loss, scene.learned, state);
      const doubt = state.kind === "pow" ? 1 : f32(state.kappa);
      const doubted = (i) => loss[i] >= doubt && scene.learned[i] !== IGNORE_INDEX;
      const wrong = (i) => scene.truth && scene.truth[i] !== IGNORE_INDEX && scene.truth[i] !== scene.learned[i];
      let nWrong = 0, nHard = 0, nDoubted = 0;
      for (let i = 0; i < loss.length; i++) {
        if (!doubted(i)) continue;
        nDoubted++;
        if (wrong(i)) nWrong++;
        else if (scene.truth && scene.truth[i] !== IGNORE_INDEX) nHard++;
      }
      return { loss, ...pus, doubt, doubted, wrong, doubtedShare: nDoubted / loss.length,
        precision: nWrong / (nWrong + nHard), teaches: average(pus.weight),
        maps: { loss, reshaped: pus.reshaped, weight: pus.weight } };
    },
    panels: [
      { id: "photo", once: true, more: true, title: () => "photograph", paint: (r, scene) => scene.photo,
        alt: (r, scene) => `photograph of ${scene.names.join(", ")}` },
      { id: "learned", once: true, more: true, title: () => "pseudo-mask it learns from",
        paint: (r, scene) => overlay(scene, scene.learned), alt: () => "the pseudo-mask" },
      { id: "truth", once: true, more: true, title: () => "ground truth", needs: "truth",
        paint: (r, scene) => overlay(scene, scene.truth), alt: () => "ground truth" },
      { id: "shape", more: true, title: () => "what becomes of a loss", chart: shapeChart,
        alt: (r, scene, s) => `curve of ${STRATEGIES[s.kind]}: the loss after PUS over the loss before` },
      { id: "loss", title: (r, s) => `loss L, ${s.checkpoint}, 0 to 3`,
        paint: (r, scene) => outline(heat(scene, r.loss, 3, scene.tables.alone), scene, (i) => r.open && r.doubted(i)),
        alt: (r) => `loss of each pixel, mean ${r.mean.toFixed(3)}; doubted pixels are outlined while the gate is open` },
      { id: "reshaped", title: (r) => (r.open ? "loss after PUS" : "gate closed: loss as it is"),
        paint: (r, scene) => heat(scene, r.reshaped, 3, scene.tables.alone), alt: () => "loss of each pixel after the gate and PUS" },
      { id: "weight", title: () => "gradient weight, 0 to 1", paint: (r, scene) => heat(scene, r.weight, 1, scene.tables.alone),
        alt: (r) => `how much each pixel still teaches, ${percent(r.teaches)} on average` },
      { id: "doubted", needs: "truth", title: (r) => (r.open ? "orange wrong, blue hard" : "gate closed: none damped"),
        paint: (r, scene) => marked(scene, (i) => (!r.open || !r.doubted(i) || scene.truth[i] === IGNORE_INDEX ? 0 : packed(...(r.wrong(i) ? WRONG : HARD)))),
        alt: (r) => (r.open ? `doubted pixels; ${percent(r.precision)} of them have a wrong label` : "no pixel is damped") },
    ],
    numbers: (r) => [
      ["mean_loss", "mean loss of the image", r.mean, digits(3)],
      ["gate", "gate", r.open ? "open: PUS acts" : "closed: plain mean", String],
      ["doubted", "doubted: a loss of kappa or more", r.doubtedShare, percent],
      ["precision", "of these, with a wrong label", r.precision, percent],
      ["teaches", "it teaches, compared with no PUS", r.teaches, percent],
    ],
    warning: (r, s) => (s.kind !== "pow" ? "" : "For pow, kappa is a power and not a loss" +
      (s.kappa > 1 ? "; above 1 it would raise high losses, so it stays at 1." : "; losses above 1 are damped, those below lifted.")),
    say: (r) => `mean loss ${r.mean.toFixed(3)}, gate ${r.open ? "open" : "closed"}, ` +
      `${percent(r.doubtedShare)} of the pixels doubted, the image teaches ${percent(r.teaches)}`,
    questions: {
      beta: { text: "The gate: open or closed?", options: ["open", "closed"], by: (r) => (r.open ? "open" : "closed"),
        why: gateReason },
      checkpoint: { text: "The gate: open or closed?", options: ["open", "closed"],
        by: (r) => (r.open ? "open" : "closed"), why: gateReason },
      kappa: { text: "Doubted pixels: more or fewer?", options: ["more", "fewer", "as many"], by: (r) => r.doubtedShare,
        of: percent, why: (a, b) => (b > a ? "A smaller kappa is reached by more losses." : b < a
          ? "A larger kappa is reached by fewer losses." : "No loss lies between the two kappas, or the strategy is pow.") },
      kind: { text: "The image teaches more or less?", options: ["more", "less", "as much"], by: (r) => r.teaches,
        of: percent, why: (a, b, r, state) => (r.open ? WHAT_THEY_DO[state.kind] : "The gate is closed, so no strategy acts.") },
    },
  },
};

const WHAT_THEY_DO = {
  "clamp-paper": "The paper's clamp leaves a doubted pixel kappa / L of its gradient.",
  "clamp-official": "The released clamp is flat from kappa on: a doubted pixel has no gradient.",
  pow: "A power below 1 is flat at high losses and steep at low ones: what is sure already teaches most.",
  ignore: "A doubted pixel is left out and has no gradient.",
};

function gateReason(a, b, r, state) {
  return `The mean loss is ${r.mean.toFixed(3)}, ${r.open ? "below" : "not below"} beta = ${state.beta.toFixed(2)}.`;
}

function spreadChart(canvas, r, scene, state) {
  const [before, after] = [r.before, r.after].map((map) => histogram(map, r.before, state.t, 40));
  const top = Math.max(0.1, Math.ceil(10 * Math.max(...before)) / 10), edges = range(41, 0, 1);
  const chart = new Chart(canvas, [0, 1], [0, top], "activation", "share of pixels");
  chart.ticks([0, 0.25, 0.5, 0.75, 1], [0, top], String, (y) => `${Math.round(100 * y)}%`);
  chart.bars(edges, before, Array(40).fill("#AACDE6")).curve(edges.slice(0, 40).map((x) => x + 1 / 80), after, VERMILION);
  if (r.mean) chart.mark(r.mean, `mean ${r.mean.toFixed(2)} ± ${r.deviation.toFixed(2)}`, "#222");
  chart.mark(state.t, "t", GREY, 1);
  const { right, top: y } = chart.box;
  chart.text(right, y + 46, "bars: before", BLUE, "right").text(right, y + 63, "line: after", VERMILION, "right");
}

function powerChart(canvas, r, scene, state) {
  const xs = range(121, 0, 1), ticks = [0, 0.5, 1];
  const chart = new Chart(canvas, [0, 1], [0, 1], "before", "after").ticks(ticks, ticks);
  chart.curve([0, 1], [0, 1], "#aaa", 1.5).curve(xs, raiseCam(Float32Array.from(xs), r.exponent, state.t, state.variant), BLUE);
  if (!r.mean) return;
  chart.dot(r.mean, r.mean ** r.exponent, VERMILION);
  const { right, bottom } = chart.box, lifted = (r.mean ** r.exponent).toFixed(2);
  chart.text(right, bottom - 10, `mean: ${r.mean.toFixed(2)} → ${lifted}`, VERMILION, "right");
}

function shapeChart(canvas, r, scene, state) {
  const xs = range(161, 0, 4), ys = xs.map((x) => (r.open ? reshape(x, state.kind, r.strength) : x));
  const chart = new Chart(canvas, [0, 4], [0, 4], "loss before", "after").ticks([0, 1, 2, 3, 4], [0, 2, 4]);
  chart.curve([0, 4], [0, 4], "#aaa", 1.5).curve(xs, ys, r.open ? BLUE : GREY);
  chart.mark(r.doubt, state.kind === "pow" ? "1" : "kappa", GREY);
  const [word, colour] = r.open ? ["gate OPEN", GREEN] : ["gate CLOSED", BLUE];
  chart.text(chart.box.left + 6, chart.box.top + 44, word, colour);
  chart.text(chart.box.left + 6, chart.box.top + 61, `${r.mean.toFixed(3)} ${r.open ? "<" : "≥"} ${state.beta.toFixed(2)}`, colour);
}

// --- the lesson: moves whose outcome the reader predicts

const LESSON = {
  smoothing: [
    { scene: 0, from: { s: 0, t: 0.05 }, move: ["s", 0.6] },
    { scene: 1, from: { s: 0.3, t: 0.05 }, move: ["t", 0.4] },
  ],
  masks: [
    { scene: 0, from: { s: 0.3, alpha: 0.5 }, move: ["alpha", 4] },
    { scene: 1, from: { s: 0, alpha: 0.5 }, move: ["s", 0.6], pixel: true },
    { scene: 2, from: { threshold: 0.3 }, move: ["threshold", 0.7] },
    { scene: 1, from: { s: 0.3, alpha: 4 }, move: ["alpha", 0.25], pixel: true },
  ],
  underfitting: [
    { scene: 0, from: { beta: 0.3, kappa: 1, kind: "clamp-paper", checkpoint: "late" }, move: ["beta", 0.04] },
    { scene: 1, from: { beta: 1, kappa: 2, kind: "clamp-paper", checkpoint: "late" }, move: ["kappa", 0.5] },
    { scene: 1, from: { beta: 1, kappa: 0.5, kind: "clamp-paper", checkpoint: "late" }, move: ["kind", "ignore"] },
  ],
};

/* A pixel that the move gives to another class, in the middle of the largest such stretch of a row; null if none. */
function changedPixel(before, after, width) {
  let best = 0, found = null;
  for (let i = 0, run = 0; i < before.length; i++) {
    const goesOn = i % width && run && after[i] === after[i - 1];
    run = before[i] === after[i] ? 0 : goesOn ? run + 1 : 1;
    if (run > best) { best = run; found = i - (run >> 1); }
  }
  return found;
}

// --- the page

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

class Explorer {
  constructor(host, data, root) {
    Object.assign(this, { host, data, root, pinned: null, asked: null, predicts: false, lesson: null });
    this.names = host.dataset.views.split(" ").filter((name) => VIEWS[name]);
    this.open = this.names.filter((name) => !data.missing[name]);
    this.wholePage = host.dataset.page === "whole";
    this.unpacked = [];
    this.settings = {}; // of each view, the values of its controls
    this.timings = []; // milliseconds from a slider's event to the new picture
    this.score = { right: 0, of: 0 };
    const p = data.params;
    const kind = p.pus === "clamp" ? `clamp-${p.pus_variant}` : p.pus in STRATEGIES ? p.pus : "clamp-paper";
    const start = { ...p, kind, threshold: p.cam_threshold, checkpoint: "late" };
    for (const name of this.names) {
      this.settings[name] = {};
      for (const control of VIEWS[name].controls(data)) {
        if (control.name === "class") continue;
        this.settings[name][control.name] = this.nearest(control, start[control.name]);
      }
    }
    [this.view] = this.open.length ? this.open : this.names;
    this.place = 0;
  }

  get state() { return { ...this.settings[this.view], class: this.chosenClass() }; }
  get scene() { return this.unpacked[this.place]; }

  chosenClass() {
    const { classes } = this.data.scenes[this.place];
    return classes.includes(this.wantedClass) ? this.wantedClass : classes[0];
  }

  controls() { return VIEWS[this.view].controls(this.data); }

  /* The nearest value that a control has. */
  nearest(control, value) {
    if (control.kind === "choice") return value in control.options ? value : Object.keys(control.options)[0];
    const { low, high, step, values } = control;
    if (values) return values.reduce((a, b) => (Math.abs(b - value) < Math.abs(a - value) ? b : a));
    const steps = Math.round((Math.min(Math.max(value, low), high) - low) / step);
    return Number(Math.min(low + steps * step, high).toFixed(6));
  }

  // what a link says: #view=masks&scene=3&s=0.3&alpha=2

  async readLink() {
    const link = new URLSearchParams(location.hash.slice(1)), notes = [];
    if (!link.has("view")) return;
    const wanted = link.get("view");
    if (this.open.includes(wanted)) this.view = wanted;
    else if (this.wholePage) notes.push(`There is no view "${wanted}"; shown is ${this.view}.`);
    else return; // the link is meant for another page
    const { scenes } = this.data;
    if (link.has("scene")) {
      const name = link.get("scene"), byId = scenes.findIndex((scene) => scene.id === name);
      const number = byId >= 0 ? byId + 1 : Number(name);
      const shown = Math.min(Math.max(Math.round(number) || 1, 1), scenes.length);
      if (shown !== number) notes.push(`There is no scene "${name}"; shown is ${shown} of ${scenes.length}.`);
      this.place = shown - 1;
    }
    const known = this.controls();
    for (const [name, text] of link) {
      const control = known.find((each) => each.name === name);
      if (["view", "scene", "predict"].includes(name)) continue;
      if (!control) notes.push(`This view has no "${name}".`);
      else if (name === "class") {
        const { classes } = scenes[this.place], id = classes.find((each) => this.data.classes[each].name === text);
        if (id === undefined) notes.push(`Scene ${this.place + 1} has no class "${text}".`);
        else this.wantedClass = id;
      } else if (control.kind !== "choice" && (text.trim() === "" || !Number.isFinite(Number(text)))) {
        notes.push(`${name} = "${text}" is no number; shown is ${control.show(this.settings[this.view][name])}.`);
      } else {
        const value = this.nearest(control, control.kind === "choice" ? text : Number(text));
        if (String(value) !== text && Math.abs(value - Number(text)) !== 0)
          notes.push(`${name} = ${text} is not among the values here; shown is the nearest, ${value}.`);
        this.settings[this.view][name] = value;
      }
    }
    this.predicts = link.get("predict") === "on";
    this.linkNote = notes.join(" ");
  }

  link() {
    const parts = [["view", this.view], ["scene", this.place + 1]];
    if (this.controls().some((c) => c.name === "class")) parts.push(["class", this.data.classes[this.chosenClass()]?.name]);
    parts.push(...Object.entries(this.settings[this.view]));
    if (this.predicts) parts.push(["predict", "on"]);
    return "#" + parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  }

  // building

  build() {
    const button = (words, help, act) => element("button", { type: "button", title: help, onclick: act }, words);
    this.tabs = element("div", { class: "tabs", role: "group", "aria-label": "View" }, this.names.length < 2 ? [] :
      this.names.map((name) => element("button", { type: "button", "data-view": name, disabled: !this.open.includes(name),
        title: this.data.missing[name] ?? VIEWS[name].lead, onclick: () => this.show({ view: name }) }, VIEWS[name].title)));
    this.predictButton = button("Predict first", "Say what will happen before you see it", () => this.togglePredict());
    this.pinButton = button("Compare", "Pin this setting beside the moving one", () => this.togglePin());
    const tools = element("div", { class: "tools" }, this.predictButton,
      button("Lesson", "A few moves; you say what each will do", () => this.startLesson()), this.pinButton,
      button("Reset", "All sliders to the values of the run", () => this.reset()),
      this.wholePage ? button("Link", "Copy a link to this very setting", (event) => this.copyLink(event.target)) : null);
    this.thumbs = element("div", { class: "thumbs", role: "group", "aria-label": "Scene" }, this.data.scenes.map((scene, k) => {
      const names = scene.classes.map((id) => this.data.classes[id].name).join(", ");
      return element("button", { type: "button", title: `scene ${k + 1}: ${names}`, onclick: () => this.show({ place: k }) },
        element("img", { src: scene.image, alt: `scene ${k + 1}: ${names}` }), element("span", {}, String(k + 1)));
    }));
    this.form = element("div", { class: "controls" });
    this.key = element("div", { class: "panels key" });
    this.more = element("div", { class: "panels more" });
    this.pinnedPanels = element("div", { class: "panels pinned" });
    this.banner = element("div", { class: "banner", role: "group", "aria-label": "Prediction", hidden: true });
    this.note = element("p", { class: "note", role: "status", hidden: true });
    this.legend = element("p", { class: "legend" });
    this.numbers = element("table", { class: "numbers" });
    this.warning = element("p", { class: "warning", role: "status" });
    this.spoken = element("p", { class: "spoken", role: "status", "aria-live": "polite" });
    this.formula = element("div", { class: "formula" });
    this.lead = element("p", { class: "lead" });
    const side = element("div", { class: "side" }, this.thumbs, this.form);
    const stage = element("div", { class: "stage" }, this.banner, this.note, this.more, this.pinnedPanels, this.key, this.warning,
      element("div", { class: "below" }, element("div", { class: "figures" }, this.numbers, this.legend), this.formula));
    const title = this.wholePage ? element("h1", {}, "Pseudo-masks by hand") : null;
    this.root.append(element("section", { class: "explorer", "aria-label": "Explorer" },
      element("div", { class: "head" }, title, this.tabs, tools), this.lead, element("div", { class: "body" }, side, stage), this.spoken));
  }

  /* Show a view or a scene; what is not given stays. */
  async show({ view = this.view, place = this.place } = {}) {
    if (this.asked) this.dropQuestion();
    const ticket = (this.ticket = {});
    this.unpacked[place] ??= await unpackScene(this.data.scenes[place], this.data);
    if (this.ticket !== ticket) return; // a later wish came first
    if (view !== this.view) this.pinned = null;
    Object.assign(this, { view, place });
    for (const tab of this.tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.view === view));
    [...this.thumbs.children].forEach((thumb, k) => thumb.setAttribute("aria-pressed", String(k === place)));
    this.lead.textContent = VIEWS[view].lead;
    this.buildControls();
    this.buildPanels();
    this.render();
  }

  buildControls() {
    const rows = this.controls().map((control) => {
      const id = `pmm-${this.view}-${control.name}`, help = element("p", { class: "help", id: `${id}-help` }, control.help);
      const value = this.state[control.name];
      if (control.kind === "class" || control.kind === "choice") {
        const options = control.kind === "choice" ? Object.entries(control.options) :
          this.scene.classes.map((each) => [each, this.data.classes[each].name]);
        const buttons = options.map(([key, words]) => element("button", { type: "button", "aria-pressed": String(key === value),
          "data-value": String(key), onclick: (event) => this.move(control.name, key, event) },
          control.kind === "class" ? this.swatch(this.data.classes[key].colour) : null, words));
        return element("div", { class: "control", "data-control": control.name },
          element("div", { class: "choices", role: "group", "aria-label": control.label, "aria-describedby": `${id}-help` },
            element("span", { class: "name" }, control.label), buttons), help);
      }
      const grid = control.values, at = grid ? grid.indexOf(value) : value;
      const slider = element("input", { type: "range", id, min: grid ? "0" : String(control.low),
        max: String(grid ? grid.length - 1 : control.high), step: grid ? "1" : String(control.step),
        "aria-describedby": `${id}-help`, "aria-valuetext": control.show(value) });
      slider.value = at;
      const output = element("output", { for: id }, control.show(value));
      slider.addEventListener("input", (event) => {
        const moved = grid ? grid[Number(slider.value)] : Number(slider.value);
        output.textContent = control.show(moved);
        slider.setAttribute("aria-valuetext", control.show(moved));
        this.move(control.name, moved, event);
      });
      return element("div", { class: "control", "data-control": control.name },
        element("label", { for: id }, element("span", { class: "name" }, control.label), output), slider, help);
    });
    if (this.view === "masks") {
      const { s, alpha } = this.data.grid;
      rows.push(element("p", { class: "help grid" }, `The dense CRF was solved beforehand at ${s.length} x ${alpha.length} ` +
        `settings of s and alpha, where these two sliders stop. All else is computed as you move.`));
    }
    this.form.replaceChildren(...rows);
  }

  buildPanels() {
    const make = (panel) => {
      const canvas = element("canvas", { role: "img", class: panel.chart ? "chart" : "picture" });
      if (!panel.chart) Object.assign(canvas, { width: this.scene.width, height: this.scene.height });
      const title = element("figcaption");
      const figure = element("figure", { "data-panel": panel.id, class: panel.wide ? "wide" : "" }, title, canvas);
      return { panel, canvas, title, figure };
    };
    const { panels } = VIEWS[this.view], scored = panels.some((panel) => panel.needs === "truth");
    const there = panels.filter((panel) => !panel.needs || this.scene[panel.needs]);
    this.moving = there.map(make);
    this.still = this.pinned ? there.filter((panel) => !panel.more).map(make) : [];
    this.key.replaceChildren(...this.moving.filter((p) => !p.panel.more).map((p) => p.figure));
    this.more.replaceChildren(...this.moving.filter((p) => p.panel.more).map((p) => p.figure));
    this.pinnedSetting = element("p", { class: "setting" });
    this.pinnedPanels.replaceChildren(this.pinnedSetting, ...this.still.map((p) => p.figure));
    const ids = [...new Set([...this.scene.classes, ...(this.scene.truth ?? []), ...(this.scene.learned ?? [])])];
    const entries = ids.filter((id) => id !== 0).map((id) => element("span", {}, this.swatch(this.data.classes[id].colour), this.data.classes[id].name));
    this.legend.replaceChildren(...entries, ...(this.scene.note ? [element("span", {}, `Scene ${this.scene.note}.`)] : []),
      scored && !this.scene.truth ? element("span", {}, "No ground truth here: nothing is scored.") : "");
    this.formula.innerHTML = this.data.formulas[this.view]; // MathML that the page was written with
  }

  swatch(colour) { return element("i", { class: "swatch", style: `background: rgb(${colour})` }); }

  // drawing

  compute(state) { return VIEWS[this.view].compute(this.scene, state, this.data); }

  render(event = null) {
    const view = VIEWS[this.view], { state, scene } = this, result = (this.result = this.compute(state));
    this.more.hidden = Boolean(this.pinned);
    this.pinnedPanels.hidden = !this.pinned;
    this.paint(this.moving, result, state, this.pinned ? "B: " : "");
    let before = null;
    if (this.pinned) {
      const setting = { ...this.pinned, class: state.class };
      before = this.compute(setting);
      this.paint(this.still, before, setting, "A: ");
      this.pinnedSetting.textContent = "A, pinned: " + this.controls().filter((c) => c.name in this.pinned).map((c) =>
        `${c.label.split(",")[0]} ${c.show ? c.show(setting[c.name]) : c.options[setting[c.name]]}`).join(", ");
    }
    this.fillNumbers(view.numbers(result, scene, this.data), before && view.numbers(before, scene, this.data));
    this.warning.textContent = view.warning(result, state);
    if (event) this.timings.push(performance.now() - event.timeStamp);
    this.afterwards(() => {
      this.spoken.textContent = view.say(result, state, this.data.classes[state.class]?.name ?? "");
      if (this.wholePage) history.replaceState(null, "", this.link());
    });
    this.note.textContent = this.linkNote ?? "";
    this.note.hidden = !this.linkNote;
    this.predictButton.setAttribute("aria-pressed", String(this.predicts));
    this.pinButton.setAttribute("aria-pressed", String(Boolean(this.pinned)));
    this.pinButton.textContent = this.pinned ? "Unpin" : "Compare";
    this.host.dataset.ready = String(Number(this.host.dataset.ready ?? 0) + 1);
  }

  /* What may wait until the slider rests. */
  afterwards(act) {
    clearTimeout(this.timer);
    this.timer = setTimeout(act, 250);
  }

  paint(panels, result, state, letter) {
    for (const { panel, canvas, title, figure } of panels) {
      if (figure.parentElement.hidden || (panel.once && canvas.dataset.painted)) continue;
      canvas.dataset.painted = "yes";
      title.textContent = letter + panel.title(result, state);
      canvas.setAttribute("aria-label", panel.alt(result, this.scene, state));
      if (panel.chart) panel.chart(canvas, result, this.scene, state);
      else {
        const pixels = new Uint8ClampedArray(panel.paint(result, this.scene).buffer);
        canvas.getContext("2d", READ).putImageData(new ImageData(pixels, canvas.width, canvas.height), 0, 0);
      }
    }
  }

  fillNumbers(rows, pinned) {
    const write = (row, place) => (row ? element("td", { class: place, "data-number": place === "now" ? row[0] : null }, row[3](row[2])) : null);
    const head = pinned ? element("tr", {}, element("td", {}), element("th", {}, "A"), element("th", {}, "B")) : null;
    this.numbers.replaceChildren(...[head, ...rows.map((row, k) => element("tr", {},
      element("th", { scope: "row" }, row[4] ? this.swatch(row[4]) : null, row[1]),
      write(pinned?.[k], "then"), write(row, "now")))].filter(Boolean));
  }

  // moving

  move(name, value, event) {
    this.linkNote = "";
    if (name === "class") {
      this.wantedClass = value;
      this.buildControls();
      this.buildPanels();
      return this.render(event);
    }
    const question = this.predicts && VIEWS[this.view].questions[name];
    if (this.asked || question) return this.ask(name, value);
    this.settings[this.view][name] = value;
    if (event.type === "click") this.markChoice(name, value);
    return this.render(event);
  }

  markChoice(name, value) {
    for (const button of this.form.querySelectorAll(`[data-control="${name}"] button`))
      button.setAttribute("aria-pressed", String(button.dataset.value === String(value)));
  }

  reset() {
    const fresh = new Explorer(this.host, this.data, this.root);
    Object.assign(this, { settings: fresh.settings, wantedClass: undefined, pinned: null, linkNote: "", lesson: null });
    return this.show();
  }

  togglePin() {
    this.pinned = this.pinned ? null : { ...this.settings[this.view] };
    this.buildPanels();
    this.render();
  }

  async copyLink(button) {
    const address = location.href.replace(/#.*/, "") + this.link();
    history.replaceState(null, "", this.link());
    try { await navigator.clipboard.writeText(address); button.textContent = "Copied"; }
    catch { button.textContent = "See the address"; }
    setTimeout(() => { button.textContent = "Link"; }, 2000);
  }

  // predicting

  togglePredict() {
    this.predicts = !this.predicts;
    this.dropQuestion();
    this.score = { right: 0, of: 0 };
    this.tell(this.predicts ? "Move a slider: before you see what it does, you say what it will do." : "");
    this.render();
  }

  tell(...content) {
    const parts = content.filter(Boolean);
    this.banner.hidden = !parts.length;
    this.banner.replaceChildren(...parts);
  }

  /* Ask what a move will do; the pictures stay those of the setting before it. */
  ask(name, value, pixel = null) {
    const question = VIEWS[this.view].questions[this.asked?.name ?? name];
    const first = !this.asked;
    this.asked ??= { name, before: { ...this.settings[this.view] }, after: { ...this.settings[this.view] }, question, pixel };
    this.asked.after[name] = value;
    this.markChoice(name, value);
    const control = this.controls().find((each) => each.name === this.asked.name);
    const words = (v) => (control.kind === "choice" ? control.options[v] : control.show(v));
    const { before, after } = this.asked, move = `${control.label}: ${words(before[this.asked.name])} → ${words(after[this.asked.name])}.`;
    if (!first) { this.banner.querySelector(".move").textContent = move; return; }
    const options = pixel === null ? question.options.map((word) => [word, word]) :
      [0, ...this.scene.classes].map((id) => [String(id), this.data.classes[id].name]);
    this.tell(element("p", { role: "status" }, element("b", { class: "move" }, move), " ",
      pixel === null ? question.text : "Who wins the pixel with the cross?", element("small", {}, " The pictures still show the setting before.")),
      element("div", { class: "answers" }, options.map(([key, word]) =>
        element("button", { type: "button", "data-answer": key, onclick: () => this.answer(key) }, word))));
    this.root.querySelector(".explorer").classList.add("asking");
    if (pixel !== null) this.cross(pixel);
  }

  cross(pixel) {
    const { canvas } = this.moving.find((p) => p.panel.id === "mask"), c = canvas.getContext("2d", READ);
    const x = pixel % this.scene.width, y = Math.floor(pixel / this.scene.width);
    for (const [colour, width] of [["white", 5], ["black", 2]]) {
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.beginPath();
      c.moveTo(x - 9, y); c.lineTo(x + 9, y); c.moveTo(x, y - 9); c.lineTo(x, y + 9);
      c.stroke();
    }
  }

  answer(choice) {
    const { name, before, after, question, pixel } = this.asked;
    const [then, now] = [before, after].map((setting) => this.compute({ ...setting, class: this.state.class }));
    let truth, fact, why;
    if (pixel !== null) {
      const word = (id) => this.data.classes[id].name;
      truth = String(now.mask[pixel]);
      fact = `It was ${word(then.mask[pixel])} and is now ${word(now.mask[pixel])}.`;
      why = question.why(question.by(then), question.by(now), now, after);
    } else {
      const [a, b] = [question.by(then), question.by(now)];
      if (question.of) {
        const [shownA, shownB] = [a, b].map(question.of);
        truth = question.options[shownA === shownB ? 2 : b > a ? 0 : 1];
        fact = shownA === shownB ? `It stays at ${shownB}.` : `From ${shownA} to ${shownB}.`;
        why = shownA === shownB && b === a && name !== "kind" && name !== "kappa" ? "Nothing lies close enough to the border." : question.why(a, b, now, after);
      } else { truth = b; fact = `The gate is ${b}.`; why = question.why(a, b, now, after); }
    }
    const right = choice === truth;
    this.score = { right: this.score.right + right, of: this.score.of + 1 };
    this.settings[this.view] = { ...after };
    this.asked = null;
    this.root.querySelector(".explorer").classList.remove("asking");
    if (this.lesson) this.buildControls(); // nobody has moved them
    this.render();
    if (pixel !== null) this.cross(pixel);
    const next = this.lesson && element("button", { type: "button", class: "next", onclick: () => this.nextStep() },
      this.lesson.step + 1 < this.lesson.steps.length ? "Next" : "Score");
    this.tell(element("p", { role: "status", class: right ? "right" : "wrong" }, element("b", {}, right ? "Right. " : "No. "), `${fact} ${why} `,
      element("small", {}, `${this.score.right} of ${this.score.of} right.`)), next);
    next?.focus();
  }

  dropQuestion() {
    this.asked = null;
    this.root.querySelector(".explorer")?.classList.remove("asking");
    this.tell();
    if (this.form.childElementCount && this.scene) this.buildControls();
  }

  startLesson() {
    const steps = this.open.flatMap((view) => LESSON[view].map((step) => ({ view, ...step })));
    Object.assign(this, { lesson: { steps, step: -1 }, linkNote: "" });
    this.score = { right: 0, of: 0 };
    return this.nextStep();
  }

  async nextStep() {
    const { lesson } = this, step = lesson.steps[++lesson.step];
    if (!step) {
      const { right, of } = this.score;
      this.lesson = null;
      this.tell(element("p", { role: "status", class: "score" }, element("b", {}, `${right} of ${of} right. `),
        right === of ? "Nothing left to teach here." : "Move the sliders of those that surprised you, then try again."));
      return;
    }
    const view = VIEWS[step.view], controls = view.controls(this.data);
    const at = (name, value) => this.nearest(controls.find((c) => c.name === name), value);
    this.pinned = null;
    for (const [name, value] of Object.entries(step.from)) this.settings[step.view][name] = at(name, value);
    await this.show({ view: step.view, place: step.scene % this.data.scenes.length });
    const [name, value] = [step.move[0], at(...step.move)];
    let pixel = null;
    if (step.pixel) pixel = changedPixel(this.result.mask, this.compute({ ...this.state, [name]: value }).mask, this.scene.width);
    this.ask(name, value, pixel);
  }
}

async function start(host) {
  const data = JSON.parse(host.querySelector("script[type='application/json']").textContent);
  data.tables = colourTables(data);
  if (!host.dataset.views.split(" ").some((name) => !data.missing[name])) return; // the page says why
  const root = document.createElement("div"), explorer = new Explorer(host, data, root);
  const first = explorer.readLink().then(() => unpackScene(data.scenes[explorer.place], data));
  explorer.unpacked[explorer.place] = await first;
  const shadow = host.attachShadow({ mode: "open" });
  shadow.append(host.querySelector("template").content.cloneNode(true), root);
  explorer.build();
  await explorer.show();
  if (explorer.predicts) { explorer.predicts = false; explorer.togglePredict(); }
  window.addEventListener("hashchange", async () => { await explorer.readLink(); await explorer.show(); });
  window.addEventListener("resize", () => explorer.afterwards(() => explorer.render()));
  host.explorer = explorer;
}

for (const host of document.querySelectorAll(".pmm-live"))
  start(host).catch((error) => {
    host.append(`The sliders need a newer browser (${error.message}); this is a picture.`);
    throw error;
  });
})();
