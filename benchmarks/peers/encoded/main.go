// Command encoded is the fastest User service in Go that keeps a hash of encoded records: reads send stored bytes and
// decode nothing (a raw codec), rueidis gathers the commands of concurrent calls into one write, a batch is one HMGET,
// and a stream fetches the next chunk while it sends the current one.
package main

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"runtime"
	"runtime/debug"

	"github.com/redis/rueidis"
	"google.golang.org/grpc"

	"userservice.bench/peers/serve"
)

const garbagePercent = 400 // fewer garbage collections, because the heap is small

func main() {
	debug.SetGCPercent(garbagePercent)
	path := serve.StorePath()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress:       []string{path},
		ForceSingleClient: true,
		DisableCache:      true,
		DialCtxFn: func(ctx context.Context, path string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.NumStreamWorkers(uint32(runtime.NumCPU())),
	)
	server.RegisterService(&service, &users{store: client})
	serve.Run("encoded", server)
}
