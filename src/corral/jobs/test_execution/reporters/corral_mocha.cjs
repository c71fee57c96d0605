"use strict";
// A reporter of Mocha, which is also its `--require` hook: it reports cases, limits the run to the selected files before
// they are loaded, and reports a file that can't be loaded, on which Mocha ends before any reporter is made.

const path = require("node:path");
const { described, selected, write, writeCase } = require("./corral_reporting.cjs");

// The Mocha that is running, wherever it is installed: its command line has loaded it by now.
const found = Object.keys(require.cache).find((file) => file.endsWith(path.join("mocha", "lib", "mocha.js")));
const Mocha = found ? require(found) : null;

if (Mocha) {
  write({ event: "start", runner: "mocha" });
  for (const name of ["loadFilesAsync", "loadFiles"]) Mocha.prototype[name] = loading(Mocha.prototype[name]);
}

function limit(mocha) {
  const chosen = selected();
  if (!chosen.length) return;
  const first = new Set((mocha.options.file || []).map((file) => path.resolve(file))); // set-up files
  mocha.files = [...mocha.files.filter((file) => first.has(path.resolve(file))), ...chosen];
}

function loading(load) {
  return function loadSelected(...rest) {
    limit(this);
    const failed = (error) => {
      reportUnloadable(this, error);
      throw error;
    };
    try {
      const result = load.apply(this, rest);
      return result instanceof Promise ? result.catch(failed) : result;
    } catch (error) {
      return failed(error);
    }
  };
}

function reportUnloadable(mocha, error) {
  const { message, trace } = described(error);
  const file = mocha.files.find((path_) => trace.includes(path_)) || null;
  writeCase({ file, name: "import", outcome: "error", message: error?.name ? `${error.name}: ${message}` : message, trace });
}

class Reporter {
  constructor(runner, options) {
    // What people read is Mocha's usual report.
    this.spec = new Mocha.reporters.Spec(runner, options);
    write({ event: "total", count: runner.total });
    const report = (test, outcome, error) => {
      const { message, trace } = error === undefined ? { message: "", trace: "" } : described(error);
      const name = test.fullTitle();
      writeCase({ file: test.file, name, outcome, milliseconds: test.duration, message, trace });
    };
    runner.on("pass", (test) => report(test, "passed"));
    runner.on("pending", (test) => report(test, "skipped"));
    runner.on("fail", (test, error) => report(test, test.type === "hook" ? "error" : "failed", error));
  }

  done(failures, callback) {
    if (this.spec.done) this.spec.done(failures, callback);
    else callback(failures);
  }
}

module.exports = Reporter;
