const assert = require("node:assert");
const { describe, test } = require("node:test");

describe("sums", () => {
  test("adds", () => assert.strictEqual(1 + 2, 3));
  test("is wrong", () => assert.strictEqual(1 + 2, 4));
  test("throws", () => {
    throw new TypeError("boom");
  });
  test("later", { skip: "not yet" }, () => {});
  test("some day", { todo: true }, () => {});
  test("takes its time", () => new Promise((done) => setTimeout(done, 120)));
});
