// A plain BullMQ worker: handles so many jobs, then says whose they were, in the order in which they started.
import { createRequire } from 'node:module';

const config = JSON.parse(process.argv[2]);
const { Worker } = createRequire(`${config.packages}/`)('bullmq');
const users = [];
const url = new URL(config.redis);
const worker = new Worker(
  config.queue,
  async (job) => {
    users.push(job.data.userId);
  },
  {
    connection: { host: url.hostname, port: Number(url.port) },
    prefix: config.prefix,
    concurrency: config.concurrency,
    removeOnComplete: { age: 86400 },
  },
);
let completed = 0;
worker.on('completed', async () => {
  completed += 1;
  if (completed < config.count) return;
  await worker.close();
  process.stdout.write(JSON.stringify(users));
});
