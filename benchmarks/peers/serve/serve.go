// Package serve contains the common parts of both peers: a listener, the line that names its port, values of new users.
package serve

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Run serves on a free port of 127.0.0.1 until SIGTERM.
func Run(name string, server *grpc.Server) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.Stop()
	}()
	fmt.Printf("%s listening on %s\n", name, listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

// StorePath returns the Unix socket of the store: the only argument of the program.
func StorePath() string {
	if len(os.Args) != 2 {
		log.Fatal("usage: PROGRAM PATH_OF_THE_STORES_SOCKET")
	}
	return os.Args[1]
}

// NewEtag returns a random etag of the same length as the etags of the service.
func NewEtag() string {
	var random [9]byte
	rand.Read(random[:]) // never returns an error
	return base64.RawURLEncoding.EncodeToString(random[:])
}

// ChunkSize returns the number of users in a chunk for the requested number.
func ChunkSize(requested int32) int64 {
	switch {
	case requested <= 0:
		return 100
	case requested > 10_000:
		return 10_000
	default:
		return int64(requested)
	}
}

// Now returns the time in microseconds, as the service stores it.
func Now() *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Truncate(time.Microsecond))
}
