// Command plain is the User service that a Go engineer writes first: grpc-go, go-redis, a hash for each user, HGETALL,
// and messages of the generated code. Its store has the layout of benchmarks/baseline.
package main

import (
	"google.golang.org/grpc"

	"github.com/redis/go-redis/v9"

	pb "userservice.bench/peers/gen/userservice/v1"
	"userservice.bench/peers/serve"
)

const poolSize = 64 // as many connections as the load has concurrent calls, so that no call waits for one

func main() {
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: serve.StorePath(), PoolSize: poolSize})
	server := grpc.NewServer()
	pb.RegisterUserServiceServer(server, &users{redis: client})
	serve.Run("plain", server)
}
