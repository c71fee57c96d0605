test("other", () => expect(true).toBe(true));
