"use strict";
// Writes report events; shared by the JavaScript reporters of this folder, inside the sandbox.

const fs = require("node:fs");
const path = require("node:path");

const MESSAGE_CHARACTERS = 2000;
const LONG_CHARACTERS = 8000;
const ROOT = process.env.CORRAL_WORKSPACE || process.cwd();

/** Append one event. */
function write(event) {
  if (process.env.CORRAL_REPORT) fs.appendFileSync(process.env.CORRAL_REPORT, JSON.stringify(event) + "\n");
}

/** Keep the beginning and the end of a long text. */
function ends(text) {
  if (text.length <= LONG_CHARACTERS) return text || null;
  const half = LONG_CHARACTERS / 2;
  return `${text.slice(0, half)}\n[...]\n${text.slice(-half)}`;
}

/** A path as seen from the root of the worktree; null when it lies elsewhere. */
function relative(file) {
  if (!file) return null;
  const found = path.relative(ROOT, path.resolve(file));
  return found.startsWith("..") || path.isAbsolute(found) ? null : found.split(path.sep).join("/");
}

/** Say whatever was thrown, which need not be an Error. */
function described(error) {
  const isError = error !== null && typeof error === "object";
  const message = isError && error.message !== undefined ? String(error.message) : String(error);
  return { message, trace: isError && error.stack ? String(error.stack) : message };
}

/** Report that a case has ended. */
function writeCase({ file, name, outcome, milliseconds, message, trace, output }) {
  write({
    event: "case",
    file: relative(file),
    name,
    outcome,
    seconds: (milliseconds || 0) / 1000,
    message: message ? message.slice(0, MESSAGE_CHARACTERS) : null,
    trace: ends(trace || ""),
    output: ends(output || ""),
  });
}

/** Absolute paths of the files that the run is limited to; empty: all. */
function selected() {
  if (!process.env.CORRAL_SELECT) return [];
  return JSON.parse(fs.readFileSync(process.env.CORRAL_SELECT, "utf8")).files.map((file) => path.join(ROOT, file));
}

module.exports = { described, relative, selected, write, writeCase };
