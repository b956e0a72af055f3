// Watches a session from its first event and allows the first thing it asks for, with another command.
// It knows nothing of the service but proto/agent.proto.
//
//   node approve.js ADDRESS PROTO SESSION_ID COMMAND
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, proto, sessionId, command] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, oneofs: true, defaults: true });
const { AgentService } = grpc.loadPackageDefinition(definition).agentservice.v1;
const client = new AgentService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.AGENT_TOKEN}`);

function allow(interaction) {
  const input = { ...JSON.parse(interaction.input_json), command };
  const answer = {
    session_id: sessionId,
    interaction_id: interaction.interaction_id,
    allow: { updated_input_json: JSON.stringify(input) },
  };
  client.RespondToInteraction(answer, metadata, (error, response) => {
    if (error) fail(error);
    else process.stdout.write(`${interaction.tool_name} ${response.interaction.state}\n`);
  });
}

function fail(error) {
  process.stderr.write(`${error}\n`);
  process.exit(1);
}

const watch = client.WatchSession({ session_id: sessionId }, metadata);
watch.on("data", (response) => {
  for (const event of response.events) {
    if (event.payload === "interaction_requested") allow(event.interaction_requested.interaction);
  }
  if (response.end) process.stdout.write(`${response.end.reason} ${response.end.session.state}\n`);
});
watch.on("error", fail);
watch.on("end", () => client.close());
