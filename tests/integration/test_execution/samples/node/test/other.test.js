require("node:test")("other", () => {});
