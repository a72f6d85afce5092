import { defineConfig } from "vitest/config";

export default defineConfig({
  root: new URL("..", import.meta.url).pathname,
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Two forks: the machines that run this have two cores, and many tests start threads and compilers of their own.
    pool: "forks",
    maxWorkers: 2,
  },
});
