import { expect, test } from "vitest";

test("other", () => expect(true).toBe(true));
