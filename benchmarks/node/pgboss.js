// pg-boss.
"use strict";

const PgBoss = require("pg-boss");
const { main } = require("./meter");

const QUEUE = "noop";
let boss;

async function start(options) {
  boss = new PgBoss({ connectionString: process.env.DATABASE_URL, ...options });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  await boss.createQueue(QUEUE);
}

main({
  open: () => start({ supervise: false, schedule: false }),
  async bulk(jobs, batch) {
    for (let done = 0; done < jobs; done += batch) {
      const length = Math.min(batch, jobs - done);
      await boss.insert(Array.from({ length }, () => ({ name: QUEUE, data: {} })));
    }
  },
  single: (sent) => boss.send(QUEUE, sent ? { sent } : {}),
  close: () => boss.stop({ graceful: false }),
  async work(options, hit) {
    await start({});
    for (let number = 0; number < options.pollers; number += 1) {
      const polling = { batchSize: options.batchSize, pollingIntervalSeconds: options.pollingIntervalSeconds };
      await boss.work(QUEUE, polling, async (jobs) => {
        for (const job of jobs) hit(job.data && job.data.sent);
      });
    }
  },
});
