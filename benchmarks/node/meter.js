// What the programs of this folder share: how they are called, and how a worker says what it has done.
// See ../program.py for the same in Python.
"use strict";

const REPORT_EVERY_MS = 50;

const now = () => (performance.timeOrigin + performance.now()) / 1000;
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

let started = 0;
let first = null;
let last = null;
let waits = [];

/** Note that a job starts; `sent` is when it was about to be enqueued, in seconds since 1970. */
function hit(sent) {
  last = now();
  if (first === null) first = last;
  started += 1;
  if (sent) waits.push(last - sent);
}

function report() {
  if (started === report.said) return;
  report.said = started;
  say({ started, first, last, waits });
  waits = [];
}
report.said = 0;

/** Run a program: `node NAME.js VERB OPTIONS`, with DATABASE_URL in the environment. */
async function main(program) {
  const [, , verb, json] = process.argv;
  const options = JSON.parse(json || "{}");
  if (verb === "work") {
    await program.work(options, hit);
    setInterval(report, REPORT_EVERY_MS);
    say({ ready: true });
    return;
  }
  await program.open();
  const began = now();
  if (verb === "bulk") await program.bulk(options.jobs, options.batch);
  for (let number = 0; verb === "single" && number < options.jobs; number += 1) await program.single(null);
  for (let number = 0; verb === "pickup" && number < options.jobs; number += 1) {
    await program.single(now());
    await pause(options.pause);
  }
  say({ seconds: now() - began });
  await program.close();
  process.exit(0);
}

module.exports = { main };
