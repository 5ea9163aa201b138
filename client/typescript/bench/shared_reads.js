// Measures the rate of gets and the CPU time per get, with or without shareReads. Prints JSON: [gets/s, µs of CPU].
//
//   npm run build && node bench/shared_reads.js ADDRESS CALLERS alone|shared GETS
//
// `python -m benchmarks.shared_reads`, in the root of the repository, starts a service with users and uses this program.
import { UserManager } from "userservice";

const [address, callers, mode, gets] = process.argv.slice(2);
const manager = new UserManager(address, { shareReads: mode === "shared" });
const each = Math.floor(Number(gets) / Number(callers));

async function call(first, count) {
  for (let number = first; number < first + count; number++) {
    await manager.get(`user-${String(number).padStart(8, "0")}`);
  }
}

function run(count) {
  return Promise.all(Array.from({ length: Number(callers) }, (_, index) => call(index * count, count)));
}

await run(20);
const before = process.cpuUsage();
const start = performance.now();
await run(each);
const seconds = (performance.now() - start) / 1e3;
const { user, system } = process.cpuUsage(before);
const total = each * Number(callers);
console.log(JSON.stringify([total / seconds, (user + system) / total]));
await manager.close();
