// Load for the benchmarks, from outside Python: calls and streams of raw bytes, counted and timed. Prints one line of JSON.
//
//	load unary  -addr HOST:PORT -method /agentservice.v1.AgentService/GetStatus -data HEX -workers 32 -channels 4 -seconds 3
//	load stream -addr HOST:PORT -method /agentservice.v1.AgentService/WatchSession -data HEX -streams 500 -channels 8 -events 2 -time 3
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (raw) Name() string                       { return "proto" }

type tally struct {
	Calls    int       `json:"calls"`
	Errors   int       `json:"errors"`
	Error    string    `json:"error,omitempty"`
	Messages int       `json:"messages"`
	Events   int       `json:"events"`
	Bytes    int       `json:"bytes"`
	Fewest   int       `json:"fewest_events"`
	Most     int       `json:"most_events"`
	Seconds  float64   `json:"seconds"`
	P50      float64   `json:"p50_ms"`
	P99      float64   `json:"p99_ms"`
	Max      float64   `json:"max_ms"`
	delays   []float64 // milliseconds
}

func (t *tally) add(o tally) {
	t.Calls += o.Calls
	t.Errors += o.Errors
	t.Messages += o.Messages
	t.Bytes += o.Bytes
	t.Events += o.Events
	if o.Error != "" {
		t.Error = o.Error
	}
	t.delays = append(t.delays, o.delays...)
}

func (t *tally) fail(err error) {
	t.Errors++
	t.Error = err.Error()
}

func main() {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	addr := flags.String("addr", "", "HOST:PORT")
	method := flags.String("method", "", "/package.Service/Method")
	data := flags.String("data", "", "the request's bytes in hex; several, separated by commas, are used in turn; @FILE reads them")
	workers := flags.Int("workers", 32, "calls at once")
	streams := flags.Int("streams", 1, "streams at once")
	channels := flags.Int("channels", 4, "connections")
	seconds := flags.Float64("seconds", 3, "how long calls are made, or the longest a stream is read")
	eventsField := flags.Int("events", 0, "field of a streamed message that holds events; 0: a message is an event")
	timeField := flags.Int("time", 0, "field of an event that holds the time it was made at; 0: none")
	procs := flags.Int("procs", 0, "cores to use at most; 0: all")
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "load unary|stream|quiet ...")
		os.Exit(2)
	}
	if os.Args[1] == "quiet" {
		quiet(os.Args[2:])
		return
	}
	_ = flags.Parse(os.Args[2:])
	if *procs > 0 {
		runtime.GOMAXPROCS(*procs)
	}
	if name, isFile := strings.CutPrefix(*data, "@"); isFile {
		content, err := os.ReadFile(name)
		exitIf(err)
		*data = string(content)
	}
	var requests [][]byte
	for _, text := range strings.Split(*data, ",") {
		request, err := hex.DecodeString(text)
		exitIf(err)
		requests = append(requests, request)
	}
	var conns []*grpc.ClientConn
	for range *channels {
		conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(64<<20)))
		exitIf(err)
		conns = append(conns, conn)
	}
	ctx, cancel := context.WithTimeout(authorized(context.Background()), time.Duration(*seconds*float64(time.Second)))
	defer cancel()
	count := *workers
	if os.Args[1] == "stream" {
		count = *streams
	}
	results := make([]tally, count)
	var group sync.WaitGroup
	begun := time.Now()
	var next atomic.Int64
	for i := range count {
		group.Add(1)
		go func() {
			defer group.Done()
			conn := conns[i%len(conns)]
			if os.Args[1] == "stream" {
				results[i] = stream(ctx, conn, *method, requests[i%len(requests)], *eventsField, *timeField)
			} else {
				results[i] = unary(ctx, conn, *method, requests, &next)
			}
		}()
	}
	group.Wait()
	var all tally
	all.Fewest = 1 << 60
	for _, one := range results {
		all.add(one)
		all.Fewest, all.Most = min(all.Fewest, one.Events), max(all.Most, one.Events)
	}
	all.Seconds = time.Since(begun).Seconds()
	if n := len(all.delays); n > 0 {
		slices.Sort(all.delays)
		all.P50, all.P99, all.Max = all.delays[n/2], all.delays[min(n-1, n*99/100)], all.delays[n-1]
	}
	exitIf(json.NewEncoder(os.Stdout).Encode(all))
}

func unary(ctx context.Context, conn *grpc.ClientConn, method string, requests [][]byte, next *atomic.Int64) tally {
	var t tally
	for ctx.Err() == nil {
		request := &requests[int(next.Add(1)-1)%len(requests)]
		var response []byte
		begun := time.Now()
		err := conn.Invoke(context.WithoutCancel(ctx), method, request, &response)
		if err != nil {
			t.fail(err)
			continue
		}
		t.Calls++
		t.Bytes += len(response)
		t.delays = append(t.delays, time.Since(begun).Seconds()*1e3)
	}
	return t
}

func stream(ctx context.Context, conn *grpc.ClientConn, method string, request []byte, eventsField, timeField int) tally {
	var t tally
	opened, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err == nil {
		err = opened.SendMsg(&request)
	}
	if err == nil {
		err = opened.CloseSend()
	}
	for err == nil {
		var message []byte
		if err = opened.RecvMsg(&message); err == nil {
			t.Messages++
			t.Bytes += len(message)
			t.take(message, eventsField, timeField)
		}
	}
	if err != io.EOF && ctx.Err() == nil {
		t.fail(err)
	}
	return t
}

// take counts the events of a message, and how old they are.
func (t *tally) take(message []byte, eventsField, timeField int) {
	if eventsField == 0 {
		t.Events++
		return
	}
	now := time.Now()
	each(message, eventsField, func(event []byte) {
		t.Events++
		each(event, timeField, func(stamp []byte) {
			var seconds, nanos uint64
			for len(stamp) > 0 {
				number, _, n := protowire.ConsumeTag(stamp)
				value, m := protowire.ConsumeVarint(stamp[n:])
				if number == 1 {
					seconds = value
				} else {
					nanos = value
				}
				stamp = stamp[n+m:]
			}
			t.delays = append(t.delays, now.Sub(time.Unix(int64(seconds), int64(nanos))).Seconds()*1e3)
		})
	})
}

// each calls back with every occurrence of a length-delimited field.
func each(message []byte, wanted int, found func([]byte)) {
	for len(message) > 0 && wanted > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return
		}
		m := protowire.ConsumeFieldValue(number, kind, message[n:])
		if m < 0 {
			return
		}
		if int(number) == wanted && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message[n:])
			found(value)
		}
		message = message[n+m:]
	}
}

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
