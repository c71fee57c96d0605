// Node's BullMQ with ioredis, as its guide shows it.
import { createRequire } from 'node:module';
import { config, main, tally, TEXT } from './protocol.mjs';

const { Queue, Worker } = createRequire(`${config.packages}/`)('bullmq');
const { hostname, port, pathname, username, password } = new URL(config.redis_url);
const connection = {
  host: hostname,
  port: Number(port || 6379),
  db: Number(pathname.slice(1) || 0),
  ...(username && { username: decodeURIComponent(username) }),
  ...(password && { password: decodeURIComponent(password) }),
};

const producer = () => {
  const queue = new Queue(config.queue, { connection });
  return {
    add: (n, due, delay) => queue.add('noop', { n, due, text: TEXT }, delay ? { delay: Math.round(delay * 1000) } : {}),
    addBulk: (numbers) => queue.addBulk(numbers.map((n) => ({ name: 'noop', data: { n, due: 0, text: TEXT } }))),
  };
};

const worker = () => {
  const made = new Worker(config.queue, async (job) => tally(job.data.n, job.data.due), {
    connection,
    concurrency: config.concurrency,
  });
  return () => made.close();
};

await main(producer, worker);
