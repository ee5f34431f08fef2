// Measures each frame's page once all are loaded, and writes what it finds as JSON into #found.
// A problem is text that is cut off or outside, or that lies on other text of the same drawing.
const NEAR = 0.5; // pixels that rounding may take

function shown(element) {
  return element.getClientRects().length > 0;
}

function scrolls(element) {
  const around = element.closest(".scroll");
  return around !== null && around.scrollWidth > around.clientWidth;
}

function overlap(one, two) {
  return (
    Math.min(one.right, two.right) - Math.max(one.left, two.left) > NEAR &&
    Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top) > NEAR
  );
}

function outside(page, width) {
  const found = [];
  for (const element of page.body.querySelectorAll("*")) {
    if (!shown(element) || element.closest("svg, thead") || scrolls(element)) continue;
    const place = element.getBoundingClientRect();
    if (place.right > width + NEAR || place.left < -NEAR) {
      found.push(`outside the page: ${element.tagName} ${element.textContent.trim().slice(0, 60)}`);
    }
    if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0 &&
        page.defaultView.getComputedStyle(element).overflowX !== "visible") {
      found.push(`cut off: ${element.tagName} ${element.textContent.trim().slice(0, 60)}`);
    }
  }
  return found;
}

function box(text) {
  const place = text.getBBox();
  return { left: place.x, right: place.x + place.width, top: place.y, bottom: place.y + place.height };
}

function drawings(page) {
  const found = [];
  for (const svg of page.querySelectorAll("svg")) {
    if (!shown(svg)) continue;
    const name = svg.getAttribute("aria-label");
    const frame = svg.viewBox.baseVal;
    const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, box(text)]);
    for (const [said, place] of texts) {
      if (place.left < -NEAR || place.right > frame.width + NEAR || place.top < -NEAR ||
          place.bottom > frame.height + NEAR) {
        found.push(`${name}: "${said}" is outside the drawing`);
      }
    }
    texts.forEach(([said, place], number) => {
      for (const [other, its] of texts.slice(number + 1)) {
        if (overlap(place, its)) found.push(`${name}: "${said}" lies on "${other}"`);
      }
    });
    const scale = svg.getBoundingClientRect().width / frame.width;
    if (12 * scale < 9) found.push(`${name}: its text is ${12 * scale} pixels high`);
  }
  return found;
}

function measured(frame) {
  const page = frame.contentDocument;
  const width = frame.clientWidth;
  return {
    width: page.documentElement.scrollWidth,
    height: page.documentElement.scrollHeight,
    drawings: [...page.querySelectorAll("svg")].filter(shown).length,
    dots: [...page.querySelectorAll("svg circle")].filter(shown).length,
    pictures: [...page.querySelectorAll("img")].filter((image) => image.naturalWidth > 0).length,
    problems: [...outside(page, width), ...drawings(page)],
  };
}

window.addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    for (const folded of frame.contentDocument.querySelectorAll("details")) folded.open = true;
    found[frame.name] = measured(frame);
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
