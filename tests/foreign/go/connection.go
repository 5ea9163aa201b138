package main

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	userservicev1 "userservice.test/foreign/gen/userservice/v1"
)

// client is a connected stub that counts the connections it has used.
type client struct {
	userservicev1.UserServiceClient
	channel     *grpc.ClientConn
	connections atomic.Int32
}

func dial(address string) (*client, error) {
	made := &client{}
	channel, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// 10 s is the shortest interval that grpc-go allows, and a usual one.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithStatsHandler(made))
	if err != nil {
		return nil, err
	}
	made.channel = channel
	made.UserServiceClient = userservicev1.NewUserServiceClient(channel)
	return made, nil
}

func (c *client) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *client) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *client) HandleRPC(context.Context, stats.RPCStats)                         {}
func (c *client) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, begins := event.(*stats.ConnBegin); begins {
		c.connections.Add(1)
	}
}
