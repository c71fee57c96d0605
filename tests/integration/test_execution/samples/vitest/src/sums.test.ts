import { describe, expect, test } from "vitest";
import { add } from "./sums.js";

describe("sums", () => {
  test("adds", () => expect(add(1, 2)).toBe(3));
  test("is wrong", () => expect(add(1, 2) as number).toBe(4));
  test("throws", () => {
    throw new TypeError("boom");
  });
  test.skip("later", () => {});
  test.todo("some day");
  test("takes its time", () => new Promise((done) => setTimeout(done, 120)));
});
