describe("hooks", () => {
  before(() => {
    throw new Error("no database");
  });
  it("never runs", () => {});
});
