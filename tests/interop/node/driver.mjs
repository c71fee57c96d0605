// Node's BullMQ, kept running and commanded by pytest: one JSON command a line on standard input, one JSON answer a
// line on standard output, matched by `id`. Commands run side by side, so one may wait while others go on.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(new URL('../../node/package.json', import.meta.url));
const { FlowProducer, Queue, QueueEvents, UnrecoverableError, Worker } = require('bullmq');
const { createBullBoard } = require('@bull-board/api');
const { BullMQAdapter } = require('@bull-board/api/bullMQAdapter');
const { BullMQOtel } = require('bullmq-otel');
const { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } = require('@opentelemetry/sdk-trace-node');

const { hostname, port } = new URL(process.env.INTEROP_REDIS_URL);
const connection = { host: hostname, port: Number(port) };

// Node's spans, kept so that the tests can ask for them. Only what asks for `traced` makes any.
const spans = new InMemorySpanExporter();
new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }).register();
const telemetry = new BullMQOtel({ tracerName: 'interop' });
const tracing = ({ traced }) => (traced ? { telemetry } : {});

const queues = new Map();
const queue = ({ prefix, queue: name, traced }) => {
  const key = `${prefix}:${name}${traced ? ':traced' : ''}`;
  if (!queues.has(key)) queues.set(key, new Queue(name, { connection, prefix, ...tracing({ traced }) }));
  return queues.get(key);
};

// What a job's handler does is said by its data, the same for Corral's handlers (tests/interop/handlers.py).
const act = async (job) => {
  const { act: what = 'echo', ...data } = job.data;
  switch (what) {
    case 'echo':
      return { by: 'node', ...data };
    case 'fail':
      throw new Error(data.message ?? 'made to fail');
    case 'fail-once':
      if (job.attemptsMade === 0) throw new Error('made to fail once');
      return { by: 'node', attempt: job.attemptsMade + 1 };
    case 'unrecoverable':
      throw new UnrecoverableError(data.message ?? 'made to fail for good');
    case 'report':
      await job.updateProgress(data.progress);
      for (const line of data.lines) await job.log(line);
      return { by: 'node' };
    case 'report-and-fail':
      await job.updateProgress(data.progress);
      throw new UnrecoverableError('made to fail after its report');
    case 'sleep':
      await sleep(data.ms);
      return { by: 'node' };
    case 'children': {
      const children = await job.getChildrenValues();
      return { by: 'node', children, ignored: await job.getIgnoredChildrenFailures() };
    }
    default:
      throw new UnrecoverableError(`no such act: ${what}`);
  }
};

const workers = new Map();
const listeners = new Map();
const flows = new Map();

const listen = async ({ prefix, queue: name }) => {
  const key = `${prefix}:${name}`;
  if (listeners.has(key)) return listeners.get(key);
  const events = new QueueEvents(name, { connection, prefix, lastEventId: '0-0' });
  const seen = [];
  const waiting = new Set();
  const emit = events.emit.bind(events);
  events.emit = (event, ...rest) => {
    if (event !== 'error' && !event.includes(':')) {
      seen.push({ event, job: rest[0]?.jobId ?? null, args: rest[0] });
      for (const check of waiting) check();
    }
    return emit(event, ...rest);
  };
  events.on('error', () => {});
  await events.waitUntilReady();
  listeners.set(key, { events, seen, waiting });
  return listeners.get(key);
};

const boardServer = () => {
  const server = { routes: new Map() };
  for (const name of ['setViewsPath', 'setStaticPath', 'setUIConfig', 'setEntryRoute', 'setErrorHandler']) {
    server[name] = () => server;
  }
  server.setQueues = (found) => {
    server.queues = found;
    return server;
  };
  server.setApiRoutes = (routes) => {
    for (const { route, method, handler } of routes) {
      for (const path of [route].flat()) {
        for (const verb of [method].flat()) server.routes.set(`${verb} ${path}`, handler);
      }
    }
    return server;
  };
  return server;
};

const commands = {
  add: async (c) => {
    const job = await queue(c).add(c.name ?? c.queue, c.data ?? {}, c.opts ?? {});
    return job.id;
  },
  addBulk: async (c) => {
    const jobs = await queue(c).addBulk(c.jobs.map((job) => ({ name: c.queue, ...job })));
    return jobs.map((job) => job.id);
  },
  addFlow: async (c) => {
    if (!flows.has(c.prefix)) flows.set(c.prefix, new FlowProducer({ connection, prefix: c.prefix, ...tracing(c) }));
    const tree = await flows.get(c.prefix).add(c.flow);
    const ids = ({ job, children = [] }) => ({ id: job.id, children: children.map(ids) });
    return ids(tree);
  },
  job: async (c) => {
    const job = await queue(c).getJob(c.job);
    if (!job) return null;
    const { id, name, data, opts, progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted } = job;
    const { delay, priority, timestamp, processedOn, finishedOn, parentKey, processedBy, stalledCounter } = job;
    return {
      ...{ id, name, data, opts, progress, returnvalue, failedReason, stacktrace, attemptsMade, attemptsStarted },
      ...{ delay, priority, timestamp, processedOn, finishedOn, parentKey, processedBy, stalledCounter },
      state: await job.getState(),
    };
  },
  logs: (c) => queue(c).getJobLogs(c.job),
  counts: (c) => queue(c).getJobCounts(),
  jobs: async (c) => (await queue(c).getJobs(c.states, 0, 1000, c.asc ?? true)).map((job) => job.id),
  pause: (c) => queue(c).pause(),
  resume: (c) => queue(c).resume(),
  isPaused: (c) => queue(c).isPaused(),
  remove: (c) => queue(c).remove(c.job),
  clean: (c) => queue(c).clean(c.grace, c.limit ?? 1000, c.state),
  drain: (c) => queue(c).drain(c.delayed ?? false),
  obliterate: (c) => queue(c).obliterate({ force: c.force ?? false }),
  retry: async (c) => (await queue(c).getJob(c.job)).retry(),
  promote: async (c) => (await queue(c).getJob(c.job)).promote(),
  dependencies: async (c) => (await queue(c).getJob(c.job)).getDependenciesCount(),
  upsertScheduler: async (c) => (await queue(c).upsertJobScheduler(c.scheduler, c.repeat, c.template)).id,
  schedulers: (c) => queue(c).getJobSchedulers(),
  removeScheduler: (c) => queue(c).removeJobScheduler(c.scheduler),
  deduplicationJob: (c) => queue(c).getDeduplicationJobId(c.deduplication),
  setRateLimit: (c) => queue(c).setGlobalRateLimit(c.max, c.duration),
  setConcurrency: (c) => queue(c).setGlobalConcurrency(c.concurrency),
  workers: (c) => queue(c).getWorkers(),
  metrics: (c) => queue(c).getMetrics(c.target, 0, 10),

  startWorker: async (c) => {
    const worker = new Worker(c.queue, act, { connection, prefix: c.prefix, ...tracing(c), ...c.opts });
    worker.on('error', () => {});
    await worker.waitUntilReady();
    const key = String(workers.size + 1);
    workers.set(key, worker);
    return key;
  },
  stopWorker: async (c) => {
    await workers.get(c.worker).close();
    return null;
  },

  listen: async (c) => {
    await listen(c);
    return null;
  },
  // The first event of that name (and job) seen since the stream began, waited for.
  event: async (c) => {
    const { seen, waiting } = await listen(c);
    const find = () => seen.find(({ event, args }) => event === c.event && (!c.job || args?.jobId === c.job));
    return new Promise((resolve) => {
      const check = () => {
        const found = find();
        if (!found) return;
        waiting.delete(check);
        resolve(found.args);
      };
      waiting.add(check);
      check();
    });
  },
  eventsSeen: async (c) => (await listen(c)).seen,
  result: async (c) => {
    const { events } = await listen(c);
    const job = await queue(c).getJob(c.job);
    try {
      return { value: await job.waitUntilFinished(events, c.ttl ?? 20000) };
    } catch (error) {
      return { error: error.message };
    }
  },

  // Node's finished spans of one trace.
  spans: (c) =>
    spans
      .getFinishedSpans()
      .filter((span) => span.spanContext().traceId === c.trace)
      .map((span) => ({ name: span.name, id: span.spanContext().spanId, parent: span.parentSpanContext?.spanId ?? null })),
  // The trace that a traced `add` of this job began.
  traceOf: async (c) =>
    spans.getFinishedSpans().find((span) => span.attributes['bullmq.job.id'] === c.job)?.spanContext() ?? null,

  board: async (c) => {
    const server = boardServer();
    createBullBoard({
      queues: c.queues.map((name) => new BullMQAdapter(queue({ prefix: c.prefix, queue: name }))),
      serverAdapter: server,
      options: { uiBasePath: '/nowhere' },
    });
    const handler = server.routes.get(c.route);
    if (!handler) throw new Error(`no route ${c.route}; there are ${[...server.routes.keys()].join(', ')}`);
    return handler({ queues: server.queues, query: c.query ?? {}, params: c.params ?? {}, body: c.body ?? {}, headers: {} });
  },

  // What belongs to one test's prefix is closed, so that hundreds of tests don't pile up connections.
  close: async (c) => {
    const ours = (map) => [...map].filter(([key]) => key.startsWith(`${c.prefix}:`) || key === c.prefix);
    for (const [key, worker] of workers) {
      if (worker.opts.prefix === c.prefix) {
        await worker.close(true);
        workers.set(key, worker);
      }
    }
    for (const [key, { events }] of ours(listeners)) {
      listeners.delete(key);
      await events.close();
    }
    for (const map of [queues, flows]) {
      for (const [key, closable] of ours(map)) {
        map.delete(key);
        await closable.close();
      }
    }
    return null;
  },
};

process.stdout.on('error', () => process.exit(0));
for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...rest } = JSON.parse(line);
  Promise.resolve()
    .then(() => commands[command](rest))
    .then((value) => ({ id, value: value ?? null }))
    .catch((error) => ({ id, error: `${error.name}: ${error.message}` }))
    .then((answer) => process.stdout.write(`${JSON.stringify(answer)}\n`));
}
process.exit(0);
