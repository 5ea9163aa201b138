// Reads and writes users with a client that protoc generated.
//
// Usage: go run . [ADDRESS]
//
// USERSERVICE_CA, a file with certificate authorities, selects TLS; USERSERVICE_TOKEN is a key or a JWT.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	pb "userservice-example/userservice/v1"
)

// A batch of 1000 users can have 68 MiB; the default limit is 4 MiB.
const maxMessageBytes = 68 << 20

// Retries of UNAVAILABLE, which the service sends when its store or itself restarts. Writes carry a request_id, so that a
// retried write is applied once.
const retryPolicy = `{"methodConfig": [{
	"name": [{"service": "userservice.v1.UserService"}, {"service": "userservice.v1.SessionService"}],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

func main() {
	address := "localhost:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	options, err := callerOptions(os.Getenv("USERSERVICE_CA"), os.Getenv("USERSERVICE_TOKEN"))
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(address, append(options,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithDefaultServiceConfig(retryPolicy),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)...)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	if err := run(pb.NewUserServiceClient(connection)); err != nil {
		log.Fatal(err)
	}
}

// callerOptions returns TLS with the certificate authorities of a file, or plain text, and sends a token with each call.
func callerOptions(authorities, bearer string) ([]grpc.DialOption, error) {
	transport := insecure.NewCredentials()
	if authorities != "" {
		var err error
		if transport, err = credentials.NewClientTLSFromFile(authorities, ""); err != nil {
			return nil, err
		}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if bearer != "" {
		options = append(options, grpc.WithPerRPCCredentials(token(bearer)))
	}
	return options, nil
}

// token is a key or a JWT. grpc refuses to send it without TLS.
type token string

// GetRequestMetadata returns the header of each call.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity returns that the token is sent only with TLS.
func (token) RequireTransportSecurity() bool { return true }

func run(users pb.UserServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	metadata, err := structpb.NewStruct(map[string]any{"plan": "pro"})
	if err != nil {
		return err
	}
	added, err := users.AddUser(ctx, &pb.AddUserRequest{
		UserId: "go-example", Metadata: metadata, RequestId: uuid.NewString(),
	})
	if err != nil {
		return err
	}
	fmt.Println("added", added.GetUser().GetUserId(), added.GetUser().GetMetadata().AsMap())

	_, err = users.GetUser(ctx, &pb.GetUserRequest{UserId: "nobody"})
	fmt.Println("get nobody:", reason(err))

	count, err := countUsers(users)
	if err != nil {
		return err
	}
	fmt.Println("streamed", count, "users")
	_, err = users.DeleteUser(ctx, &pb.DeleteUserRequest{UserId: "go-example", RequestId: uuid.NewString()})
	return err
}

// reason returns the error reason of the service, or an empty string.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "userservice" {
			return info.GetReason()
		}
	}
	return ""
}

// countUsers reads all users. When the stream ends early with UNAVAILABLE, it continues after the last chunk.
func countUsers(users pb.UserServiceClient) (int, error) {
	count, cursor := 0, int64(0)
	for attempt := 0; attempt < 10; attempt++ {
		read, next, err := readChunks(users, cursor)
		count += read
		if err == nil {
			return count, nil
		}
		if status.Code(err) != codes.Unavailable {
			return count, err
		}
		if read > 0 {
			attempt = 0
		}
		cursor = next
		time.Sleep(200 * time.Millisecond)
	}
	return count, errors.New("the service stayed unavailable")
}

// readChunks reads from a cursor to the end, and returns the number of users and the cursor after the last whole chunk.
func readChunks(users pb.UserServiceClient, cursor int64) (count int, next int64, err error) {
	// Cancelling the context ends the stream if this function returns early.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := users.ListUsersChunked(ctx, &pb.ListUsersChunkedRequest{ChunkSize: 1000, Cursor: cursor}, grpc.WaitForReady(true))
	if err != nil {
		return 0, cursor, err
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return count, 0, nil
		}
		if err != nil {
			return count, cursor, err
		}
		count += len(chunk.GetUsers())
		cursor = chunk.GetNextCursor()
		if cursor == 0 { // the last chunk
			return count, 0, nil
		}
	}
}
