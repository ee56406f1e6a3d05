// The page: it loads a file of a deployment, and classifies the picture that is dropped or chosen.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { pixelsOf } from "./photo.js";

const SHOWN = 10; // classes
const find = (id) => document.getElementById(id);

let manifest, session, picture;
let last = Promise.resolve();

ort.env.wasm.numThreads = 1; // several would need HTTP headers that plain servers do not send

/** Do one thing after the other, and show what fails. */
function next(action) {
  last = last.then(action).catch((error) => say(error.message, true));
}

function say(text, failed = false) {
  find("status").textContent = text;
  find("status").classList.toggle("failed", failed);
}

async function start() {
  const answer = await fetch("deploy.json");
  if (!answer.ok) throw new Error(`deploy.json: expected it beside this page, got ${answer.status}`);
  manifest = await answer.json();
  document.title = `${manifest.network} on ${manifest.dataset.name}`;
  find("network").textContent = document.title;
  for (const name of Object.keys(manifest.files).filter((name) => name.endsWith(".onnx"))) {
    const { bytes, test } = manifest.files[name];
    const words = `${name}: ${(bytes / 1000).toFixed(0)} kB, test accuracy ${test.accuracy.toFixed(4)}`;
    find("file").append(new Option(words, name));
  }
  await load();
}

async function load() {
  const name = find("file").value;
  say(`Loading ${name} …`);
  session = undefined; // a file that does not load leaves none
  find("result").hidden = true;
  session = await ort.InferenceSession.create(`files/${name}`, { executionProviders: ["wasm"] });
  say("Ready.");
  if (picture) await classify();
}

async function classify() {
  find("result").hidden = true;
  if (!session) throw new Error("Expected a file that loads, got none. Choose one above.");
  const [, height, width, channels] = manifest.pixels.shape;
  let pixels;
  try {
    pixels = await pixelsOf(picture, height, channels);
  } catch {
    const kind = picture.type || "a file of an unknown kind";
    throw new Error(`${picture.name}: expected an image that this browser can show, got ${kind}`);
  }
  const images = new ort.Tensor("float32", pixels, [1, height, width, channels]);
  const started = performance.now();
  const given = await session.run({ [session.inputNames[0]]: images });
  const took = performance.now() - started;
  const logits = Array.from(given[session.outputNames[0]].data);
  show(pixels, channels, logits);
  say(`${picture.name}: ${find("file").value} took ${took.toFixed(1)} ms.`);
}

function show(pixels, channels, logits) {
  const shares = softmax(logits);
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
  find("classes").replaceChildren(
    ...order.slice(0, SHOWN).map((index) => row(manifest.class_names[index], shares[index])),
  );
  find("logits").textContent = JSON.stringify(logits);
  draw(pixels, channels);
  find("result").hidden = false;
}

function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - highest));
  const all = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / all);
}

function row(name, share) {
  const made = find("row").content.cloneNode(true);
  made.querySelector(".name").textContent = name;
  made.querySelector(".share").textContent = `${(100 * share).toFixed(1)} %`;
  made.querySelector(".bar").style.setProperty("--share", share);
  return made;
}

/** The picture as it is looked at, and as the network sees it. */
function draw(pixels, channels) {
  const [, height, width] = manifest.pixels.shape;
  const seen = new ImageData(width, height);
  for (let i = 0; i < width * height; i++)
    for (let channel = 0; channel < 4; channel++)
      seen.data[4 * i + channel] = channel === 3 ? 255 : pixels[channels * i + (channel % channels)];
  Object.assign(find("seen"), { width, height });
  find("seen").getContext("2d").putImageData(seen, 0, 0);
  find("size").textContent = `${width} x ${height} pixels`;
  URL.revokeObjectURL(find("given").src);
  find("given").src = URL.createObjectURL(picture);
}

function take(files) {
  if (!files.length) return;
  next(() => {
    picture = files[0];
    return classify();
  });
}

find("choose").addEventListener("change", (event) => take([...event.target.files]));
find("file").addEventListener("change", () => next(load));
addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", () => find("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});
next(start);
