const assert = require("node:assert");

describe("sums", () => {
  it("adds", () => assert.strictEqual(1 + 2, 3));
  it("is wrong", () => assert.strictEqual(1 + 2, 4));
  it("throws", () => {
    throw new TypeError("boom");
  });
  it.skip("later", () => {});
  it("some day");
  it("takes its time", () => new Promise((done) => setTimeout(done, 120)));
});
