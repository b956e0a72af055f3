package main

import (
	"context"
	"os"

	"google.golang.org/grpc/metadata"
)

// authorized has calls carry the token of the variable AGENT_TOKEN, if there is one.
func authorized(ctx context.Context) context.Context {
	if token := os.Getenv("AGENT_TOKEN"); token != "" {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx
}
