// Node's own BullMQ worker, which writes the same ledger as worker_program.py.
import { createRequire } from "node:module";
import { appendFileSync } from "node:fs";

const config = JSON.parse(process.argv[2]);
const { Worker } = createRequire(`${config.packages}/`)("bullmq");

const url = new URL(config.url);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };
const note = (event, job) =>
  appendFileSync(
    config.ledger,
    `${JSON.stringify({ event, id: job.id, type: job.queueName, at: Date.now() / 1000, pid: process.pid, attempt: job.attemptsMade + 1, crashes: 0 })}\n`,
  );

const workers = config.queues.map(
  (queue) =>
    new Worker(
      queue,
      async (job) => {
        note("start", job);
        await new Promise((resolve) => setTimeout(resolve, (job.data.seconds ?? 0) * 1000));
        note("end", job);
        return { by: process.pid, id: job.id };
      },
      { connection, prefix: config.prefix, concurrency: config.concurrency ?? 10 },
    ),
);
for (const worker of workers) worker.on("error", (error) => console.error(error));
await Promise.all(workers.map((worker) => worker.waitUntilReady()));
console.log("ready");
process.on("SIGTERM", async () => {
  await Promise.all(workers.map((worker) => worker.close()));
  process.exit(0);
});
