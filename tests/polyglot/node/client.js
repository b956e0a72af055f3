// A Node client of the contract: executes, watches until the session rests, reads the status. Prints what it saw as JSON.
//   node client.js HOST:PORT path/to/agent.proto PROMPT
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, proto, prompt] = process.argv.slice(2);
const definition = loader.loadSync(path.basename(proto), {
  keepCase: true,
  longs: String,
  enums: String,
  oneofs: true,
  arrays: true,
  includeDirs: [path.dirname(proto)],
});
const { agentservice } = grpc.loadPackageDefinition(definition);
const client = new agentservice.v1.AgentService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.AGENT_TOKEN}`);

const call = (method, request) =>
  new Promise((resolve, reject) =>
    client[method](request, metadata, { deadline: Date.now() + 60_000 }, (error, answer) => (error ? reject(error) : resolve(answer))),
  );

const watch = (request) =>
  new Promise((resolve, reject) => {
    const events = [];
    let end = null;
    const stream = client.WatchSession(request, metadata, { deadline: Date.now() + 60_000 });
    stream.on("data", (response) => {
      events.push(...response.events);
      end = response.end || end;
    });
    stream.on("error", reject);
    stream.on("end", () => resolve({ events, end }));
  });

async function main() {
  const started = await call("Execute", { prompt, options: { allowed_tools: ["Bash"] } });
  const { events, end } = await watch({ session_id: started.session_id, after_sequence: started.watch_after_sequence });
  const status = await call("GetStatus", { session_id: started.session_id });
  const refusal = await call("GetStatus", { session_id: "absent" }).catch((error) => error);
  const seen = {
    sequences: events.map((event) => Number(event.sequence)),
    types: events.map((event) => event.type),
    payloads: events.map((event) => event.payload),
    end: end.reason,
    state: status.state,
    result: status.result.result,
    refusal: { code: refusal.code, details: refusal.metadata.get("grpc-status-details-bin").length },
  };
  process.stdout.write(JSON.stringify(seen) + "\n");
  client.close();
}

main().catch((error) => {
  process.stderr.write(`${error.stack || error}\n`);
  process.exitCode = 1;
});
