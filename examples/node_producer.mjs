// A producer in Node with BullMQ; the worker is Corral's (examples/own_job_type.py).
//
//   corral worker --app examples.own_job_type:corral &
//   REDIS_URL=redis://localhost:6379 node examples/node_producer.mjs 'to be or not to be'
//
// Nothing is translated: Corral's queues are BullMQ's queues, and a payload is the same JSON on both sides.
import { createRequire } from 'node:module';

// Resolved from the folder where you have installed bullmq, so that this file can lie anywhere.
const require = createRequire(`${process.env.NODE_MODULES_FOLDER ?? process.cwd()}/`);
const { Queue, QueueEvents } = require('bullmq');

const url = new URL(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379');
const connection = { host: url.hostname, port: Number(url.port || 6379), password: url.password || undefined };
const prefix = process.env.CORRAL_PREFIX ?? 'bull';

const queue = new Queue('word-count', { connection, prefix });
const events = new QueueEvents('word-count', { connection, prefix });
await events.waitUntilReady();

const job = await queue.add('word-count', { text: process.argv[2] ?? 'hello' }, { priority: 1, attempts: 3 });
const result = await job.waitUntilFinished(events, 30_000);
console.log(`job ${job.id}: ${result.words} words, most of all '${result.most_common}'`);

await events.close();
await queue.close();
