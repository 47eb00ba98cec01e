// Say every level of a domain, and who was killed there, for as long as it runs; a restart of lmkd is survived.
//
//     node watch-levels.mjs [DOMAIN]
//
// A domain is `system`, `own` (the cgroup that this is in) or the path of a cgroup. Ends at SIGTERM or Ctrl-C.
// @ts-check
import { connect } from "lmkd-client";

const domain = process.argv[2] ?? "system";
const client = await connect({ name: "watch-levels", wait: true });
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => client.close());

await client.subscribe(domain, { propagation: "hierarchy" });
for await (const event of client) {
  switch (event.type) {
    case "pressure":
      console.log(`${event.domain} ${event.level}${event.simulated ? " (simulated)" : ""}: ${event.reason}`);
      break;
    case "killed":
      console.log(`${event.domain}: ${event.name} (${event.pid}) was killed: ${event.reason}`);
      break;
    case "lost":
      console.log(event.error.message);
      break;
    case "refused":
      throw event.error;
    default:
  }
}
console.log("done");
