"use strict";
/* What is served, and what a signature takes. */

/** The dimensions that stand for any number of elements, or for one. */
const isOpen = (size) => size === -1 || size === 1;

/** Return the versions that answer now, from what `GET v2` says: each with a key and words about it. */
function targetsIn(about) {
  const serving = about?.parameters?.serving ?? [];
  return serving.map(({ model, version, by, golden, fault }) => {
    const [runtime = "", precision = "", device = "", ...rest] = by.split("; ");
    const certificate = rest.map((part) => /^certificate=(.*)$/.exec(part)?.[1]).find(Boolean) ?? "";
    const words = [runtime, precision, device].filter((word) => word && !word.startsWith("unknown")).join(", ");
    return { model, version, key: `${model}\n${version}`, words, golden, fault, certificate };
  });
}

const pathOf = (target, api) => `${api}/models/${encodeURIComponent(target.model)}/versions/${target.version}`;

const described = new Map();

/** Return what a version says of a signature; the empty name is its default one. Throws Refused. */
function describe(target, signature = "") {
  const key = `${target.key}\n${signature}`;
  if (!described.has(key)) {
    const asked = askAbout(target, signature);
    described.set(key, asked);
    asked.catch(() => described.get(key) === asked && described.delete(key));
  }
  return described.get(key);
}

async function askAbout(target, signature) {
  const query = signature ? `?signature=${encodeURIComponent(signature)}` : "";
  const { value, headers } = await requestJson(pathOf(target, "v2") + query);
  if (!Array.isArray(value?.inputs) || !Array.isArray(value.outputs) || !Array.isArray(value.parameters?.signatures)) {
    throw new Refused(`what came from ${ENDPOINT} does not describe a model`, { hint: "see what answers at this address" });
  }
  const { signature: name, signatures, optional } = value.parameters;
  const contract = contractIn(headers.get("x-mlserve-contract"));
  return { name, signatures, optional, inputs: value.inputs, outputs: value.outputs, contract, limits: value.parameters };
}

function contractIn(header) {
  try {
    const contract = JSON.parse(header ?? "null");
    return contract && typeof contract === "object" ? contract : {};
  } catch {
    return {};
  }
}

/** Return the inputs that a request must have. */
const requiredOf = (description) => description.inputs.filter(({ name }) => !description.optional.includes(name));

/** Return whether the signature takes one image file, as far as can be told. */
function takesImage(description) {
  const required = requiredOf(description);
  const isOneString = required.length === 1 && required[0].datatype === "BYTES" && required[0].shape.every(isOpen);
  const isOfTensors = Object.keys(description.contract).length > 0 && !("pipeline" in description.contract);
  const isText = isOfTensors && description.outputs.every(({ datatype }) => datatype !== "BYTES");
  return isOneString && !isText;
}

/** Return whether the rows of a table can be its inputs. */
const takesRows = (description) =>
  description.inputs.length > 0 && description.inputs.every(({ shape }) => shape.length > 0 && isOpen(shape[0]));

/** The word for the choice that leaves the signature to the page, as `mlserve predict` does. */
const BEST = "";

/** Return the signature to ask about an image for the `count` best labels: that of the client. */
async function signatureForImage(target, chosen, count) {
  if (chosen !== BEST) return describe(target, chosen);
  const usual = await describe(target);
  if (!usual.signatures.includes("top_k")) return usual;
  const best = await describe(target, "top_k");
  const held = best.outputs.find(({ name }) => name === "labels")?.shape.at(-1) ?? -1;
  const isEnough = held < 0 || count <= held || !usual.signatures.includes("ranking");
  return isEnough ? best : describe(target, "ranking");
}

/** Return an input as text: `x: FP32 [rows, 4]`. */
function inWords({ name, datatype, shape }) {
  const sizes = shape.map((size, at) => (size >= 0 ? size : at === 0 ? "rows" : "any"));
  return `${name}: ${datatype} [${sizes.join(", ")}]`;
}
