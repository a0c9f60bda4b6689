// Graphile Worker.
"use strict";

const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const { main } = require("./meter");

const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
let utils;

main({
  async open() {
    utils = await makeWorkerUtils({ connectionString, logger });
    await utils.migrate();
  },
  async bulk(jobs, batch) {
    for (let done = 0; done < jobs; done += batch) {
      const length = Math.min(batch, jobs - done);
      await utils.addJobs(Array.from({ length }, () => ({ identifier: "noop", payload: {} })));
    }
  },
  single: (sent) => utils.addJob("noop", sent ? { sent } : {}),
  close: () => utils.release(),
  async work(options, hit) {
    const queue = options.localQueue
      ? {
          localQueue: { size: options.localQueue, ttl: 60000 },
          completeJobBatchDelay: options.completeJobBatchDelay,
          failJobBatchDelay: options.completeJobBatchDelay,
        }
      : {};
    await run({
      preset: {
        worker: {
          connectionString,
          logger,
          concurrentJobs: options.concurrentJobs,
          maxPoolSize: options.concurrentJobs + 2,
          ...queue,
        },
      },
      noHandleSignals: true,
      taskList: { noop: async (payload) => hit(payload.sent) },
    });
  },
});
