package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// quiet holds three connections that ping and have nothing to say: one idle, one with a watch, one with a long poll. It prints what
// ended them as one line of JSON: {"idle": [...], "watch": [...], "poll": [...]}.
//
//	load quiet -addr HOST:PORT -ping 30s -for 150s -watch METHOD:HEX -poll METHOD:HEX
func quiet(arguments []string) {
	flags := flag.NewFlagSet("load quiet", flag.ExitOnError)
	addr := flags.String("addr", "", "HOST:PORT")
	ping := flags.Duration("ping", 30*time.Second, "how often each connection pings; gRPC for Go allows 10 s and more")
	lasts := flags.Duration("for", 150*time.Second, "how long")
	watch := flags.String("watch", "", "METHOD:HEX of a server stream that does not end by itself")
	poll := flags.String("poll", "", "METHOD:HEX of a unary call that waits; it is made again and again")
	_ = flags.Parse(arguments)

	ctx, cancel := context.WithTimeout(authorized(context.Background()), *lasts)
	defer cancel()
	found := map[string][]string{"idle": {}, "watch": {}, "poll": {}}
	var lock sync.Mutex
	var group sync.WaitGroup
	for kind, hold := range map[string]func(*grpc.ClientConn) error{
		"idle":  func(*grpc.ClientConn) error { <-ctx.Done(); return nil },
		"watch": func(conn *grpc.ClientConn) error { return watchOn(ctx, conn, *watch) },
		"poll":  func(conn *grpc.ClientConn) error { return pollOn(ctx, conn, *poll) },
	} {
		conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})), grpc.WithIdleTimeout(0),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: *ping, Timeout: 10 * time.Second, PermitWithoutStream: true}))
		exitIf(err)
		report := func(text string) { lock.Lock(); defer lock.Unlock(); found[kind] = append(found[kind], text) }
		group.Add(2)
		go func() { defer group.Done(); stay(ctx, conn, report) }()
		go func() {
			defer group.Done()
			if err := hold(conn); err != nil && ctx.Err() == nil {
				report(err.Error())
			}
		}()
	}
	group.Wait()
	exitIf(json.NewEncoder(os.Stdout).Encode(found))
}

// stay keeps a connection up and reports each time that it was lost after it had been ready.
func stay(ctx context.Context, conn *grpc.ClientConn, report func(string)) {
	wasReady, begun := false, time.Now()
	for state := conn.GetState(); ; state = conn.GetState() {
		if wasReady && state != connectivity.Ready {
			report(fmt.Sprintf("lost the connection after %.0f s", time.Since(begun).Seconds()))
		}
		wasReady = state == connectivity.Ready
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			if !wasReady {
				report("not connected at the end")
			}
			return
		}
	}
}

func watchOn(ctx context.Context, conn *grpc.ClientConn, what string) error {
	method, request := parts(what)
	opened, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err == nil {
		err = opened.SendMsg(&request)
	}
	if err == nil {
		err = opened.CloseSend()
	}
	for err == nil {
		var message []byte
		err = opened.RecvMsg(&message)
	}
	if err == io.EOF {
		return fmt.Errorf("the watch ended by itself")
	}
	return err
}

func pollOn(ctx context.Context, conn *grpc.ClientConn, what string) error {
	method, request := parts(what)
	for ctx.Err() == nil {
		var response []byte
		if err := conn.Invoke(ctx, method, &request, &response); err != nil {
			return err
		}
	}
	return nil
}

func parts(what string) (string, []byte) {
	method, text, _ := strings.Cut(what, ":")
	request, err := hex.DecodeString(text)
	exitIf(err)
	return method, request
}
