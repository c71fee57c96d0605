// The command protocol (see protocol.py) and the tally (see tally.py), for peers in Node.
import { closeSync, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

export const config = JSON.parse(process.env.CORRAL_BENCH);
export const TEXT = 'Build the login page, with tests, and open a pull request for it. '.repeat(2);

// CLOCK_MONOTONIC in seconds, the same clock as Python's time.monotonic().
export const now = () => Number(process.hrtime.bigint()) / 1e9;

let pipe;
let count = 0;
let told = now();
const tell = (line) => {
  pipe ??= openSync(config.news, 'w');
  writeSync(pipe, line);
};

export const tally = (n, due) => {
  const time = now();
  count += 1;
  if (due) {
    tell(`{"late":${(time - due).toFixed(6)}}\n`);
    return { n };
  }
  if (count % config.every && time - told < 1) return { n };
  told = time;
  tell(`{"n":${count},"t":${time.toFixed(6)},"pid":${process.pid}}\n`);
  return { n };
};

const between = ([low, high]) => low + Math.random() * (high - low);

const shares = (total, producers) =>
  Array.from({ length: producers }, (_, index) => Math.floor(total / producers) + (index < total % producers ? 1 : 0));

const run = async (producer, command) => {
  if (command.op === 'timed') {
    for (let n = 0; n < command.count; n += 1) {
      await sleep(between(command.gap_s) * 1000);
      const delay = between(command.delay_s);
      await producer.add(n, now() + delay, delay);
    }
    return {};
  }
  const cpu = process.cpuUsage();
  const start = now();
  const end = start + (command.limit_s ?? Infinity);
  let done = 0;
  const some = async (share) => {
    for (let n = 0; n < share && now() < end; n += 1) {
      done += 1;
      await producer.add(n, 0, 0);
    }
  };
  if (command.op === 'one') {
    await some(command.count);
  } else if (command.op === 'concurrent') {
    await Promise.all(shares(command.count, command.producers).map(some));
  } else {
    for (let from = 0; from < command.count; from += command.chunk) {
      const size = Math.min(command.chunk, command.count - from);
      await producer.addBulk(Array.from({ length: size }, (_, index) => from + index));
      done += size;
    }
  }
  const seconds = now() - start;
  const used = process.cpuUsage(cpu);
  return { seconds, cpu_seconds: (used.user + used.system) / 1e6, count: done };
};

export const main = async (makeProducer, makeWorker) => {
  if (process.argv[2] === 'worker') {
    const stop = await makeWorker();
    process.on('SIGTERM', async () => {
      await stop();
      if (pipe) closeSync(pipe);
      process.exit(0);
    });
    return;
  }
  const producer = await makeProducer();
  for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
      answer = await run(producer, JSON.parse(line));
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
};
