// Measures the rate and the memory of listChunked. Prints a line of JSON for each round.
//
//   npm run build && node --expose-gc bench/list_chunked.js ADDRESS [CHUNK_SIZE [ROUNDS [metadata]]]
//
// The loop reads user_id and, with `metadata`, also the metadata. grown_mib is the maximum growth of the heap and the
// external buffers since the start of the first round, measured after garbage collections.
import { UserManager } from "userservice";

const [address, chunkSize = 1000, rounds = 3, touched] = process.argv.slice(2);
const manager = new UserManager(address);

function heldMiB() {
  globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  return (heapUsed + external) / 2 ** 20;
}

const before = heldMiB();
for (let round = 0; round < Number(rounds); round++) {
  const cpuBefore = process.cpuUsage();
  const start = performance.now();
  let users = 0;
  let chunks = 0;
  let most = 0;
  let characters = 0;
  let measuring = 0;
  for await (const chunk of manager.listChunked(Number(chunkSize))) {
    users += chunk.length;
    for (const user of chunk) {
      characters += user.user_id.length + (touched ? Object.keys(user.metadata).length : 0);
    }
    if (++chunks % 100 === 50) {
      const from = performance.now();
      most = Math.max(most, heldMiB());
      measuring += performance.now() - from;
    }
  }
  const seconds = (performance.now() - start - measuring) / 1e3;
  const { user, system } = process.cpuUsage(cpuBefore);
  const figures = {
    users,
    seconds: Number(seconds.toFixed(3)),
    users_per_s: Math.round(users / seconds),
    cpu_s: Number(((user + system) / 1e6).toFixed(2)),
    grown_mib: Number((Math.max(most, heldMiB()) - before).toFixed(1)),
    characters,
  };
  console.log(JSON.stringify(figures));
}
await manager.close();
