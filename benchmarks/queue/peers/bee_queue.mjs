// bee-queue, the leanest queue in Node: it stores no return values. Without events and, when it only works, without
// keeping job objects, as its README advises for speed.
import { createRequire } from 'node:module';
import { config, main, tally, TEXT } from './protocol.mjs';

const Queue = createRequire(`${config.packages}/`)('bee-queue');
const redis = { url: config.redis_url };

const producer = () => {
  const queue = new Queue(config.queue, { redis, isWorker: false, getEvents: false, sendEvents: false, storeJobs: false });
  const job = (n, due) => queue.createJob({ n, due, text: TEXT });
  return {
    add: (n, due, delay) => (delay ? job(n, due).delayUntil(Date.now() + Math.round(delay * 1000)) : job(n, due)).save(),
    addBulk: (numbers) => queue.saveAll(numbers.map((n) => job(n, 0))),
  };
};

const worker = () => {
  const queue = new Queue(config.queue, {
    redis,
    getEvents: false,
    sendEvents: false,
    storeJobs: false,
    activateDelayedJobs: true,
  });
  queue.process(config.concurrency, async (job) => tally(job.data.n, job.data.due));
  return () => queue.close(1000);
};

await main(producer, worker);
