"use strict";
/* The same question as a command: for a shell with mlserve, for curl, and in Python. */

/** Characters of a request that a command holds itself; a longer one is saved as a file first. */
const MOST_INLINE = 2000;
const REQUEST_FILE = "request.json";

/** What to add for a certificate that the system does not trust. */
const OF_AUTHORITY = {
  "Command line": "--tls-ca FILE",
  curl: "--cacert FILE",
  Python: 'tls=mlserve.Tls(ca=Path("FILE")) to the arguments of Client',
};

/** Return a text as Python writes it: as JSON does, where it escapes no more than it has to. */
const inPython = (text) => JSON.stringify(text);

/** Return JSON as an expression of Python: its strings may have escapes that Python reads otherwise. */
function expressionOf(json) {
  const words = { true: "True", false: "False", null: "None", NaN: 'float("nan")', Infinity: 'float("inf")', "-Infinity": 'float("-inf")' };
  const bytes = new RegExp(`\\{"b64":(${STRING})\\}`, "g");
  return json
    .replace(new RegExp(`${STRING}|-?\\b(?:NaN|Infinity)\\b|\\b(?:true|false|null)\\b`, "g"), (found) => words[found] ?? inPython(JSON.parse(found)))
    .replace(bytes, "base64.b64decode($1)");
}

/** Return a shell's command over several lines: its words, those of one option on one line. */
function commandOf(first, ...options) {
  return [first, ...options.filter((words) => words.length > 0).map((words) => words.join(" "))].join(" \\\n  ");
}

/**
 * Return the three texts for a question, and the file that they read if one has to be saved first.
 *
 * `asked` is that of `questionFor`. A file of the caller's is named as it is called here.
 */
function commandsFor(target, asked, question) {
  const needsToken = token !== "";
  const isShort = question.text !== null && question.text.length <= MOST_INLINE;
  const parts = { target, asked, question, needsToken, isShort };
  const isNamed = asked.kind === "image" && asked.chosen !== BEST;
  const saved = asked.kind === "image" || isShort ? null : { name: REQUEST_FILE, content: question.text };
  return {
    "Command line": inMlserve(parts, isNamed),
    curl: inCurl(parts),
    Python: inPythonClient(parts, isNamed),
    saved,
  };
}

/** Return a path that no command takes for an option, nor for standard input. */
const pathTo = (name) => (name.startsWith("-") ? `./${name}` : name);

function inMlserve({ target, asked, question, isShort }, isNamed) {
  const where = [
    ["--endpoint", quoted(ENDPOINT)],
    [`--model=${quoted(target.model)}`],
    ["--version", target.version],
    ["--timeout", asked.seconds],
  ];
  const signature = [`--signature=${quoted(question.description.name)}`];
  if (asked.kind === "image" && isNamed) {
    const input = requiredOf(question.description)[0].name;
    return commandOf("mlserve predict", [`--input ${quoted(`${input}=@${pathTo(asked.image.name)}`)}`], signature, ...where);
  }
  if (asked.kind === "image") {
    return commandOf(`mlserve predict ${quoted(pathTo(asked.image.name))}`, ["--top-k", asked.count], ...where);
  }
  if (asked.kind === "table") {
    const file = quoted(pathTo(asked.table.name));
    const isKnown = TABLE.test(asked.table.name);
    return commandOf(`mlserve predict ${isKnown ? file : "- --format csv"}`, signature, ...where, isKnown ? [] : ["<", file]);
  }
  if (isShort) return `${commandOf("mlserve predict --json -", ...where)} <<'JSON'\n${question.text}\nJSON`;
  return commandOf(`mlserve predict --json ${REQUEST_FILE}`, ...where);
}

function inCurl({ asked, question, needsToken, isShort }) {
  const url = new URL(question.path, BASE).href;
  const headers = [
    ["-H", quoted(`X-Request-Timeout-Ms: ${inMilliseconds(asked.seconds)}`)],
    needsToken ? ["-H", '"Authorization: Bearer $MLSERVE_TOKEN"'] : [],
  ];
  const first = `curl -sS --fail-with-body ${quoted(url)}`;
  if (asked.kind === "image") {
    const name = pathTo(asked.image.name).replaceAll("\\", "\\\\").replaceAll('"', '\\"');
    const fields = [["-F", quoted(`image=@"${name}"`)], ["--form-string", quoted(`signature_name=${question.description.name}`)]];
    return commandOf(first, ...fields, ...headers);
  }
  const body = isShort ? quoted(question.text) : `@${REQUEST_FILE}`;
  return commandOf(first, ["-H", "'Content-Type: application/json'"], ...headers, ["--data-binary", body]);
}

function inPythonClient({ target, asked, question, needsToken, isShort }, isNamed) {
  const imports = new Set();
  const options = [inPython(ENDPOINT), `model=${inPython(target.model)}`, `version=${target.version}`];
  if (needsToken) {
    imports.add("import os");
    options.push('token=os.environ["MLSERVE_TOKEN"]');
  }
  const lines = [];
  const how = `signature=${inPython(question.description.name)}, timeout=${asked.seconds}`;
  const isImage = asked.kind === "image" && !isNamed;
  lines.push(isImage
    ? `    answer = client.predict(${inPython(asked.image.name)}, top_k=${asked.count}, timeout=${asked.seconds})`
    : `    answer = client.infer(${inputsInPython({ asked, question, isShort }, imports)}, ${how})`);
  lines.push(isImage ? "print(answer.label, answer.scores)" : "print(dict(answer))");
  const head = [...imports].sort((a, b) => a.startsWith("from") - b.startsWith("from") || a.localeCompare(b));
  return [...head, ...(head.length ? [""] : []), "from mlserve import Client", "", `with Client(${options.join(", ")}) as client:`, ...lines].join("\n");
}

/** Return the expression for the inputs, and add what it imports. */
function inputsInPython({ asked, question, isShort }, imports) {
  if (asked.kind === "image") {
    const input = requiredOf(question.description)[0];
    imports.add("from pathlib import Path");
    const depth = input.shape.length;
    return `{${inPython(input.name)}: ${"[".repeat(depth)}Path(${inPython(asked.image.name)}).read_bytes()${"]".repeat(depth)}}`;
  }
  const json = /"inputs":(.*)\}$/s.exec(question.text)[1];
  if (isShort) {
    const expression = expressionOf(json);
    if (expression.includes("base64.b64decode(")) imports.add("import base64");
    return expression;
  }
  imports.add("import json").add("from pathlib import Path");
  const hook = question.text.includes('{"b64":');
  if (hook) imports.add("import base64");
  const decode = hook ? ', object_hook=lambda item: base64.b64decode(item["b64"]) if item.keys() == {"b64"} else item' : "";
  return `json.loads(Path(${inPython(REQUEST_FILE)}).read_bytes()${decode})["inputs"]`;
}
