"use strict";
/* Elements, numbers and texts as they are shown, and the clipboard. */

const byId = (id) => document.getElementById(id);

/**
 * Return a new element. Of its attributes, `text` is its text, `on...` are listeners, and those that
 * are undefined, null or false are left out. Children that are null are left out, too.
 */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return the same for SVG, whose attributes are set as they are. */
function makeSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Return text that only a screen reader says. */
const said = (text) => make("span", { class: "said", text });

/** Return a duration in milliseconds as text, with about three digits. */
function inTime(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "unknown";
  if (milliseconds === 0) return "0 ms";
  if (milliseconds >= 9995) return `${(milliseconds / 1000).toFixed(1)} s`;
  if (milliseconds >= 999.5) return `${(milliseconds / 1000).toFixed(2)} s`;
  if (milliseconds >= 99.5) return `${milliseconds.toFixed(0)} ms`;
  return `${milliseconds.toFixed(milliseconds >= 9.95 ? 1 : 2)} ms`;
}

/** Return a number of bytes as text. */
function inBytes(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 1024 * 1000) return `${(bytes / 1024).toFixed(bytes < 10240 ? 1 : 0)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

/** Return a score or another number as text that fits into a line. */
function inShort(value) {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size >= 0.001 && size < 1e6 ? String(Number(value.toFixed(size < 1 ? 4 : 3))) : value.toExponential(2);
}

/** Characters of a text from a server or a file that are shown where there is one line for it. */
const MOST_TEXT = 300;

/** Return the beginning of a text that is too long, and how long it is. */
function cut(text, most = MOST_TEXT) {
  if (text.length <= most) return text;
  return `${text.slice(0, most).replace(/[\ud800-\udbff]$/, "")}… (${text.length.toLocaleString("en")} characters)`;
}

/** Return a text that other writing directions in it do not let out: a label, the name of a file. */
const apart = (text) => make("bdi", { text: cut(text) });

/** Return a word as a POSIX shell takes it. */
const quoted = (word) => (/^[\w@%+:,./-][\w@%+=:,./-]*$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Return `1 row`, `2 rows`. */
const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

/** Copy text, also where the browser keeps its clipboard for pages that came over TLS. */
async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = make("textarea", { class: "said", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("the browser does not let this page copy");
}

/** Return a button that copies what `textOf` returns, and says so. */
function copyButton(textOf, what) {
  const button = make("button", { type: "button", class: "small", "aria-label": `Copy ${what}`, text: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await copyText(textOf());
      button.textContent = "Copied";
    } catch (error) {
      button.textContent = "Select it and copy";
    }
    announce(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

/** Offer a file to be saved: a Blob, or text. */
function saveFile(name, content) {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content]));
  const link = make("a", { href: address, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** Say below each choice what it shows, where that has no room in it: a browser would cut it off. */
function showChoices() {
  const pen = document.createElement("canvas").getContext("2d");
  for (const select of document.querySelectorAll("select")) {
    const style = getComputedStyle(select), whole = select.nextElementSibling;
    pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    whole.textContent = select.selectedOptions[0]?.text ?? "";
    const room = select.clientWidth - 2 * parseFloat(style.paddingInlineStart) - ARROW;
    whole.hidden = pen.measureText(whole.textContent).width <= room;
  }
}

/** About how wide the arrow of a choice is, in pixels. */
const ARROW = 24;

/** Have a screen reader say something. */
function announce(text) {
  byId("announcement").textContent = text;
}
