"use strict";
/* The form for the token: shown once the server asks for one, and never with a token in it. */

/**
 * Show the form, and why it is needed: the error that a request got. What was given is forgotten,
 * unless it was given after that request was sent.
 */
function needToken(error) {
  if (error.sent !== token || !byId("token").hidden) return;
  const wasRefused = token !== "";
  token = "";
  byId("token").hidden = false;
  byId("main").hidden = true;
  byId("forget")?.toggleAttribute("hidden", true);
  byId("token-why").textContent = wasRefused ? `${error.message}.` : "This server answers only callers that send its token.";
  showState("needs a token", "locked");
  byId("token-field").value = "";
  byId("token-field").focus();
}

/** Call `go` once a token has been given. */
function listenForToken(go) {
  byId("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = byId("token-field").value.trim();
    if (!/^[!-~]+$/.test(given)) {
      byId("token-why").textContent = "A token is visible ASCII without blanks.";
      return;
    }
    token = given;
    byId("token-field").value = "";
    byId("token").hidden = true;
    await go();
  });
  // A browser may keep a page that was left, for the way back: with its memory.
  window.addEventListener("pagehide", () => { token = ""; });
}

function showState(text, state) {
  const field = byId("state");
  if (field.textContent !== text) field.textContent = text;
  field.className = `state-line ${state}`;
}
