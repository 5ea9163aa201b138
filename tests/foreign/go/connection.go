package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
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
	options, err := callerOptions()
	if err != nil {
		return nil, err
	}
	channel, err := grpc.NewClient(address, append(options,
		// 10 s is the shortest interval that grpc-go allows, and a usual one.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithStatsHandler(made))...)
	if err != nil {
		return nil, err
	}
	made.channel = channel
	made.UserServiceClient = userservicev1.NewUserServiceClient(channel)
	return made, nil
}

// callerOptions returns TLS with the files in TLS_CA, TLS_CERT and TLS_KEY, and the token in TOKEN; without them, plain text.
func callerOptions() ([]grpc.DialOption, error) {
	if os.Getenv("TLS_CA") == "" {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	authority, err := os.ReadFile(os.Getenv("TLS_CA"))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(authority)
	if os.Getenv("TLS_CERT") != "" {
		pair, err := tls.LoadX509KeyPair(os.Getenv("TLS_CERT"), os.Getenv("TLS_KEY"))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if value := os.Getenv("TOKEN"); value != "" {
		options = append(options, grpc.WithPerRPCCredentials(token(value)))
	}
	return options, nil
}

// token is sent with each call.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return true }

func (c *client) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *client) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *client) HandleRPC(context.Context, stats.RPCStats)                         {}
func (c *client) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, begins := event.(*stats.ConnBegin); begins {
		c.connections.Add(1)
	}
}
