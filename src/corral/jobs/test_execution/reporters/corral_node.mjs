// A reporter of `node --test`. It reads nothing but Node's own events, so it writes them to the events file itself, and
// yields nothing.

import reporting from "./corral_reporting.cjs";

const { described, relative, write, writeCase } = reporting;

/** The error that the test threw; Node wraps it. */
function thrown(error) {
  return error?.code === "ERR_TEST_FAILURE" && error.cause instanceof Object ? error.cause : error;
}

/** A file that could not be run: Node reports it as one failed test, named like the file. */
function isFile(data) {
  return data.nesting === 0 && data.file !== undefined && relative(data.name) === relative(data.file);
}

function outcomeOf(type, data) {
  if (data.skip !== undefined || data.todo !== undefined) return "skipped";
  if (type === "test:pass") return "passed";
  return isFile(data) || data.details.error?.failureType === "hookFailed" ? "error" : "failed";
}

function report(type, data, names, printed) {
  const outcome = outcomeOf(type, data);
  const failed = outcome === "failed" || outcome === "error";
  let { message, trace } = failed ? described(thrown(data.details.error)) : { message: "", trace: "" };
  let name = names.slice(0, data.nesting).concat(data.name).join(" ");
  if (failed && isFile(data)) {
    name = "import";
    trace = printed || trace;
    message = /^\s*(?:\w*Error\b.*)$/m.exec(trace)?.[0].trim() || message;
  }
  if (outcome === "skipped") {
    const [word, why] = data.skip !== undefined ? ["skip", data.skip] : ["todo", data.todo];
    message = typeof why === "string" && why ? why : word;
  }
  writeCase({ file: data.file, name, outcome, milliseconds: data.details.duration_ms, message, trace });
}

export default async function* corral(source) {
  write({ event: "start", runner: "node" });
  const names = [];
  const printed = new Map(); // file → what it wrote to its standard error
  for await (const { type, data } of source) {
    if (type === "test:start") names.splice(data.nesting, Infinity, data.name);
    else if (type === "test:stderr") {
      const file = relative(data.file);
      printed.set(file, ((printed.get(file) || "") + data.message).slice(0, 20_000));
    } else if (type === "test:pass" || type === "test:fail") {
      // A suite is no case, unless something of its own failed: a hook, or its body.
      const children = data.details.error?.failureType === "subtestsFailed";
      if (data.details.type !== "suite" || (type === "test:fail" && !children)) {
        report(type, data, names, printed.get(relative(data.file)));
      }
    }
  }
  yield "";
}
