it("other", () => {});
